"""A saved plan that breaks off is told from one that is all there."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from services.execution.saved_plan import whole_plan


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("tfplan", "tfstate", "tfconfig/m-/main.tf"):
            packed.writestr(name, f"{name} content " * 50)
    return stream.getvalue()


def test_a_whole_one() -> None:
    assert whole_plan(archive()) and whole_plan(json.dumps({"encrypted_data": "x" * 99}).encode())


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.99])
def test_one_that_breaks_off(share: float) -> None:
    whole = archive()
    assert not whole_plan(whole[: int(len(whole) * share)])
    encrypted = json.dumps({"encrypted_data": "x" * 99}).encode()
    assert not whole_plan(encrypted[: int(len(encrypted) * share)])


def test_one_with_a_hole() -> None:
    whole = bytearray(archive())
    whole[60:80] = bytes(20)
    assert not whole_plan(bytes(whole))
