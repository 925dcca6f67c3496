"""The small world that most web tests live in."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask

from policy.permissions import Role
from tests.factories.people import member
from tests.factories.runs import environment


@dataclass(frozen=True)
class World:
    """Names only, because objects of the database live no longer than an application context.

    Alice owns acme, bob is its member, carol owns other and is a stranger to acme.
    """

    organization: str = "acme"
    environment: str = "network"
    other: str = "other"

    @property
    def home(self) -> str:
        """The address of the organization's page."""
        return f"/terraform/{self.organization}"

    @property
    def path(self) -> str:
        """The address below which the environment's pages are."""
        return f"{self.home}/environments/{self.environment}"


def make_world(app: Flask) -> World:
    """Make it in the application's database."""
    world = World()
    with app.app_context():
        member("alice", world.organization, Role.OWNER)
        member("bob", world.organization, Role.MEMBER)
        member("carol", world.other, Role.OWNER)
        environment(world.environment, world.organization)
    return world
