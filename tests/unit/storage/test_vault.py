"""The vault opens only what it sealed, where it was sealed, and says nothing more than that."""

from __future__ import annotations

import base64
import os
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.storage.vault import Vault, VaultError, VaultKeyError, generate_key

OLD, NEW, OTHER = (bytes([n]) * 32 for n in (1, 2, 3))
PLAIN = b"plaintext-marker-AKIAEXAMPLE"
CONTEXT = "variable:o1/e3:env:AWS_SECRET_ACCESS_KEY"


@given(st.binary(max_size=5000), st.text(max_size=50).filter(lambda text: text.isprintable()))
def test_what_was_sealed_comes_back(plaintext: bytes, context: str) -> None:
    vault = Vault([NEW])
    assert vault.decrypt(vault.encrypt(plaintext, context), context) == plaintext


def test_the_envelope_has_the_documented_shape() -> None:
    vault = Vault([NEW])
    first, second = vault.encrypt(PLAIN, CONTEXT), vault.encrypt(PLAIN, CONTEXT)
    assert first[:1] == b"\x01" and len(first) == 1 + 4 + 12 + len(PLAIN) + 16
    assert first[:5] == second[:5] and first[5:17] != second[5:17], "a nonce was used twice"
    assert PLAIN not in first


def test_every_altered_byte_is_noticed() -> None:
    vault = Vault([NEW, OLD])
    envelope = vault.encrypt(PLAIN, CONTEXT)
    for position in range(len(envelope)):
        altered = bytearray(envelope)
        altered[position] ^= 0x40
        with pytest.raises(VaultError) as caught:
            vault.decrypt(bytes(altered), CONTEXT)
        assert PLAIN.decode() not in "".join(traceback.format_exception(caught.value))


def test_every_truncation_and_extension_is_noticed() -> None:
    vault = Vault([NEW])
    envelope = vault.encrypt(PLAIN, CONTEXT)
    for length in range(len(envelope)):
        with pytest.raises(VaultError):
            vault.decrypt(envelope[:length], CONTEXT)
    with pytest.raises(VaultError):
        vault.decrypt(envelope + b"\0", CONTEXT)


@pytest.mark.parametrize("context", ["", "variable:o1/e4:env:AWS_SECRET_ACCESS_KEY", CONTEXT + " ", "blob:12"])
def test_another_context_does_not_open_it(context: str) -> None:
    vault = Vault([NEW])
    with pytest.raises(VaultError, match="belongs to another place"):
        vault.decrypt(vault.encrypt(PLAIN, CONTEXT), context)


def test_rotation_keeps_old_values_readable() -> None:
    before, after = Vault([OLD]), Vault([NEW, OLD])
    old = before.encrypt(PLAIN, CONTEXT)
    assert after.decrypt(old, CONTEXT) == PLAIN
    renewed = after.encrypt(after.decrypt(old, CONTEXT), CONTEXT)
    assert Vault([NEW]).decrypt(renewed, CONTEXT) == PLAIN


def test_a_key_that_is_gone_is_named_by_its_id_only() -> None:
    envelope = Vault([OTHER]).encrypt(PLAIN, CONTEXT)
    with pytest.raises(VaultError, match=rf"does not hold .key id {envelope[1:5].hex()}"):
        Vault([NEW, OLD]).decrypt(envelope, CONTEXT)


def test_keys_are_read_from_text_in_either_alphabet() -> None:
    key = os.urandom(32)
    made = Vault([key]).encrypt(PLAIN, CONTEXT)
    for text in (
        base64.b64encode(key).decode(),
        base64.urlsafe_b64encode(key).decode().rstrip("="),
        f" {generate_key()} ,\n{base64.b64encode(key).decode()},",
    ):
        assert Vault.from_text(text).decrypt(made, CONTEXT) == PLAIN


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "ENCRYPTION_KEYS holds no key. Set at least one 32-byte key in base64."),
        (" , ", "ENCRYPTION_KEYS holds no key. Set at least one 32-byte key in base64."),
        ("pässword-of-mine", "Key 1 of ENCRYPTION_KEYS is not base64 text."),
        ("hunter2*hunter2*", "Key 1 of ENCRYPTION_KEYS is not base64 text."),
        ("hunter2hunter2", "Key 1 of ENCRYPTION_KEYS must be 32 bytes in base64; it is 10 bytes."),
        (f"{'A' * 43}=,QUJD", "Key 2 of ENCRYPTION_KEYS must be 32 bytes in base64; it is 3 bytes."),
    ],
)
def test_malformed_keys_get_a_sentence_without_the_key(text: str, sentence: str) -> None:
    with pytest.raises(VaultKeyError) as caught:
        Vault.from_text(text)
    assert str(caught.value) == sentence
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_keys_of_another_length_are_refused() -> None:
    with pytest.raises(VaultKeyError, match=r"Key 2 .* it is 16 bytes"):
        Vault([NEW, b"x" * 16])
    with pytest.raises(VaultKeyError, match="holds no key"):
        Vault([])


def test_its_representation_shows_no_key() -> None:
    assert repr(Vault([NEW, OLD])) == "<Vault with 2 keys>"
