"""Makes things for tests, straight in the database. Call them inside an application context; each commits."""

from tests.factories.people import PASSWORD, grant, invitation, member, organization, person, session_of, sign_in, team
from tests.factories.runs import configuration, environment, lock, run, state, variable
from tests.factories.world import World, make_world

__all__ = [
    "PASSWORD", "World", "configuration", "environment", "grant", "invitation", "lock", "make_world", "member",
    "organization", "person", "run", "session_of", "sign_in", "state", "team", "variable",
]  # fmt: skip
