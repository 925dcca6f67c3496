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
from models.sign_in import LinkKind, OneTimeLink, RecoveryCode, SignIn, Throttle
from models.state import StateSource, StateVersion
from models.team import Grant, Team, TeamMember
from models.token import ApiToken, TokenScope
from models.user import User
from models.variable import Category, Scope, Variable

__all__ = [
    "ApiToken", "AuditEvent", "Base", "Blob", "Category", "ConfigurationVersion", "Environment", "Grant", "LinkKind",
    "LogChunk", "Membership", "MfaAttempt", "OneTimeLink", "Organization", "Outcome", "Phase", "PhaseStatus",
    "RecoveryCode", "Run", "Scope", "SignIn", "StateSource", "StateVersion", "Team", "TeamMember", "Throttle",
    "TokenScope", "User", "Variable",
]  # fmt: skip
