"""The lists of organizations and environments, with none, one and many."""

from __future__ import annotations

from flask import Flask

from policy.lifecycle import RunStatus
from policy.permissions import Role
from tests import factories
from tests.factories import World
from tests.support.client import Client


def test_no_organization(app: Flask, anonymous: Client) -> None:
    with app.app_context():
        factories.person("dora")
    page = anonymous.sign_in("dora").get("/").get_data(as_text=True)
    assert "You belong to no organization yet" in page


def test_the_only_organization_is_gone_to(alice: Client, world: World) -> None:
    assert alice.get("/").location == world.home


def test_many_organizations(app: Flask, alice: Client) -> None:
    with app.app_context():
        factories.member("alice", "labs", Role.MEMBER)
        factories.member("carol", "other", Role.OWNER)
    page = alice.get("/").get_data(as_text=True)
    assert "/terraform/acme" in page and "/terraform/labs" in page
    assert "/terraform/other" not in page


def test_environments_with_their_latest_runs(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        network = factories.environment(description="VPC, subnets")
        factories.run(network, RunStatus.APPLIED, message="Older")
        factories.run(network, RunStatus.AWAITING_APPLY_AUTHENTICATION, message="<Newer>")
        factories.lock("Freeze", "alice", "staging")
    page = bob.get(world.home).get_data(as_text=True)
    assert "You have access to 2 environments; 1 has a run that waits for a person." in page
    assert "#2 &lt;Newer&gt;" in page and "Older" not in page
    assert "Awaiting authentication" in page
    assert "No run yet" in page
    assert "Locked by alice" in page and "Freeze" in page
    assert "New environment" not in page


def test_only_owners_are_offered_a_new_environment(alice: Client, world: World) -> None:
    assert f"{world.home}/environments/new" in alice.get(world.home).get_data(as_text=True)


def test_first_steps_for_a_member_name_the_owner(app: Flask, anonymous: Client) -> None:
    with app.app_context():
        factories.member("dora", "empty", Role.OWNER)
        factories.member("erin", "empty", Role.MEMBER)
    page = anonymous.sign_in("erin").get("/terraform/empty").get_data(as_text=True)
    assert "An owner does this: dora" in page
    assert "/environments/new" not in page
    assert "Set variables" in page
