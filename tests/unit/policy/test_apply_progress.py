"""How far an apply got, read from its log."""

from __future__ import annotations

from policy.apply_progress import progress

LOG = """\
aws_iam_role.this: Creating...
module.a["x: y"].aws_vpc.main[0]: Modifying... [id=vpc-1]
aws_instance.old: Destroying... [id=i-1]
terraform_data.provisioned: Creating...
terraform_data.provisioned: Provisioning with 'local-exec'...
terraform_data.provisioned (local-exec): something: Creating...
terraform_data.provisioned: Still creating... [10s elapsed]
aws_iam_role.this: Creation complete after 2s [id=network]
\x1b[0m\x1b[1mmodule.a["x: y"].aws_vpc.main[0]: Modifications complete after 1m3s [id=vpc-1]\x1b[0m
aws_instance.old: Destruction complete after 0s
aws_instance.old: Creating...
aws_flow_log.this: Creating...
│ Error: creating EC2 Flow Log: AccessDenied
│
│   with aws_flow_log.this,
│   on main.tf line 1
"""


def test_done_failed_and_begun_without_an_answer() -> None:
    found = progress(line.encode() for line in LOG.splitlines())
    assert found.done == ["aws_iam_role.this", 'module.a["x: y"].aws_vpc.main[0]']
    assert found.failed == ["aws_flow_log.this"]
    assert found.unsure == ["aws_instance.old", "terraform_data.provisioned"]


def test_nothing_of_an_empty_log() -> None:
    found = progress([])
    assert (found.done, found.failed, found.unsure) == ([], [], [])
