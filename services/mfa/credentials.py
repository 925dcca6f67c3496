"""The temporary AWS credentials that a multi-factor session gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, repr=False)
class TemporaryCredentials:
    """Credentials of one AWS session, as STS GetSessionToken answers them.

    All four are needed by a client: without the session token AWS refuses the key as unknown.
    `expires_at` is an aware datetime; a naive one, or an empty part, raises ValueError. Neither `repr`
    nor `str` nor any error raised here shows a part of them.
    """

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: datetime

    def __post_init__(self) -> None:
        if not (self.access_key_id and self.secret_access_key and self.session_token):
            raise ValueError("Temporary credentials need a key id, a secret key and a session token.")
        if self.expires_at.utcoffset() is None:
            raise ValueError("The expiry of temporary credentials needs a time zone.")

    def __repr__(self) -> str:
        return "TemporaryCredentials(hidden)"

    __str__ = __repr__

    def secrets(self) -> tuple[str, str]:
        """The two parts that must never be shown (the key id names the session but opens nothing)."""
        return self.secret_access_key, self.session_token

    def to_json(self) -> bytes:
        """UTF-8 JSON of everything, secrets included: only ever to be encrypted."""
        return json.dumps(
            {
                "access_key_id": self.access_key_id,
                "secret_access_key": self.secret_access_key,
                "session_token": self.session_token,
                "expires_at": self.expires_at.isoformat(),
            }
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TemporaryCredentials:
        """Read what `to_json` wrote; raises ValueError, whose text and cause hold nothing of `data`."""
        credentials = cls._parse(data)
        if credentials is None:
            raise ValueError("These are not temporary credentials.")
        return credentials

    @classmethod
    def _parse(cls, data: bytes) -> TemporaryCredentials | None:
        # Answers None instead of raising: an exception chained to the parser's own would carry the text.
        try:
            fields = json.loads(data)
            return cls(
                access_key_id=str(fields["access_key_id"]),
                secret_access_key=str(fields["secret_access_key"]),
                session_token=str(fields["session_token"]),
                expires_at=datetime.fromisoformat(fields["expires_at"]),
            )
        except (ValueError, KeyError, TypeError):
            return None
