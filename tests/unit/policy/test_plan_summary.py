"""What a plan's page may show of `terraform show -json`."""

from __future__ import annotations

from typing import Any

import pytest

from policy.plan_summary import Counts, Summary, summarize

Json = Any
HIDDEN, LATER = "(sensitive value)", "(known after apply)"


def plan(*changes: dict[str, Json], outputs: dict[str, Json] | None = None) -> dict[str, Json]:
    """A parsed plan with these changes as resources x.a0, x.a1 …"""
    resources = [{"address": f"x.a{index}", "change": change} for index, change in enumerate(changes)]
    return {"format_version": "1.2", "resource_changes": resources, "output_changes": outputs or {}}


def update(before: Json, after: Json, **more: Json) -> dict[str, Json]:
    """An update in place."""
    return {"actions": ["update"], "before": before, "after": after, **more}


def listed(change: dict[str, Json]) -> list[tuple[str, str, str | None, str | None]]:
    """The attributes of the one resource of a plan."""
    (resource,) = summarize(plan(change)).resources
    return [(found.path, found.op, found.before, found.after) for found in resource.attributes]


@pytest.mark.parametrize(
    ("actions", "op", "symbol", "label"),
    [
        (["create"], "create", "+", "create"),
        (["update"], "update", "~", "update in place"),
        (["delete"], "delete", "-", "destroy"),
        (["delete", "create"], "replace", "-/+", "replace"),
        (["create", "delete"], "replace", "+/-", "replace"),
        (["read"], "read", "<=", "read"),
        (["forget"], "forget", ".", "forget"),
        (["teleport"], "other", "?", "other"),
        ([], "other", "?", "other"),
    ],
)
def test_every_operation_has_its_sign_and_words(actions: list[str], op: str, symbol: str, label: str) -> None:
    (resource,) = summarize(plan({"actions": actions, "before": None, "after": None})).resources
    assert (resource.op, resource.symbol, resource.label) == (op, symbol, label)


def test_counts_are_terraforms() -> None:
    actions = [
        ["create"],
        ["delete", "create"],
        ["create", "delete"],
        ["update"],
        ["delete"],
        ["read"],
        ["no-op"],
    ]
    changes = [{"actions": action, "before": {}, "after": {}} for action in actions]
    changes.append({"actions": ["no-op"], "before": {}, "after": {}, "importing": {"id": "i-1"}})
    changes.append({"actions": ["create", "forget"], "before": {}, "after": {}})
    summary = summarize(plan(*changes))
    assert summary.counts == Counts(add=4, change=1, destroy=3, imported=1, forgotten=1)
    assert len(summary.resources) == 8, "a resource without a change is left out"
    assert summary.resources[-2].op == "import" and summary.resources[-2].imported


def test_a_move_is_shown() -> None:
    entry = {
        "address": "x.b",
        "previous_address": "x.a",
        "change": {"actions": ["no-op"], "before": {}, "after": {}},
    }
    (resource,) = summarize({"resource_changes": [entry]}).resources
    assert (resource.op, resource.moved_from) == ("move", "x.a")


def test_a_create_lists_what_has_a_value_or_will_have() -> None:
    change = {
        "actions": ["create"],
        "before": None,
        "after": {"name": "a\nb", "none": None, "tags": {"Name": "x", "n": 1}, "list": [True, None]},
        "after_unknown": {"id": True, "list": [False, True]},
    }
    assert listed(change) == [
        ("id", "+", None, LATER),
        ("list", "+", None, f"[true, {LATER}]"),
        ("name", "+", None, '"a\\nb"'),
        ("tags", "+", None, '{ "Name" = "x", "n" = 1 }'),
    ]


def test_a_destroy_lists_what_goes() -> None:
    change = {"actions": ["delete"], "before": {"id": "i", "none": None}, "after": None, "after_unknown": {}}
    assert listed(change) == [("id", "-", '"i"', None)]


def test_an_update_lists_what_differs_and_counts_the_rest() -> None:
    change = update(
        {
            "id": "i",
            "same": [1],
            "none": None,
            "tags": {"a b": "1", "k": "2"},
            "list": [{"x": 1}, {"x": 2}],
            "gone": "g",
        },
        {
            "id": "i",
            "same": [1],
            "none": None,
            "tags": {"k": "3", "new": "4"},
            "list": [{"x": 1}, {"x": 5}],
            "grown": [1],
        },
        after_unknown={"etag": True},
    )
    assert listed(change) == [
        ("etag", "+", None, LATER),
        ("gone", "-", '"g"', None),
        ("grown", "+", None, "[1]"),
        ("list[1].x", "~", "2", "5"),
        ('tags["a b"]', "-", '"1"', None),
        ("tags.k", "~", '"2"', '"3"'),
        ("tags.new", "+", None, '"4"'),
    ]
    (resource,) = summarize(plan(change)).resources
    assert resource.unchanged == 2 and resource.unchanged_text == "(2 unchanged attributes)"


