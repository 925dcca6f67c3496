"""Lines that terraform printed in parts are found whole, and none that is not there."""

from __future__ import annotations

import re

import pytest

from tests.support import printed

WHOLE = re.compile(r"line (\d+) of it\.")


def numbers(log: str) -> list[tuple[str, int]]:
    return [(resource, int(found[1])) for resource, found in printed.lines(log, WHOLE)]


def test_a_line_in_parts_is_one() -> None:
    log = (
        'terraform_data.a (local-exec): Executing: ["/bin/sh"]\n'
        "terraform_data.a (local-exec): line 1 of it.\n"
        "terraform_data.a (local-exec): li\n"
        "terraform_data.b (local-exec): line 1 of it.\n"
        "terraform_data.a: Still creating... [10s elapsed]\n"
        "terraform_data.a (local-exec): ne 2 of it\n"
        "terraform_data.a (local-exec): .\n"
    )
    assert numbers(log) == [("terraform_data.a", 1), ("terraform_data.b", 1), ("terraform_data.a", 2)]


def test_a_line_of_which_a_part_is_missing_is_none() -> None:
    log = "x (local-exec): li\nx (local-exec): 2 of it.\nx (local-exec): line 3 of it.\n"
    assert numbers(log) == [("x", 3)]


@pytest.mark.parametrize(
    "parts",
    [
        ("printed line 2,", "as fast as it goes"),
        ("printed", "line 2, as fast", "as it goes"),
        ("", "printed line 2, as fast as it goes"),
        ("printed line 2, as fast as it goes", ""),
        ("print", "ed line 2, as fast", " as it goes"),
    ],
)
def test_a_part_comes_without_the_space_at_its_end(parts: tuple[str, ...]) -> None:
    whole = ("printed line 1, as fast as it goes", *parts, "printed line 3, as fast as it goes")
    log = "\n".join(f"terraform_data.it (local-exec): {text}" for text in whole)
    found = printed.lines(log, re.compile(r"printed line (\d+), as fast as it goes"))
    assert [match[1] for _, match in found] == ["1", "2", "3"]
