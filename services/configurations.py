"""Configuration versions: an uploaded archive, checked, kept, numbered."""

from __future__ import annotations

import hashlib
import tempfile
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from flask import current_app
from sqlalchemy import select, update

from extensions import db
from models import ConfigurationVersion, Environment, Membership
from policy.permissions import Permission
from services import archive_child, archives, audit, clock
from services.access import require
from services.errors import Invalid
from services.storage import blobs


def upload(
    membership: Membership, environment: Environment, stream: BinaryIO, filename: str, message: str = ""
) -> ConfigurationVersion:
    """Check an archive and keep it as the environment's next version; commits.

    What the caller read is committed first: no transaction, and with it no lock, is held while the archive is copied
    and looked at. Raises :class:`services.errors.Forbidden`, and :class:`Invalid` for field "archive" or "message" with
    the reason.
    """
    require(membership, Permission.WRITE, "You cannot upload a configuration here.", environment)
    message = " ".join(message.split())
    if len(message) > 200:
        raise Invalid("message", "At most 200 characters.")
    db.session.commit()
    with tempfile.TemporaryDirectory(prefix="lockstep-upload-") as folder:
        path = Path(folder) / "archive"
        digest = _copy(stream, path, limits().packed_bytes)
        try:
            info = archive_child.inspect(path, limits())
        except archives.ArchiveRefused as refused:
            raise Invalid("archive", str(refused)) from None
        content = path.read_bytes()
    blob = blobs.put("configuration", content)
    number = _next_number(environment)
    version = ConfigurationVersion(
        environment_id=environment.id,
        number=number,
        message=message or f"Configuration v{number}",
        filename=Path(filename.replace("\\", "/")).name[:200] or "configuration",
        archive_kind=info.kind,
        digest=digest,
        size=len(content),
        files=info.files,
        directories="\n".join(info.terraform_directories)[:2000],
        blob_id=blob.id,
        uploaded_at=clock.now(),
        uploaded_by_id=membership.user_id,
    )
    db.session.add(version)
    audit.record("configuration.upload", membership.user, environment=environment, number=number, digest=digest)
    db.session.commit()
    return version


def digest(archive: BufferedIOBase) -> str:
    """The SHA-256 in hex of an archive that is about to be uploaded; it is read from its beginning again afterwards.

    What the caller read is committed first: no lock is held meanwhile.
    """
    db.session.commit()
    found = hashlib.file_digest(archive, "sha256").hexdigest()
    archive.seek(0)
    return found


def latest(environment: Environment) -> ConfigurationVersion | None:
    """The newest version, which a queued plan uses."""
    return db.session.scalar(
        select(ConfigurationVersion)
        .where(ConfigurationVersion.environment_id == environment.id)
        .order_by(ConfigurationVersion.number.desc())
        .limit(1)
    )


def limits() -> archives.Limits:
    """The limits in force, from the settings."""
    config = current_app.config["LOCKSTEP"]
    return archives.Limits(
        packed_bytes=config.max_archive_bytes,
        unpacked_bytes=config.max_unpacked_bytes,
        files=config.max_archive_files,
    )


def _next_number(environment: Environment) -> int:
    statement = update(Environment).where(Environment.id == environment.id)
    statement = statement.values(configuration_counter=Environment.configuration_counter + 1)
    db.session.execute(statement)
    query = select(Environment.configuration_counter).where(Environment.id == environment.id)
    return db.session.scalars(query).one()


def _copy(stream: BinaryIO, path: Path, most: int) -> str:
    """Write the upload to ``path`` and return its SHA-256 in hex."""
    digest, total = hashlib.sha256(), 0
    with path.open("wb") as file:
        while piece := stream.read(1 << 20):
            total += len(piece)
            if total > most:
                raise Invalid("archive", f"The archive is larger than {most >> 20} MB. Nothing was kept.")
            digest.update(piece)
            file.write(piece)
    if total == 0:
        raise Invalid("archive", "Choose a .tar.gz or .zip archive of your Terraform files.")
    return digest.hexdigest()
