"""What the `init` of a plan made, kept for the apply of the same run on the same machine.

With a lock file `init` computes the digest of every provider twice, 1 s for the AWS provider's 675 MB. The apply gets a
working directory of its own all the same: configuration, state and plan come from the database.

It is kept right after `init`, before anything that the plan starts could touch it: copies of everything, but for the
providers, which are hard links (often to links into a mirror) and whose digests terraform compares, when the apply
begins, with the lock file that was stored at the same moment. So the apply finds what an `init` of its own would make.

It lies in the folder of the working directories, for an hour and no longer than the run waits. Not kept is what may
hold a secret: modules or backends whose addresses have passwords in them. Where nothing was kept, or another machine
takes the apply, there is an `init` as for every plan.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path

from flask import current_app

from extensions import db
from models import Run
from policy.lifecycle import RunStatus
from policy.mfa import PhaseKind
from services.execution import hidden, inside
from services.execution.work import Work

log = logging.getLogger(__name__)

#: Seconds for which it is kept: who applies later waits for another `init`.
SECONDS = 3600
#: Files, folders and links, and bytes to copy. A module can be a whole repository.
MOST, MOST_BYTES = 20_000, 32 << 20

_NAME = re.compile(r"kept-(\d+)(\.gone)?")
_WAITING = (
    RunStatus.PLANNING,
    RunStatus.AWAITING_CONFIRMATION,
    RunStatus.AWAITING_APPLY_AUTHENTICATION,
    RunStatus.APPLY_QUEUED,
    RunStatus.APPLYING,  # just taken: it is about to be put into the working directory
)


def keep(work: Work) -> None:
    """Keep what `init` just made in this plan's working directory; where that is not possible, nothing is kept."""
    place = _place(work.run_id)
    drop(work.run_id)
    if not work.state_kept_here or hidden.of_configuration(work.workdir.config):
        return
    try:
        source = work.workdir.terraform_data
        inside.copy(work.workdir.root, source, place, most=MOST, bytes_most=MOST_BYTES, linked="providers")
    except OSError as error:
        log.info("run %s: what init made is not kept: %s", work.run_id, type(error).__name__)
        _drop(place)


def take(work: Work) -> None:
    """Put what was kept into the working directory of the apply, which then needs no `init`."""
    if work.kind is not PhaseKind.APPLY or not work.state_kept_here:
        return
    place = _place(work.run_id)
    if not _whole(place):
        return
    with contextlib.suppress(OSError):  # none was kept, or the configuration brought one of its own
        place.rename(work.workdir.terraform_data)
        work.workdir.mark_initialised()


def there(work: Work) -> bool:
    """Whether `take` will most likely find something for this phase."""
    return work.kind is PhaseKind.APPLY and _whole(_place(work.run_id))


def drop(run_id: int) -> None:
    """Remove what is kept for this run."""
    _drop(_place(run_id))


def sweep() -> None:
    """Remove what is kept for no run that waits, or for too long; reads the database."""
    folder: Path = current_app.config["LOCKSTEP"].home / "work"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (named := _NAME.fullmatch(path.name)) and (named[2] or not _wanted(int(named[1]), path)):
            _drop(path)


def _wanted(run_id: int, path: Path) -> bool:
    run = db.session.get(Run, run_id, populate_existing=True)
    try:
        young = time.time() - path.stat().st_mtime < SECONDS
    except FileNotFoundError:
        return True
    return run is not None and run.status in _WAITING and young


def _place(run_id: int) -> Path:
    home: Path = current_app.config["LOCKSTEP"].home
    return home.resolve() / "work" / f"kept-{run_id}"


def _whole(place: Path) -> bool:
    """Whether it is there, and no provider in it leads to a mirror that is gone."""
    return place.is_dir() and all(
        os.path.exists(os.path.join(at, name))
        for at, folders, files in os.walk(place / "providers")
        for name in (*folders, *files)
    )


def _drop(place: Path) -> None:
    """Remove it, under another name first: an apply takes all of it or nothing."""
    gone = place if place.name.endswith(".gone") else place.with_name(f"{place.name}.gone")
    with contextlib.suppress(OSError):
        if gone != place:
            inside.remove(gone)
            place.rename(gone)
        inside.remove(gone)
