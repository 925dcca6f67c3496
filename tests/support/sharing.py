"""Which tests one xdist worker runs together, because they share a running stack."""

from __future__ import annotations

from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

#: Folders whose tests are one group.
TOGETHER = ("tests/browser/", "tests/deploy/")


class Sharing(LoadGroupScheduling):
    """As `--dist loadgroup`, but by folder.

    xdist 3.8 hands the mark `xdist_group` on in the ids of the tests, and pytest 9.2 keeps no id that is changed: there
    the mark does nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))
