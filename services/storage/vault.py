"""Encryption at rest: AES-256-GCM with several keys, every ciphertext bound to the place it belongs to.

An envelope is ``01`` (version) + 4 bytes key id (start of the key's SHA-256) + 12 bytes nonce + ciphertext
with its 16-byte tag. The context says table, column and row (:func:`place`; "variable:o1/e3:env:NAME" and "blob:ID",
where a table has one such column) and is the associated data: an envelope copied to another place does not open there.
Nonces are random, so one key serves 2^32 envelopes before it must be replaced (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES + _NONCE_BYTES


#: The bytes of an envelope that say its version and key, and those that no other envelope begins with.
KEY_PREFIX_BYTES, UNIQUE_BYTES = len(_VERSION) + _KEY_ID_BYTES, _HEADER_BYTES


def place(table: str, column: str, row: object) -> str:
    """The context of a value in the database: ``place("user_account", "totp_secret", user.id)``."""
    return f"{table}.{column}:{row}"


def key_of(envelope: bytes) -> str:
    """The id (hex) of the key that sealed it; enough are its first bytes."""
    return envelope[len(_VERSION) : KEY_PREFIX_BYTES].hex()


class VaultKeyError(ValueError):
    """The configured keys cannot be used; the text is a sentence for an operator and names no key."""


class VaultError(Exception):
    """An envelope cannot be opened; the text never holds a key, plaintext or ciphertext."""


def generate_key() -> str:
    """A new random key: 32 bytes in URL-safe base64, as `ENCRYPTION_KEYS` takes it."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_KEY_ID_BYTES]


def _parse_key(text: str, position: int) -> bytes:
    """One key of the setting, in either base64 alphabet, padded or not."""
    alphabet = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(alphabet + "=" * (-len(alphabet) % 4), validate=True)
    except (binascii.Error, ValueError):
        # "from None": the original error can quote the text it was given.
        raise VaultKeyError(f"Key {position} of ENCRYPTION_KEYS is not base64 text.") from None
    if len(key) != KEY_BYTES:
        raise VaultKeyError(
            f"Key {position} of ENCRYPTION_KEYS must be {KEY_BYTES} bytes in base64; it is {len(key)} bytes."
        )
    return key


class Vault:
    """Encrypts with the newest key and opens with any of them.

    :param keys: 32-byte AES-256 keys, newest first.
    :raises VaultKeyError: when there is no key, or one has another length.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise VaultKeyError("ENCRYPTION_KEYS holds no key. Set at least one 32-byte key in base64.")
        for position, key in enumerate(keys, start=1):
            if len(key) != KEY_BYTES:
                raise VaultKeyError(
                    f"Key {position} of ENCRYPTION_KEYS must be {KEY_BYTES} bytes; it is {len(key)} bytes."
                )
        self._ciphers = [(_key_id(key), AESGCM(key)) for key in keys]
        self._keys = tuple(keys)

    @classmethod
    def from_text(cls, text: str) -> Vault:
        """From the setting's text: keys in base64, separated by commas, newest first.

        :raises VaultKeyError: with the position of the key that is wrong, never its text.
        """
        parts = [part for part in text.split(",") if part.strip()]
        return cls([_parse_key(part, position) for position, part in enumerate(parts, start=1)])

    def derived(self, purpose: str) -> tuple[bytes, ...]:
        """A key of 32 bytes for another use from each of the keys, newest first: HMAC-SHA256 of the purpose."""
        return tuple(hmac.digest(key, f"lockstep {purpose}".encode(), "sha256") for key in self._keys)

    def __repr__(self) -> str:
        return f"<Vault with {len(self._ciphers)} keys>"

    @property
    def key_ids(self) -> list[str]:
        """The ids (hex) of the keys, newest first; no more than that is known of a key from its id."""
        return [known.hex() for known, _ in self._ciphers]

    @property
    def newest_prefix(self) -> bytes:
        """What every envelope of the newest key begins with."""
        return _VERSION + self._ciphers[0][0]

    def encrypt(self, plaintext: bytes, context: str) -> bytes:
        """Seal bytes for one place; the envelope opens only with the same context."""
        key_id, cipher = self._ciphers[0]
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + key_id + nonce + cipher.encrypt(nonce, plaintext, context.encode("utf-8"))

    def decrypt(self, envelope: bytes, context: str) -> bytes:
        """Open an envelope.

        :raises VaultError: when it was altered, belongs to another context, or its key is not configured.
        """
        if len(envelope) < _HEADER_BYTES + _TAG_BYTES:
            raise VaultError("The encrypted value is cut short.")
        if envelope[:1] != _VERSION:
            raise VaultError("The encrypted value has a format this version does not know.")
        key_id = envelope[1 : 1 + _KEY_ID_BYTES]
        nonce = envelope[1 + _KEY_ID_BYTES : _HEADER_BYTES]
        ciphers = [cipher for known, cipher in self._ciphers if known == key_id]
        if not ciphers:
            raise VaultError(
                "The value was encrypted with a key that ENCRYPTION_KEYS does not hold"
                f" (key id {key_id.hex()}). Put that key back behind the newest one."
            )
        for cipher in ciphers:
            try:
                return cipher.decrypt(nonce, envelope[_HEADER_BYTES:], context.encode("utf-8"))
            except InvalidTag:
                continue
        raise VaultError("The encrypted value was altered, or it belongs to another place.")
