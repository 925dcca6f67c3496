"""Two states compared: what is told, and that nothing secret ever is."""

from __future__ import annotations

import copy
import json
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import state_diff, state_file
from tests.unit.policy.test_state_file import resource, state

CONFIGURATION = """
variable "secret" {
  type      = string
  sensitive = true
}
variable "size" {
  type = number
}
resource "terraform_data" "it" {
  for_each = toset(["a b"])
  input = { size = var.size, deep = [{ of = var.secret }], plain = "shown" }
}
resource "terraform_data" "copy" {
  input = nonsensitive("https://${var.secret}.example.com")
}
output "hidden" {
  value     = var.secret
  sensitive = true
}
output "shown" {
  value = var.size
}
"""


def compared(before: dict[str, Any] | None, after: dict[str, Any]) -> Any:
    return state_diff.compare(before, after)


def lines(diff: state_diff.StateDiff) -> list[str]:
    """As a page has it."""
    found = [f"{r.symbol} {r.address} {r.label}" for r in diff.resources]
    found += [f"{a.op} {a.path} {a.before} {a.after}" for r in diff.resources for a in r.attributes]
    return found + [f"{o.symbol} {o.name} {o.before} {o.after}" for o in diff.outputs]


def one(**attributes: Any) -> dict[str, Any]:
    return state(resource("it", {"attributes": attributes}))


def test_added_changed_removed_and_left_over() -> None:
    before = state(resource("kept", {"attributes": {"tags": {"Name": "a"}}}), resource("gone"))
    after = state(
        resource("kept", {"attributes": {"tags": {"Name": "b"}}}),
        resource("new", {"index_key": "x"}, {"deposed": "1f"}),
    )
    diff = compared(before, after)
    assert lines(diff)[:4] == [
        "- aws_subnet.gone removed",
        "~ aws_subnet.kept changed",
        "+ aws_subnet.new (deposed 1f) added",
        '+ aws_subnet.new["x"] added',
    ]
    assert '~ tags.Name "a" "b"' in lines(diff)
    assert diff.resources[2].deposed
    assert diff.counts == {"add": 2, "change": 1, "destroy": 1}


def test_a_taint_and_marks_are_told() -> None:
    before = one(a="b")
    after = copy.deepcopy(before)
    after["resources"][0]["instances"][0]["status"] = "tainted"
    assert compared(before, after).resources[0].label == "changed, tainted"
    assert compared(after, before).resources[0].label == "changed, no longer tainted"
    marked = copy.deepcopy(before)
    marked["resources"][0]["instances"][0]["sensitive_attributes"] = [[{"type": "get_attr", "value": "a"}]]
    assert compared(before, marked).resources[0].label == "marked differently as sensitive"
    assert compared(before, before).nothing


@pytest.mark.parametrize(
    "attributes",
    [
        {"password": "hunter2"},
        {"master_password": 1234567},
        {"deep": [{"client_secret": "hunter2"}]},
        {"environment": {"DB_PASSWORD": "hunter2"}},
        {"environment": [{"name": "API_TOKEN", "value": "hunter2"}]},
        {"privateKey": "hunter2"},
        {"key": "-----BEGIN RSA PRIVATE KEY-----\nhunter2"},
        {"url": "postgres://al:hunter2@db/x"},
        {"body": '{"a": {"db_password": "hunter2"}}'},
        {"body": '"{\\"token\\": \\"hunter2\\"}"'},
        {"user_data": "hunter2"},
    ],
    ids=str,
)
def test_what_looks_like_a_secret_is_hidden(attributes: dict[str, Any]) -> None:
    other = json.loads(json.dumps(attributes).replace("hunter2", "another9").replace("1234567", "7654321"))
    for before, after in ((None, one(**attributes)), (one(**attributes), one(**other)), (one(**attributes), state())):
        text = "\n".join(lines(compared(before, after)))
        assert "(sensitive value)" in text
        assert not any(word in text for word in ("hunter2", "another9", "1234567", "7654321"))


def test_what_only_speaks_of_secrets_is_shown() -> None:
    attributes = {"secret_arn": "arn:x", "password_length": 12, "token_enabled": True, "key_name": "a", "secret": None}
    text = "\n".join(lines(compared(None, one(**attributes))))
    assert "(sensitive value)" not in text
    assert all(word in text for word in ("arn:x", "12", "true"))


