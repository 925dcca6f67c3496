"""No sensitive value of a plan reaches its summary: arbitrary masks, and real terraform."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.plan_summary import Counts, Summary, counts_from_log, summarize

Json = Any

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("ab", max_size=3))
SECRETS = st.integers(0, 9).map(lambda number: f"§{number}")  # too short to be hidden for its text alone


def _mapping(parts: dict[str, tuple[Json, Json]]) -> tuple[Json, Json]:
    return {key: part[0] for key, part in parts.items()}, {key: part[1] for key, part in parts.items() if part[1]}


def _sequence(parts: list[tuple[Json, Json]]) -> tuple[Json, Json]:
    return [part[0] for part in parts], [part[1] for part in parts]


def _whole(part: tuple[Json, Json]) -> tuple[Json, Json]:
    return part[0], True


MASKED = st.recursive(
    st.one_of(PLAIN.map(lambda value: (value, False)), SECRETS.map(lambda value: (value, True))),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abcd"), inner, max_size=4).map(_mapping),
        st.lists(inner, max_size=3).map(_sequence),
        inner.map(_whole),
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abcde"), MASKED, max_size=5).map(_mapping)
ACTIONS = st.sampled_from([["create"], ["update"], ["delete"], ["delete", "create"], ["read"], ["no-op"]])
UNKNOWN = st.recursive(
    st.booleans(),
    lambda inner: st.one_of(st.dictionaries(st.sampled_from("abcde"), inner, max_size=3), st.lists(inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(OBJECTS, OBJECTS, ACTIONS, UNKNOWN, st.tuples(MASKED, MASKED))
def test_no_sensitive_leaf_is_ever_in_a_summary(
    before: tuple[Json, Json],
    after: tuple[Json, Json],
    actions: list[str],
    unknown: Json,
    output: tuple[tuple[Json, Json], tuple[Json, Json]],
) -> None:
    def change(one: tuple[Json, Json], other: tuple[Json, Json]) -> dict[str, Json]:
        return {
            "actions": actions, "after_unknown": unknown,
            "before": one[0], "before_sensitive": one[1], "after": other[0], "after_sensitive": other[1],
        }  # fmt: skip

    summary = summarize(
        {
            "resource_changes": [{"address": "x.a", "change": change(before, after)}],
            "output_changes": {"o": change(*output)},
        }
    )
    stored = json.dumps(summary.to_json(), ensure_ascii=False)
    assert "§" not in stored
    assert Summary.from_json(json.loads(stored)) == summary


CONFIGURATION = """
variable "password" {
  sensitive = true
  default   = "%(secret)s"
}
resource "terraform_data" "one" { input = var.password }
resource "terraform_data" "two" {
  input            = { numbers = [1, %(number)d, { x = "y" }], secret = var.password }
  triggers_replace = "%(number)d"
}
output "plain" { value = "%(number)d" }
output "hidden" {
  value     = var.password
  sensitive = true
}
"""


def terraform(folder: Path, *arguments: str) -> str:
    """Run terraform in a folder, with an environment of its own, and give its output."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TF_CLI_CONFIG_FILE": os.devnull,
        "CHECKPOINT_DISABLE": "1",
    }
    done = subprocess.run(
        ["terraform", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.terraform
def test_a_real_plan_is_summarized_without_its_secrets(tmp_path: Path) -> None:
    main = tmp_path / "main.tf"
    main.write_text(CONFIGURATION % {"secret": "§1", "number": 2})
    terraform(tmp_path, "init", "-input=false")
    created = terraform(tmp_path, "plan", "-out=plan")
    first = summarize(json.loads(terraform(tmp_path, "show", "-json", "plan")))
    assert first.counts == counts_from_log(created) == Counts(add=2, outputs_changed=True)
    assert [resource.op for resource in first.resources] == ["create", "create"]
    assert counts_from_log(terraform(tmp_path, "apply", "plan")) == Counts(add=2)

    main.write_text(CONFIGURATION % {"secret": "another-password", "number": 3})
    changed = terraform(tmp_path, "plan", "-out=plan")
    second = summarize(json.loads(terraform(tmp_path, "show", "-json", "plan")))
    assert second.counts == counts_from_log(changed) == Counts(add=1, change=1, destroy=1, outputs_changed=True)
    one, two = second.resources
    assert (one.attributes[0].path, one.attributes[0].before) == ("input", "(sensitive value)")
    assert "input.numbers[1]" in [found.path for found in two.attributes]
    assert [found.path for found in two.attributes if found.forces_replacement] == ["triggers_replace"]
    assert "another-password" not in json.dumps([first.to_json(), second.to_json()])

    terraform(tmp_path, "apply", "plan")
    nothing = terraform(tmp_path, "plan", "-out=plan")
    third = summarize(json.loads(terraform(tmp_path, "show", "-json", "plan")))
    assert third == Summary(Counts()) and counts_from_log(nothing) == Counts()
