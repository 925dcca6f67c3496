"""Reading terraform's state file, and writing the same one with another number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import state_file
from policy.state_file import NotAState


def state(*resources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": 4, "serial": 7, "lineage": "8a2f", "resources": list(resources)} | more


def resource(name: str = "it", *instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"mode": "managed", "type": "aws_subnet", "name": name, "instances": list(instances) or [{}]} | more


def addresses(found: dict[str, Any]) -> list[str]:
    return [one.address for one in state_file.instances(found)]


def test_addresses_are_those_that_terraform_prints() -> None:
    found = state(
        resource("one"),
        resource("many", {"index_key": 0}, {"index_key": 'a"b'}, {"deposed": "00ff"}, module='module.net["eu"]'),
        resource("zone", mode="data"),
    )
    assert addresses(found) == [
        "aws_subnet.one",
        'module.net["eu"].aws_subnet.many[0]',
        'module.net["eu"].aws_subnet.many["a\\"b"]',
        'module.net["eu"].aws_subnet.many (deposed 00ff)',
        "data.aws_subnet.zone",
    ]


def test_counts_are_of_managed_instances() -> None:
    one = state(resource("kept", {"attributes": {"a": 1}}), resource("gone"), resource("zone", mode="data"))
    other = state(resource("kept", {"attributes": {"a": 2}}), resource("new"), resource("new2"))
    counted = state_file.counts(state_file.digests(one), state_file.digests(other))
    assert counted == {"add": 2, "change": 1, "destroy": 1}
    tainted = state(resource("kept", {"attributes": {"a": 1}, "status": "tainted"}))
    assert state_file.counts(state_file.digests(one), state_file.digests(tainted))["change"] == 1


@given(st.integers(0, 2**62), st.text(max_size=20), st.sampled_from([None, 0, 2, "\t"]), st.booleans())
def test_only_the_number_changes(serial: int, text: str, indent: Any, last: bool) -> None:
    exact = '"exact": 0.10000000000000000555111512312578270211815834045410156251'
    tricky = {"serial": 3, "lineage": "inner", "text": text, "quoted": '"serial": 5, {'}
    found = {"outputs": {"a": {"value": tricky}}} if last else {}
    found |= state(check_results=None) | ({} if last else {"outputs": {"a": {"value": tricky}}})
    content = json.dumps(found, indent=indent).replace('"check_results": null', exact)
    written = state_file.renumbered(content.encode(), serial, "new").decode()
    assert exact in written
    expected = json.loads(content) | {"serial": serial, "lineage": "new"}
    assert json.loads(written) == expected
    assert list(json.loads(written)) == list(expected)


def test_what_has_no_number_cannot_get_one() -> None:
    for content in (b"{}", b'{"serial": 1}'):
        with pytest.raises(NotAState):
            state_file.renumbered(content, 1, "a")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32", "utf-16-le", "latin-1"])
def test_only_what_terraform_reads_is_a_state(encoding: str) -> None:
    """PowerShell's `>` writes UTF-16 with a byte order mark, its Out-File the mark alone."""
    content = json.dumps(state(outputs={"a": {"value": "é"}}), ensure_ascii=False).encode(encoding)
    for read in (state_file.parse, lambda content: state_file.renumbered(content, 8, "8a2f")):
        with pytest.raises(NotAState, match="UTF-8 without a byte order mark"):
            read(content)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_no_number_that_json_does_not_have(word: str) -> None:
    content = json.dumps(state(outputs={"a": {"value": 1}})).replace("1}", f"{word}}}").encode()
    with pytest.raises(NotAState, match="no JSON"):
        state_file.parse(content)


def test_an_encrypted_state_says_so() -> None:
    with pytest.raises(NotAState, match="encrypted"):
        state_file.parse(b'{"serial": 1, "lineage": "a", "encrypted_data": "xx", "version": 4}')
