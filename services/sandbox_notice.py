"""Whether the pages have to say that terraform runs without walls, or not at all."""

from __future__ import annotations

from flask import current_app

from config import Config
from services.execution.walls import Walls, find_walls


def missing() -> Walls | None:
    """Why runs have no sandbox on this machine, or cannot run for want of one; None when they have one.

    A worker on another machine may find another answer; the log of each run says its own.
    """
    config: Config = current_app.config["LOCKSTEP"]
    walls = find_walls(config.terraform_sandbox)
    return None if walls.bwrap else walls
