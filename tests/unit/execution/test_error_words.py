"""The sentence of an error, which is made of terraform's last words, holds no secret."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from policy.mfa import PhaseKind
from services.execution import job
from services.execution.follow import Outcome
from services.execution.redact import HideAll, Redactor
from services.execution.work import PhaseFailed, Work
from services.execution.workdir import Workdir

SECRET = "tr0ub4dor&3"


def sentence(tmp_path: Path, redactor: Redactor, tail: str) -> str:
    workdir = Workdir.create(tmp_path, 1, 1, "")
    work = SimpleNamespace(kind=PhaseKind.PLAN, workdir=workdir, redactor=redactor, run_id=1)
    with pytest.raises(PhaseFailed) as caught:
        job._require(cast(Work, work), Outcome(1, tail, interrupted=False, seconds=1.0))
    return str(caught.value)


@pytest.mark.parametrize("written", [SECRET, "tr0\x01ub4dor&3", "tr0ub4\u202edor&3", "tr0\x1b[1mub4dor&3"])
def test_what_control_characters_kept_apart_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setattr(job, "steadily", lambda call: False)
    said = sentence(tmp_path, Redactor([SECRET]), f"Error: it is {written}\n")
    assert said == "Terraform ended with an error in the plan (exit code 1): it is •••. See the log."


def test_where_nothing_is_known_to_be_hidden_no_words_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "steadily", lambda call: False)
    said = sentence(tmp_path, HideAll(), f"Error: it is {SECRET}\n")
    assert said == "Terraform ended with an error in the plan (exit code 1). See the log."
