"""The settings page says where runs have no sandbox, to everybody who can see it."""

from __future__ import annotations

import pytest

from services import doctor
from services.execution import walls
from services.execution.walls import Walls
from tests.factories import World
from tests.support.client import Client


def test_the_settings_page_says_why_there_is_no_sandbox(
    alice: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Runs have no sandbox." not in alice.get(f"{world.path}/settings").get_data(as_text=True)
    monkeypatch.setattr(walls, "_tried", lambda: Walls(None, "bubblewrap <is> not installed."))
    page = alice.get(f"{world.path}/settings").get_data(as_text=True)
    assert "Runs have no sandbox." in page and "bubblewrap &lt;is&gt; not installed." in page

    monkeypatch.setattr(walls, "_tried", lambda: Walls(None, "bwrap gave no answer.", unknown=True))
    page = alice.get(f"{world.path}/settings").get_data(as_text=True)
    assert "Runs do not begin here." in page and "bwrap gave no answer." in page and "have no sandbox" not in page


@pytest.mark.parametrize(
    ("setting", "status", "words"),
    [
        ("auto", doctor.Status.WARNING, "terraform runs without one and reads what the worker can: It cannot."),
        ("bwrap", doctor.Status.PROBLEM, "nothing can run: It cannot."),
        ("none", doctor.Status.WARNING, "TERRAFORM_SANDBOX is none."),
    ],
)
def test_the_doctor_says_so(setting: str, status: doctor.Status, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._sandbox("auto").status is doctor.Status.OK
    monkeypatch.setattr(walls, "_tried", lambda: Walls(None, "It cannot."))
    found = doctor._sandbox(setting)
    assert found.status is status and words in found.detail and found.advice


def test_the_doctor_says_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "_tried", lambda: Walls(None, "It is not known.", unknown=True))
    for setting in ("auto", "bwrap"):
        found = doctor._sandbox(setting)
        assert found.status is doctor.Status.PROBLEM
        assert found.detail == "nothing runs until it is known: It is not known."
