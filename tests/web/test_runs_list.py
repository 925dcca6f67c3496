"""The Changes tab: configurations come in, runs are queued and listed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

import config
from extensions import db
from models import ConfigurationVersion, Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories

MIB = 1024 * 1024


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, database: dict[str, str]) -> config.Config:
    """With a small limit, so that a test need not send 50 MB."""
    home = str(tmp_path / "home")
    return config.load({"LOCKSTEP_HOME": home, "REDIS_URL": redis_url, "MAX_ARCHIVE_MB": "3", **database})


def archive(name: str = "main.tf", content: bytes = b'resource "terraform_data" "it" {}\n') -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def upload(client: Client, world: World, content: bytes, name: str = "net.tar.gz", **fields: str) -> TestResponse:
    """The form as a browser sends it. Put together by hand: the test client leaves temporary files open."""
    fields = {"csrf_token": client.token(), **fields}
    parts = [f'form-data; name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    parts.append(f'form-data; name="archive"; filename="{name}"\r\n\r\n'.encode() + content)
    body = b"".join(b"--cut\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + b"--cut--\r\n"
    path = f"{world.path}/changes/configurations"
    return client.post(path, data=body, content_type="multipart/form-data; boundary=cut")


def index(client: Client, world: World, query: str = "") -> str:
    answer = client.get(f"{world.path}/changes/runs{query}")
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def count(app: Flask, model: type[Run] | type[ConfigurationVersion]) -> int:
    with app.app_context():
        return len(db.session.scalars(select(model)).all())


def test_an_upload_becomes_a_version_and_a_run(app: Flask, bob: Client, world: World) -> None:
    assert "No configuration yet" in index(bob, world)
    answer = upload(bob, world, archive(), message="  First   network ")
    assert answer.status_code == 303 and answer.headers["Location"] == f"{world.path}/changes/runs/1"
    page = index(bob, world)
    assert "Configuration v1" in page and "First network" in page and "Upload as v2" in page
    assert "uploaded by bob" in page and "Queue plan" in page


def test_a_zip_does_as_well(app: Flask, alice: Client, world: World) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("live/main.tf", "")
    assert upload(alice, world, packed.getvalue(), "net.zip").status_code == 303
    page = index(alice, world)
    assert "The top folder of v1 has no Terraform files." in page and "<code>live</code>" in page


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Choose a .tar.gz or .zip archive"),
        (b"garbage", "archive"),
        (archive("readme.md"), ".tf"),
        (archive("../x.tf"), ""),
    ],
)
def test_what_is_no_configuration_is_refused_on_the_field(
    app: Flask, alice: Client, world: World, content: bytes, says: str
) -> None:
    answer = upload(alice, world, content, "<b>x</b>.tar.gz", message="<i>kept</i>")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert 'id="archive-error"' in page and 'aria-invalid="true"' in page and says in page
    assert "&lt;i&gt;kept&lt;/i&gt;" in page and "<b>x</b>" not in page
    assert count(app, ConfigurationVersion) == count(app, Run) == 0


def test_no_file_at_all(app: Flask, alice: Client, world: World) -> None:
    answer = alice.submit(f"{world.path}/changes/configurations", {"message": "x"})
    assert answer.status_code == 422 and "Choose a .tar.gz" in answer.get_data(as_text=True)


def test_a_little_too_large_is_said_on_the_field(app: Flask, alice: Client, world: World) -> None:
    answer = upload(alice, world, b"\x1f\x8b" + b"x" * 3 * MIB)
    assert answer.status_code == 422 and "larger than 3 MB" in answer.get_data(as_text=True)


def test_far_too_large_is_not_read(app: Flask, alice: Client, world: World) -> None:
    answer = upload(alice, world, b"x" * 12 * MIB)
    assert answer.status_code == 413 and "larger than allowed" in answer.get_data(as_text=True)


def test_nobody_unknown_sends_megabytes(app: Flask, anonymous: Client, world: World) -> None:
    assert upload(anonymous, world, b"x" * 3 * MIB).status_code == 413


def test_queue_plan_uses_the_newest_configuration(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        here = factories.environment()
        factories.configuration(here)
        factories.configuration(here)
    answer = alice.submit(f"{world.path}/changes/runs", {"seen": "0"})
    assert answer.status_code == 303
    with app.app_context():
        assert db.session.scalars(select(Run)).one().configuration.number == 2


def test_a_double_click_queues_one_run(app: Flask, alice: Client, bob: Client, world: World) -> None:
    with app.app_context():
        factories.configuration(factories.environment())
    places = [alice.submit(f"{world.path}/changes/runs", {"seen": "0"}).headers["Location"] for _ in range(2)]
    assert places == [f"{world.path}/changes/runs/1"] * 2 and count(app, Run) == 1
    assert "no second one was made" in alice.get(places[0]).get_data(as_text=True)
    bob.submit(f"{world.path}/changes/runs", {"seen": "0"})  # somebody else means another one
    alice.submit(f"{world.path}/changes/runs", {"seen": "2"})  # so does a page that showed the first
    assert count(app, Run) == 3


def test_a_double_click_uploads_once_and_another_archive_is_never_thrown_away(
    app: Flask, alice: Client, world: World
) -> None:
    same = archive()
    places = [upload(alice, world, same, seen="0").headers["Location"] for _ in range(2)]
    assert places == [f"{world.path}/changes/runs/1"] * 2 and count(app, Run) == count(app, ConfigurationVersion) == 1
    said = "Run #1 of this configuration was queued in your name since that page was shown, so no second one was made."
    assert said in alice.get(places[0]).get_data(as_text=True)
    # The page is out of date: a script with her token, or another tab, was quicker. What is sent is something else.
    assert upload(alice, world, archive(content=b"# mended\n"), seen="0").headers["Location"].endswith("/2")
    with app.app_context():
        newest = db.session.scalars(select(Run).order_by(Run.number.desc())).first()
        assert newest is not None and newest.configuration.number == 2
    page = alice.get(f"{world.path}/changes/runs/2").get_data(as_text=True)
    assert "no second one was made" not in page


def test_a_plan_of_a_newer_configuration_is_no_second_click(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        factories.configuration(factories.environment())
    alice.submit(f"{world.path}/changes/runs", {"seen": "0"})
    with app.app_context():
        factories.configuration(factories.environment(), b"another")
    assert alice.submit(f"{world.path}/changes/runs", {"seen": "0"}).headers["Location"].endswith("/2")


def test_there_is_nothing_to_plan_without_a_configuration(app: Flask, alice: Client, world: World) -> None:
    answer = alice.submit(f"{world.path}/changes/runs")
    assert answer.status_code == 409 and "Upload one first" in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    ("level", "says"),
    [
        (MfaLevel.NEVER, "no code is asked"),
        (MfaLevel.APPLIES_ONLY, "the plan runs without a code, the apply waits for one"),
        (MfaLevel.PLANS_AND_APPLIES, "the plan waits for a code, and the apply for a second one"),
    ],
)
def test_the_level_is_explained(app: Flask, alice: Client, world: World, level: MfaLevel, says: str) -> None:
    with app.app_context():
        factories.environment(mfa_level=level)
    assert says in index(alice, world)


def test_runs_come_newest_first_in_pages(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        here = factories.environment()
        for _ in range(27):
            factories.run(here, RunStatus.DISCARDED, message="<b>bold</b>")
    page = index(alice, world)
    assert page.index("#27 by alice") < page.index("#3 by alice") and "#2 by alice" not in page
    assert "before=3" in page and "27 runs" in page and "<b>bold</b>" not in page
    older = index(alice, world, "?before=3")
    assert "#2 by alice" in older and "#1 by alice" in older and "Newest runs" in older
    assert "There are no older runs" in index(alice, world, "?before=1")


def test_the_list_asks_the_database_the_same_for_any_length(app: Flask, alice: Client, world: World) -> None:
    def queries() -> int:
        asked: list[str] = []

        def note(*args: object) -> None:
            asked.append(str(args[2]))

        with app.app_context():
            engine = db.engine
        db.event.listen(engine, "before_cursor_execute", note)
        index(alice, world)
        db.event.remove(engine, "before_cursor_execute", note)
        return len(asked)

    with app.app_context():
        stories.story(factories.environment(), RunStatus.APPLIED)
    one = queries()
    with app.app_context():
        for status in set(RunStatus) - {RunStatus.APPLIED}:
            stories.story(factories.environment(), status)
    assert queries() == one <= 12


def test_short_addresses_lead_to_the_list(app: Flask, alice: Client, carol: Client, world: World) -> None:
    for path in (world.path, f"{world.path}/changes"):
        assert alice.get(path).headers["Location"] == f"{world.path}/changes/runs"
        assert carol.get(path).status_code == 404
