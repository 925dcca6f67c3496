"""Whether the pages have to say that terraform runs without walls."""

from __future__ import annotations

from flask import current_app

from config import Config
from services.execution import terraform


def missing() -> str:
    """Why runs have no sandbox on this machine, as a sentence; empty when they have one.

    A worker on another machine may find another answer; the log of each run says its own.
    """
    config: Config = current_app.config["LOCKSTEP"]
    walls = terraform.walls(config.terraform_sandbox)
    return "" if walls.bwrap else walls.why
