"""What `make bench` says of what it measured."""

from __future__ import annotations

import json

import pytest

from bench import document
from bench.figures import Figure, pair_ratios, quantile, spread, table


def test_a_figure_is_met_at_its_target_and_missed_beyond_it() -> None:
    assert Figure("1a", "a ratio", 1.03, "×", 1.03).met is True
    assert Figure("1a", "a ratio", 1.031, "×", 1.03).met is False
    assert Figure("3d", "a rate", 20, "MB/s", 20, at_least=True).met is True
    assert Figure("3d", "a rate", 19.9, "MB/s", 20, at_least=True).met is False
    assert Figure("5d", "only told", 7, "").met is None


def test_its_line_is_json() -> None:
    line = Figure("3d", "a rate", 123.456, "MB/s", 20, at_least=True, n=3, spread="1 to 2", detail={"x": 1}).line()
    assert "\n" not in line
    assert json.loads(line) == {
        "figure": "3d", "what": "a rate", "value": 123, "unit": "MB/s", "target": "≥ 20", "met": True, "n": 3,
        "spread": "1 to 2", "detail": {"x": 1},
    }  # fmt: skip


def test_the_table_has_a_row_for_each_and_marks_what_is_missed() -> None:
    rows = table([Figure("a", "met", 0.5, "s", 1), Figure("b", "missed", 2, "s", 1), Figure("c", "told", 3, "")])
    assert rows.splitlines()[2:] == [
        "| a | met | 0.5 s | ≤ 1 | met | 1 |  |",
        "| b | missed | 2 s | ≤ 1 | **missed** | 1 |  |",
        "| c | told | 3 |  |  | 1 |  |",
    ]


@pytest.mark.parametrize(("share", "value"), [(0.5, 10), (0.95, 19), (1, 20), (0.01, 1)])
def test_a_quantile_is_one_of_the_values(share: float, value: int) -> None:
    assert quantile(list(range(20, 0, -1)), share) == value


def test_a_slow_moment_of_the_machine_cancels_out_in_a_pair() -> None:
    assert pair_ratios([1, 10, 1], [2, 20, 2]) == [0.5, 0.5, 0.5]
    assert spread([3, 1, 2]) == "1 to 3"


def test_the_document_keeps_what_stands_around_the_table() -> None:
    text = f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n"
    once = document.between(text, "new\n")
    assert once == f"before\n{document.BEGIN}\nnew\n{document.END}\nafter\n"
    assert document.between(once, "newer\n") == once.replace("new", "newer")
    with pytest.raises(ValueError, match="lacks the lines"):
        document.between("nothing", "new\n")


def test_the_real_document_has_the_marker_lines() -> None:
    assert "new\n" in document.between(document.PATH.read_text(), "new\n")


def test_the_machine_is_told_without_its_name_or_a_path() -> None:
    import socket

    said = document.machine()
    assert "cores" in said and "Python 3" in said and "Terraform v" in said
    assert "/" not in said and socket.gethostname() not in said