def test_a_path_that_leads_nowhere_hides_what_it_reached() -> None:
    after = one(a={"b": "hunter22", "c": "hunter22"}, d="shown")
    path = [{"type": "get_attr", "value": "a"}, {"type": "get_attr", "value": "new"}]
    after["resources"][0]["instances"][0]["sensitive_attributes"] = [path]
    text = "\n".join(lines(compared(None, after)))
    assert "hunter22" not in text
    assert "shown" in text


@pytest.mark.terraform
def test_real_states_of_terraform(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(CONFIGURATION)

    def apply(secret: str, size: int) -> dict[str, Any]:
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), "TF_VAR_secret": secret}
        env |= {"TF_VAR_size": str(size), "CHECKPOINT_DISABLE": "1"}
        for command in (["init"], ["apply", "-auto-approve"]):
            subprocess.run(["terraform", *command], cwd=tmp_path, env=env, check=True, capture_output=True)
        return state_file.parse((tmp_path / "terraform.tfstate").read_bytes())

    first, second = apply("the-first-secret", 1), apply("another-secret", 2)
    diff = compared(first, second)
    told = lines(diff)
    assert '~ terraform_data.it["a b"] changed' in told
    assert "~ input.size 1 2" in told
    assert "~ input.deep[0].of (sensitive value) (sensitive value)" in told
    assert "~ input (sensitive value) (sensitive value)" in told  # the copy
    assert "~ hidden (sensitive value) (sensitive value)" in told
    assert "~ shown 1 2" in told
    assert "secret" not in "\n".join(told).replace("(sensitive value)", "")
    assert "secret" not in "\n".join(lines(compared(None, first)))
    assert diff.counts == {"add": 0, "change": 2, "destroy": 0}


# -- nothing masked is ever told ---------------------------------------------------------------------------------------

#: No other text that a page could hold is like these.
SECRETS = st.text(string.ascii_uppercase, min_size=8, max_size=12).map(lambda text: f"XQ{text}QX")
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.sampled_from(["a", "b", "eu-west-1"]))
NAMES = st.sampled_from(["id", "tags", "value", "type", "list", "Name"])


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


def path_to(draw: Any, value: Any) -> tuple[list[dict[str, Any]], Any]:
    """Somewhere in the value, as terraform writes a path, and what stands there."""
    path: list[dict[str, Any]] = []
    while isinstance(value, dict | list) and value and (not path or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        if isinstance(value, list):
            path.append({"type": "index", "value": {"value": key, "type": "number"}})
        elif path and draw(st.booleans()):
            path.append({"type": "index", "value": {"value": key, "type": "string"}})
        else:
            path.append({"type": "get_attr", "value": key})
        value = value[key]
    return path, value


def strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in strings(part)]
    return [value] if isinstance(value, str) and value.startswith("XQ") else []


@st.composite
def states(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A state, and the texts in it that are marked; copies of them stand elsewhere, alone and inside other texts."""
    attributes = draw(st.dictionaries(NAMES, nested(st.one_of(PLAIN, SECRETS)), min_size=1, max_size=4))
    path, found = path_to(draw, attributes)
    hidden = strings(found)
    named = draw(SECRETS)
    instance = {"attributes": attributes | {"db_password": named}, "sensitive_attributes": [path]}
    output = draw(nested(st.one_of(PLAIN, SECRETS)))
    copies = [draw(st.sampled_from([secret, f"https://{secret}/", f'a "{secret}"\n'])) for secret in hidden]
    other = {"attributes": {"id": copies, "tags": dict.fromkeys(copies, "b")}}
    made = state(
        resource("it", instance), resource("copy", other),
        outputs={"o": {"value": output, "type": "dynamic", "sensitive": True}},
    )  # fmt: skip
    return made, [*hidden, named, *strings(output)]


@given(states(), states())
def test_no_masked_value_is_ever_told(
    one: tuple[dict[str, Any], list[str]], other: tuple[dict[str, Any], list[str]]
) -> None:
    nothing: tuple[dict[str, Any], list[str]] = (state(), [])
    for before, after in ((one, other), (nothing, one), (one, nothing)):
        text = repr(compared(before[0], after[0]))
        assert not [secret for secret in {*before[1], *after[1]} if secret in text]
