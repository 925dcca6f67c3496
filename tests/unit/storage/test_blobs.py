"""Blobs in a bucket: encrypted, checked, never lost by a rollback or a commit, and told when the bucket is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import config
from extensions import db
from models import Blob
from policy.lifecycle import LEASE
from services.storage import blobs, leftovers, object_store
from tests.support import bucket as buckets
from tests.support.app import running_app
from tests.support.bucket import Bucket, bucket, one_bucket

__all__ = ["bucket", "one_bucket"]


@pytest.fixture
def stored_there(tmp_path: Path, redis_url: str, database: dict[str, str], bucket: Bucket) -> Iterator[Flask]:
    environ = {"LOCKSTEP_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url, **database, **bucket.settings}
    with running_app(config.load(environ)) as app, app.app_context():
        yield app


def kept(content: bytes, kind: str = "state") -> str:
    blob = blobs.put(kind, content)
    identifier = blob.id
    db.session.commit()
    return identifier


@pytest.mark.usefixtures("stored_there")
class TestInABucket:
    def test_encrypted_under_the_prefix(self, bucket: Bucket) -> None:
        identifier = kept(b"plain words")
        assert blobs.get(identifier) == b"plain words"
        ((key, content),) = bucket.objects().items()
        assert key == f"{buckets.PREFIX}/state/{identifier}"
        assert b"plain words" not in content
        blob = db.session.get_one(Blob, identifier)
        assert (blob.location, blob.data) == (f"s3://{buckets.NAME}/{key}", None)

    def test_a_rollback_removes_the_object(self, bucket: Bucket) -> None:
        blobs.put("state", b"one")
        db.session.flush()
        assert len(bucket.objects()) == 1
        db.session.rollback()
        assert bucket.objects() == {}
        blobs.put("state", b"never flushed")
        db.session.rollback()
        blobs.put("state", b"closed")
        db.session.remove()
        assert bucket.objects() == {}

    def test_a_drop_counts_once_committed(self, bucket: Bucket) -> None:
        identifier = kept(b"one")
        blobs.drop(identifier)
        assert len(bucket.objects()) == 1
        db.session.rollback()
        assert blobs.get(identifier) == b"one"
        blobs.drop(identifier)
        db.session.commit()
        assert bucket.objects() == {}
        with pytest.raises(blobs.BlobUnreadable):
            blobs.get(identifier)

    def test_a_commit_without_an_answer_removes_nothing(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        """The database may have committed: the object may be the only copy of a state."""
        old = kept(b"old")
        blobs.put("state", b"new")
        blobs.drop(old)

        def lost(*_: Any) -> None:
            raise OperationalError("COMMIT", None, Exception("the connection is lost"))

        with monkeypatch.context() as patch:
            patch.setattr(db.engine.dialect, "do_commit", lost)
            with pytest.raises(OperationalError):
                db.session.commit()
        db.session.rollback()
        assert len(bucket.objects()) == 2
        kept(b"later")
        assert len(bucket.objects()) == 3

    def test_an_object_that_was_changed_or_removed(self, bucket: Bucket) -> None:
        one, other = kept(b"one"), kept(b"other")
        key = f"{buckets.PREFIX}/state/"
        bucket.write(key + one, bucket.read(key + other))
        with pytest.raises(blobs.BlobUnreadable, match="decrypted"):
            blobs.get(one)
        bucket.remove(key + one)
        with pytest.raises(blobs.BlobUnreadable, match="no longer in the object store"):
            blobs.get(one)

    def test_a_bucket_that_is_away_is_told(self, bucket: Bucket) -> None:
        identifier = kept(b"one")
        bucket.away()
        with pytest.raises(object_store.StoreAway, match="does not take or give"):
            blobs.get(identifier)
        with pytest.raises(object_store.StoreAway):
            blobs.put("state", b"two")
        db.session.rollback()
        bucket.back()
        assert blobs.get(identifier) == b"one"
        assert db.session.query(Blob).count() == 1

    def test_a_silent_bucket_is_given_up_far_within_a_lease(self, bucket: Bucket) -> None:
        identifier = kept(b"one")
        bucket.silent()
        for call in (lambda: blobs.put("state", b"two"), lambda: blobs.get(identifier)):
            began = time.monotonic()
            with pytest.raises(object_store.StoreAway):
                call()
            assert time.monotonic() - began < 8 < LEASE.total_seconds() / 3
        bucket.back()

    def test_a_drop_while_it_is_away_waits_for_the_sweep(self, bucket: Bucket) -> None:
        identifier = kept(b"one")
        bucket.away()
        blobs.drop(identifier)
        db.session.commit()
        bucket.back()
        assert len(bucket.objects()) == 1
        with time_machine.travel(datetime.now(UTC) + timedelta(days=2)):
            found = leftovers.check()
        assert found is not None and found.leftovers == [f"{buckets.ADDRESS}/state/{identifier}"]

    def test_the_check_finds_what_does_not_match(self, bucket: Bucket, stored_there: Flask) -> None:
        whole, missing = kept(b"whole"), kept(b"missing")
        bucket.remove(f"{buckets.PREFIX}/state/{missing}")
        left = f"{buckets.PREFIX}/plan/{'0' * 8}-0000-4000-8000-{'0' * 12}"
        bucket.write(left, b"of a killed process")
        bucket.write(f"{buckets.PREFIX}/README", b"not ours")
        bucket.write("two/" + left, b"of another installation")
        invoke = stored_there.test_cli_runner().invoke
        young = invoke(args=["blobs", "check", "--remove"])
        assert young.exit_code == 1 and "0 left over, 1 missing" in young.output
        with time_machine.travel(datetime.now(UTC) + timedelta(days=2), tick=True):
            only_told = invoke(args=["blobs", "check"])
            assert f"leftover s3://{buckets.NAME}/{left}\n" in only_told.output
            assert f"missing  {buckets.ADDRESS}/state/{missing}\n" in only_told.output
            assert left in bucket.objects()
            removed = invoke(args=["blobs", "check", "--remove"])
        assert "1 left over, 1 missing" in removed.output and removed.exit_code == 1
        assert len(bucket.objects()) == 3 and left not in bucket.objects()
        assert blobs.get(whole) == b"whole"


def test_a_setting_that_changes_leaves_old_blobs_where_they_are(stored_there: Flask, bucket: Bucket) -> None:
    there = kept(b"in the bucket")
    settings = stored_there.config["LOCKSTEP"]
    object.__setattr__(settings, "blob_store", None)
    here = kept(b"in the database")
    assert db.session.get_one(Blob, here).location is None
    object.__setattr__(settings, "blob_store", f"s3://{buckets.NAME}/elsewhere")
    elsewhere = kept(b"elsewhere")
    contents = [blobs.get(each) for each in (there, here, elsewhere)]
    assert contents == [b"in the bucket", b"in the database", b"elsewhere"]
    assert sorted(key.split("/")[0] for key in bucket.objects()) == ["elsewhere", "one"]


def test_without_a_bucket_there_is_nothing_to_check(app: Flask) -> None:
    answer = app.test_cli_runner().invoke(args=["blobs", "check"])
    assert answer.exit_code == 0 and "no bucket" in answer.output


def test_only_the_blob_stores_own_endpoint_counts(stored_there: Flask, bucket: Bucket) -> None:
    client = object_store._new_client(stored_there.config["LOCKSTEP"], buckets.NAME)
    assert client.meta.endpoint_url == bucket.endpoint
    settings = stored_there.config["LOCKSTEP"]
    object.__setattr__(settings, "blob_store_endpoint", None)
    client = object_store._new_client(settings, buckets.NAME)
    assert client.meta.endpoint_url.endswith(".amazonaws.com")


def test_rows_by_hand_are_seen(stored_there: Flask) -> None:
    identifier = kept(b"one")
    with db.engine.connect() as connection:
        row = connection.execute(text("SELECT location, data FROM blob")).one()
    assert row == (f"{buckets.ADDRESS}/state/{identifier}", None)
