"""Tables, one aggregate a file. Importing this package registers them all with ``Base.metadata``."""

from models.attempt import MfaAttempt, Outcome
from models.audit import AuditEvent
from models.base import Base
from models.blob import Blob
from models.configuration import ConfigurationVersion
from models.environment import Environment
from models.log import LogChunk
from models.organization import Membership, Organization
from models.run import Phase, PhaseStatus, Run
from models.state import StateSource, StateVersion
from models.token import ApiToken, TokenScope
from models.user import User
from models.variable import Category, Scope, Variable

__all__ = [
    "ApiToken", "AuditEvent", "Base", "Blob", "Category", "ConfigurationVersion", "Environment", "LogChunk",
    "Membership", "MfaAttempt", "Organization", "Outcome", "Phase", "PhaseStatus", "Run", "Scope", "StateSource",
    "StateVersion", "TokenScope", "User", "Variable",
]  # fmt: skip