def test_the_attribute_that_forces_a_replacement_is_marked() -> None:
    change = {
        "actions": ["delete", "create"],
        "before": {"ami": "a", "tags": {"x": "1"}},
        "after": {"ami": "b", "tags": {"x": "2"}},
        "replace_paths": [["ami"]],
    }
    (resource,) = summarize(plan(change)).resources
    assert [(found.path, found.forces_replacement) for found in resource.attributes] == [
        ("ami", True),
        ("tags.x", False),
    ]


@pytest.mark.parametrize(
    ("before_mask", "after_mask"),
    [
        ({"p": True}, {"p": True}),
        ({}, {"p": True}),
        ({"p": True}, {}),
        (True, {}),
        (False, True),
        ({"p": {"x": True}}, {}),  # a mask of another shape than the value
        ([True], {}),
    ],
)
def test_hidden_on_one_side_is_hidden_on_both(before_mask: Json, after_mask: Json) -> None:
    change = update({"p": "§1"}, {"p": "§2"}, before_sensitive=before_mask, after_sensitive=after_mask)
    ((_, op, before, after),) = listed(change)
    assert (op, before, after) == ("~", HIDDEN, HIDDEN)


def test_elements_that_move_do_not_show_at_their_old_place() -> None:
    change = update({"l": ["x", "§1"]}, {"l": ["§1", "x"]}, after_sensitive={"l": [True, False]})
    assert listed(change) == [("l", "~", HIDDEN, HIDDEN)]
    change = update({"l": ["x", "§1"]}, {"l": ["§1"]}, after_sensitive={"l": [True]})
    assert listed(change) == [("l", "~", HIDDEN, HIDDEN)]


def test_a_secret_is_hidden_where_a_provider_copied_it() -> None:
    change = update(
        {"input": "old-password", "output": "old-password", "url": "db"},
        {"input": "new-password", "url": "new-password"},
        before_sensitive={"input": True},
        after_sensitive={"input": True},
        after_unknown={"output": True},
    )
    assert listed(change) == [
        ("input", "~", HIDDEN, HIDDEN),
        ("output", "~", HIDDEN, LATER),
        ("url", "~", '"db"', HIDDEN),
    ]


def test_outputs_are_listed_and_masked() -> None:
    outputs = {
        "b": {
            "actions": ["create"],
            "before": None,
            "after": "§1",
            "before_sensitive": False,
            "after_sensitive": True,
        },
        "a": update("x", {"k": 1}, after_unknown=False),
        "c": {"actions": ["no-op"], "before": 1, "after": 1},
        "d": {"actions": ["create"], "before": None, "after_unknown": True},
        "e": {"actions": ["delete"], "before": "§2", "after": None, "before_sensitive": True},
    }
    summary = summarize(plan(outputs=outputs))
    assert [(found.name, found.symbol, found.before, found.after) for found in summary.outputs] == [
        ("a", "~", '"x"', '{ "k" = 1 }'),
        ("b", "+", None, HIDDEN),
        ("d", "+", None, LATER),
        ("e", "-", HIDDEN, None),
    ]
    assert summary.counts == Counts(outputs_changed=True)


def test_long_values_are_cut_and_say_so() -> None:
    ((_, _, _, after),) = listed({"actions": ["create"], "before": None, "after": {"x": "y" * 3000}})
    assert after is not None and after.endswith("y… (3,002 characters)") and len(after) < 2100


def test_very_deep_values_do_no_harm() -> None:
    deep: Json = "§1"
    for _ in range(300):
        deep = [deep]
    assert "nested too deep" in str(listed({"actions": ["create"], "before": None, "after": {"x": deep}}))


@pytest.mark.parametrize("data", [{}, {"format": 2}, {"format": 1}, {"format": 1, "counts": {"x": 1}}])
def test_what_is_not_a_summary_is_not_read(data: dict[str, Json]) -> None:
    with pytest.raises(ValueError, match="not a plan summary"):
        Summary.from_json(data)
