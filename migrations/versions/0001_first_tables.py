"""first tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blob",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob")),
    )
    op.create_table(
        "organization",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organization")),
        sa.UniqueConstraint("name", name=op.f("uq_organization_name")),
    )
    op.create_table(
        "user_account",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=300), nullable=False),
        sa.Column("session_epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_account")),
        sa.UniqueConstraint("name", name=op.f("uq_user_account_name")),
    )
    op.create_table(
        "environment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("organization_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "mfa_level",
            sa.Enum(
                "never",
                "applies only",
                "plans and applies",
                name="mfa_level",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("session_seconds", sa.Integer(), nullable=False),
        sa.Column("terraform_directory", sa.String(length=500), nullable=False),
        sa.Column("settings_saved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settings_saved_by_id", sa.Integer(), nullable=True),
        sa.Column("active_run_id", sa.Integer(), nullable=True),
        sa.Column("run_counter", sa.Integer(), nullable=False),
        sa.Column("configuration_counter", sa.Integer(), nullable=False),
        sa.Column("locked_by_id", sa.Integer(), nullable=True),
        sa.Column("locked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lock_reason", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["locked_by_id"], ["user_account.id"], name=op.f("fk_environment_locked_by_id_user_account")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_environment_organization_id_organization")
        ),
        sa.ForeignKeyConstraint(
            ["settings_saved_by_id"], ["user_account.id"], name=op.f("fk_environment_settings_saved_by_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environment")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_environment_organization_id_name")),
    )
    op.create_table(
        "membership",
        sa.Column("organization_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "role",
            sa.Enum("owner", "member", name="role", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_membership_organization_id_organization")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_membership_user_id_user_account")),
        sa.PrimaryKeyConstraint("organization_id", "user_id", name=op.f("pk_membership")),
    )
    with op.batch_alter_table("membership", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_membership_user_id"), ["user_id"], unique=False)

    op.create_table(
        "configuration_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("message", sa.String(length=200), nullable=False),
        sa.Column("filename", sa.String(length=200), nullable=False),
        sa.Column("archive_kind", sa.String(length=10), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("directories", sa.String(length=2000), nullable=False),
        sa.Column("blob_id", sa.String(length=36), nullable=False),
        sa.Column("uploaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("uploaded_by_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_configuration_version_blob_id_blob")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environment.id"], name=op.f("fk_configuration_version_environment_id_environment")
        ),
        sa.ForeignKeyConstraint(
            ["uploaded_by_id"], ["user_account.id"], name=op.f("fk_configuration_version_uploaded_by_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_configuration_version")),
        sa.UniqueConstraint("environment_id", "number", name=op.f("uq_configuration_version_environment_id_number")),
    )
    op.create_table(
        "variable",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("place", sa.String(length=80), nullable=False),
        sa.Column("organization_id", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=True),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column(
            "category",
            sa.Enum("terraform", "env", name="category", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("sensitive", sa.Boolean(), nullable=False),
        sa.Column("hcl", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environment.id"], name=op.f("fk_variable_environment_id_environment")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_variable_organization_id_organization")
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["user_account.id"], name=op.f("fk_variable_owner_id_user_account")),
        sa.ForeignKeyConstraint(
            ["updated_by_id"], ["user_account.id"], name=op.f("fk_variable_updated_by_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_variable")),
        sa.UniqueConstraint("place", "category", "name", name=op.f("uq_variable_place_category_name")),
    )
    with op.batch_alter_table("variable", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_variable_environment_id"), ["environment_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_variable_organization_id"), ["organization_id"], unique=False)

    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "awaiting_plan_authentication",
                "plan_queued",
                "planning",
                "planned_and_finished",
                "awaiting_confirmation",
                "awaiting_apply_authentication",
                "apply_queued",
                "applying",
                "applied",
                "discarded",
                "canceled",
                "errored",
                name="run_status",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "mfa_level",
            sa.Enum(
                "never",
                "applies only",
                "plans and applies",
                name="mfa_level",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("configuration_id", sa.Integer(), nullable=False),
        sa.Column("message", sa.String(length=200), nullable=False),
        sa.Column("terraform_directory", sa.String(length=500), nullable=False),
        sa.Column("created_by_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by_id", sa.Integer(), nullable=True),
        sa.Column("confirmed_by_id", sa.Integer(), nullable=True),
        sa.Column("terraform_version", sa.String(length=40), nullable=True),
        sa.Column("own_backend", sa.String(length=60), nullable=True),
        sa.Column("plan_blob_id", sa.String(length=36), nullable=True),
        sa.Column("lock_blob_id", sa.String(length=36), nullable=True),
        sa.Column("plan_digest", sa.String(length=64), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=True),
        sa.Column("applied_counts", sa.JSON(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.Column("error", sa.String(length=1000), nullable=False),
        sa.Column("error_code", sa.String(length=40), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_by_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cancel_requested_by_id"], ["user_account.id"], name=op.f("fk_run_cancel_requested_by_id_user_account")
        ),
        sa.ForeignKeyConstraint(
            ["configuration_id"],
            ["configuration_version.id"],
            name=op.f("fk_run_configuration_id_configuration_version"),
        ),
        sa.ForeignKeyConstraint(
            ["confirmed_by_id"], ["user_account.id"], name=op.f("fk_run_confirmed_by_id_user_account")
        ),
        sa.ForeignKeyConstraint(["created_by_id"], ["user_account.id"], name=op.f("fk_run_created_by_id_user_account")),
        sa.ForeignKeyConstraint(["ended_by_id"], ["user_account.id"], name=op.f("fk_run_ended_by_id_user_account")),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.id"], name=op.f("fk_run_environment_id_environment")),
        sa.ForeignKeyConstraint(["lock_blob_id"], ["blob.id"], name=op.f("fk_run_lock_blob_id_blob")),
        sa.ForeignKeyConstraint(["plan_blob_id"], ["blob.id"], name=op.f("fk_run_plan_blob_id_blob")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("environment_id", "number", name=op.f("uq_run_environment_id_number")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index("ix_run_environment_id_status", ["environment_id", "status"], unique=False)

    op.create_table(
        "audit_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor_id", sa.Integer(), nullable=True),
        sa.Column("actor_name", sa.String(length=64), nullable=False),
        sa.Column("organization_id", sa.Integer(), nullable=True),
        sa.Column("environment_id", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["actor_id"], ["user_account.id"], name=op.f("fk_audit_event_actor_id_user_account")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environment.id"], name=op.f("fk_audit_event_environment_id_environment")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_audit_event_organization_id_organization")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_audit_event_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_event")),
    )
    with op.batch_alter_table("audit_event", schema=None) as batch_op:
        batch_op.create_index("ix_audit_event_organization_id_at", ["organization_id", "at"], unique=False)

    op.create_table(
        "phase",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("plan", "apply", name="phase_kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column(
            "status",
            sa.Enum(
                "waiting",
                "queued",
                "running",
                "finished",
                "failed",
                "canceled",
                name="phase_status",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("actor_id", sa.Integer(), nullable=True),
        sa.Column("authenticated_by_id", sa.Integer(), nullable=True),
        sa.Column("authenticated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("mfa_serial", sa.String(length=256), nullable=True),
        sa.Column("session_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("session_seconds", sa.Integer(), nullable=True),
        sa.Column("caller_arn", sa.String(length=2048), nullable=True),
        sa.Column("gate_note", sa.String(length=300), nullable=False),
        sa.Column("claim", sa.String(length=36), nullable=True),
        sa.Column("claim_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("log_size", sa.Integer(), nullable=False),
        sa.Column("log_lines", sa.Integer(), nullable=False),
        sa.Column("spool_offset", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["actor_id"], ["user_account.id"], name=op.f("fk_phase_actor_id_user_account")),
        sa.ForeignKeyConstraint(
            ["authenticated_by_id"], ["user_account.id"], name=op.f("fk_phase_authenticated_by_id_user_account")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_phase_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_phase")),
        sa.UniqueConstraint("run_id", "kind", name=op.f("uq_phase_run_id_kind")),
    )
    op.create_table(
        "state_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("environment_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("lineage", sa.String(length=100), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("resources", sa.Integer(), nullable=False),
        sa.Column("terraform_version", sa.String(length=40), nullable=False),
        sa.Column("blob_id", sa.String(length=36), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_state_version_blob_id_blob")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environment.id"], name=op.f("fk_state_version_environment_id_environment")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_state_version_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_state_version")),
        sa.UniqueConstraint("environment_id", "number", name=op.f("uq_state_version_environment_id_number")),
    )
    with op.batch_alter_table("state_version", schema=None) as batch_op:
        batch_op.create_index("ix_state_version_environment_id_serial", ["environment_id", "serial"], unique=False)

    op.create_table(
        "log_chunk",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("phase_id", sa.Integer(), nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("first_line", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("sgr", sa.String(length=60), nullable=False),
        sa.Column("tone", sa.String(length=10), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["phase_id"], ["phase.id"], name=op.f("fk_log_chunk_phase_id_phase")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_chunk")),
        sa.UniqueConstraint("phase_id", "offset", name=op.f("uq_log_chunk_phase_id_offset")),
    )
    with op.batch_alter_table("log_chunk", schema=None) as batch_op:
        batch_op.create_index("ix_log_chunk_phase_id_first_line", ["phase_id", "first_line"], unique=False)

    op.create_table(
        "mfa_attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("phase_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("serial", sa.String(length=256), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "outcome",
            sa.Enum(
                "accepted",
                "refused",
                "unanswered",
                "stopped",
                name="outcome",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("aws_code", sa.String(length=100), nullable=False),
        sa.Column("aws_message", sa.String(length=500), nullable=False),
        sa.Column("caller_arn", sa.String(length=2048), nullable=True),
        sa.Column("session_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["phase_id"], ["phase.id"], name=op.f("fk_mfa_attempt_phase_id_phase")),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_mfa_attempt_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mfa_attempt")),
    )
    with op.batch_alter_table("mfa_attempt", schema=None) as batch_op:
        batch_op.create_index("ix_mfa_attempt_phase_id_at", ["phase_id", "at"], unique=False)
        batch_op.create_index("ix_mfa_attempt_serial_at", ["serial", "at"], unique=False)
        batch_op.create_index("ix_mfa_attempt_user_id_at", ["user_id", "at"], unique=False)
