"""The pages of variables: four scopes, two categories, and values that are never shown again."""

from __future__ import annotations

import re
from html import unescape

import pytest
from flask import Flask

from extensions import db
from models import AuditEvent, Category, Scope
from services import variables
from tests import factories
from tests.factories import World
from tests.support.client import Client, form_in

SHARED = "/settings/organization_variables"
SECRET = "wJalrXUtnFEMI-K7MDENG"


def _page(client: Client, path: str) -> str:
    return unescape(client.get(path).get_data(as_text=True))


def _edit(client: Client, save: str, number: int, suffix: str = "#variable-{}") -> dict[str, str]:
    """What a browser would send from the form for this variable, but what is typed and ticked."""
    page = save.rpartition("/")[0] if save.startswith("/terraform") else f"{SHARED}?organization=acme"
    shown = _page(client, f"{page}{'&' if '?' in page else '?'}edit={number}")
    return form_in(shown, f"{save}/{number}{suffix.format(number)}")


def _resolved(app: Flask, who: str, world: World) -> variables.Resolved:
    with app.app_context():
        place = factories.member(who, world.organization)
        return variables.resolve(place.user, place.organization, factories.environment())


@pytest.fixture
def places(world: World) -> dict[Scope, str]:
    here = f"{world.path}/variables"
    return {
        Scope.ORGANIZATION: f"{SHARED}/acme/shared",
        Scope.ENVIRONMENT: f"{here}/environment",
        Scope.PERSONAL_ORGANIZATION: f"{SHARED}/acme/personal",
        Scope.PERSONAL_ENVIRONMENT: f"{here}/personal",
    }


@pytest.mark.parametrize("category", list(Category))
def test_each_scope_wins_over_the_one_before(
    app: Flask, alice: Client, bob: Client, world: World, places: dict[Scope, str], category: Category
) -> None:
    for scope, place in places.items():
        where = place
        if scope is Scope.ENVIRONMENT and category is Category.TERRAFORM:
            where = f"{world.path}/variables/terraform"
        answer = alice.submit(where, {"name": "size", "value": f"of {scope.value}", "category": category.value})
        assert answer.status_code == 303
        assert answer.location.partition("#")[2] == where.rpartition("/")[2]
        resolved = _resolved(app, "alice", world)
        assert getattr(resolved, category.value)["size"] == f"of {scope.value}"
    assert getattr(_resolved(app, "bob", world), category.value)["size"] == "of environment"
    for path in (f"{SHARED}?organization=acme", f"{world.path}/variables"):
        assert "of personal" not in _page(bob, path)


def test_a_sensitive_value_is_on_no_page(app: Flask, alice: Client, places: dict[Scope, str], world: World) -> None:
    ids = []
    with app.app_context():
        ids.append(factories.variable("PSK", SECRET, sensitive=True).id)
        ids.append(factories.variable("PSK", SECRET, of=factories.environment(), sensitive=True).id)
        ids.append(factories.variable("PSK", SECRET, owner="alice", sensitive=True).id)
    for path in (f"{SHARED}?organization=acme", f"{world.path}/variables"):
        for edit in ["", *ids]:
            page = _page(alice, f"{path}{'&' if '?' in path else '?'}edit={edit}")
            assert SECRET not in page
            assert "PSK" in page
    editing = _page(alice, f"{SHARED}?organization=acme&edit={ids[0]}")
    assert "Leave empty to keep the stored value." in editing


def test_editing_a_sensitive_one_with_nothing_keeps_it(app: Flask, alice: Client, world: World) -> None:
    save = f"{SHARED}/acme/shared"
    with app.app_context():
        number = factories.variable("PSK", SECRET, sensitive=True).id
    alice.submit(f"{save}/{number}", {**_edit(alice, save, number), "value": "", "sensitive": "on"})
    assert _resolved(app, "alice", world).env["PSK"] == SECRET
    answer = alice.submit(f"{save}/{number}", {**_edit(alice, save, number), "value": ""})
    assert answer.status_code == 422
    assert 'aria-describedby="variable-' in answer.get_data(as_text=True)
    assert _resolved(app, "alice", world).env["PSK"] == SECRET


def test_an_old_form_overwrites_nothing_that_it_did_not_show(
    app: Flask, alice: Client, bob: Client, world: World
) -> None:
    save = f"{world.path}/variables/environment"
    with app.app_context():
        number = factories.variable("RATE", "one", of=factories.environment()).id
    old, delete = _edit(alice, save, number), _edit(alice, save, number, "/delete")
    bob.submit(f"{save}/{number}", {**_edit(bob, save, number), "value": "of bob"})
    answer = alice.submit(f"{save}/{number}", {**old, "value": "of alice"})
    page = unescape(answer.get_data(as_text=True))
    assert answer.status_code == 409
    assert re.search(r"bob changed RATE on \d\d \w{3} \d{4} \d\d:\d\d UTC, which your page did not show\.", page)
    assert "Nothing was saved" in page and "of alice</textarea>" in page
    gone = alice.submit(f"{save}/{number}/delete", delete)
    assert gone.status_code == 409 and "bob changed RATE" in unescape(gone.get_data(as_text=True))
    assert alice.submit(f"{save}/{number}/delete").status_code == 409  # what it showed is not known
    assert _resolved(app, "alice", world).env["RATE"] == "of bob"
    # It was said, so what the form has now is saved knowingly.
    again = form_in(page, f"{save}/{number}#variable-{number}")
    assert alice.submit(f"{save}/{number}", {**again, "value": "of alice"}).status_code == 303
    assert _resolved(app, "bob", world).env["RATE"] == "of alice"


def test_a_refused_value_makes_no_old_form_a_new_one(app: Flask, alice: Client, bob: Client, world: World) -> None:
    save = f"{world.path}/variables/environment"
    with app.app_context():
        number = factories.variable("AWS_ACCESS_KEY_ID", "AKIAONE", of=factories.environment()).id
    old = _edit(alice, save, number)
    refused = alice.submit(f"{save}/{number}", {**old, "value": "ASIAIOSFODNN7EXAMPLE"})
    assert refused.status_code == 422
    bob.submit(f"{save}/{number}", {**_edit(bob, save, number), "value": "AKIABOB"})
    again = form_in(unescape(refused.get_data(as_text=True)), f"{save}/{number}#variable-{number}")
    assert again == old
    assert alice.submit(f"{save}/{number}", {**again, "value": "AKIAALICE"}).status_code == 409
    assert _resolved(app, "alice", world).env["AWS_ACCESS_KEY_ID"] == "AKIABOB"


@pytest.mark.parametrize("ticked", [{}, {"sensitive": "on"}])
def test_a_double_click_saves_once_and_says_so_twice(
    app: Flask, alice: Client, world: World, ticked: dict[str, str]
) -> None:
    save = f"{SHARED}/acme/shared"
    with app.app_context():
        number = factories.variable("PSK", "before").id
    form = {**_edit(alice, save, number), "value": SECRET, **ticked}
    assert [alice.submit(f"{save}/{number}", form).status_code for _ in range(2)] == [303, 303]
    assert "PSK saved." in _page(alice, f"{SHARED}?organization=acme")
    with app.app_context():
        assert db.session.query(AuditEvent).filter_by(action="variable.change").count() == 1
    # Something else from the same form is no second click, also where she herself was quicker, in another tab.
    page = unescape(alice.submit(f"{save}/{number}", {**form, "value": "another"}).get_data(as_text=True))
    assert "You changed PSK on" in page
    assert _resolved(app, "alice", world).env["PSK"] == SECRET


def test_an_old_form_is_no_way_to_try_what_somebodys_secret_is(app: Flask, bob: Client, world: World) -> None:
    save = f"{world.path}/variables/environment"
    with app.app_context():
        number = factories.variable("PSK", SECRET, of=factories.environment(), sensitive=True).id
    for guess in (SECRET, "another"):
        answer = bob.submit(f"{save}/{number}", {"seen": "", "value": guess, "sensitive": "on"})
        assert answer.status_code == 409 and SECRET not in answer.get_data(as_text=True)


def test_an_old_page_makes_nothing_visible_that_became_sensitive(app: Flask, alice: Client, world: World) -> None:
    save = f"{SHARED}/acme/shared"
    with app.app_context():
        number = factories.variable("PSK", "before").id
    editing = f"{SHARED}?organization=acme&edit={number}"
    old = _edit(alice, save, number) | {"value": SECRET}
    assert alice.submit(f"{save}/{number}", old | {"sensitive": "on"}).status_code == 303  # somebody, in another page
    answer = alice.submit(f"{save}/{number}", old)
    page = unescape(answer.get_data(as_text=True))
    assert answer.status_code == 409 and SECRET not in page
    assert "it is sensitive: type the value again to replace it, and tick “Sensitive” to keep it so." in page
    assert SECRET not in _page(alice, editing)
    # Who has seen it and types the value may.
    assert alice.submit(f"{save}/{number}", _edit(alice, save, number) | {"value": "not secret"}).status_code == 303
    assert "not secret" in _page(alice, editing)


def test_a_secret_key_is_sensitive_whatever_was_ticked(app: Flask, alice: Client, world: World) -> None:
    alice.submit(f"{SHARED}/acme/shared", {"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET, "category": "env"})
    page = _page(alice, f"{SHARED}?organization=acme")
    assert SECRET not in page
    save, number = f"{SHARED}/acme/shared", int(re.findall(r"edit=(\d+)", page)[0])
    assert "Always sensitive" in _page(alice, f"{SHARED}?organization=acme&edit={number}")
    alice.submit(f"{save}/{number}", {**_edit(alice, save, number), "value": SECRET + "2"})
    assert SECRET not in _page(alice, f"{SHARED}?organization=acme")
    assert _resolved(app, "alice", world).env["AWS_SECRET_ACCESS_KEY"] == SECRET + "2"


def test_a_refused_secret_is_not_given_back(alice: Client, world: World) -> None:
    for data in (
        {"name": "PATH", "sensitive": "on"},
        {"name": "1AWS", "sensitive": "on"},
        {"name": "AWS_SECRET_ACCESS_KEY"},
    ):
        answer = alice.submit(f"{world.path}/variables/environment", {"value": f"{SECRET} with blanks", **data})
        page = answer.get_data(as_text=True)
        assert answer.status_code == 422
        assert SECRET not in page
        assert f'value="{data["name"]}"' in page


@pytest.mark.parametrize(
    ("name", "value", "at", "sentence"),
    [
        ("PATH", "/bin", "name", "PATH cannot be set"),
        ("AWS_ENDPOINT_URL", "https://x", "name", "cannot be set"),
        ("2many", "x", "name", ""),
        ("", "x", "name", "Enter a name."),
        ("AWS_MFA_SERIAL_NUMBER", "arn:aws:iam::123456789012:user/alice", "value", ":mfa/ in place of :user/"),
        ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE", "value", "temporary key"),
        ("big", "x" * (256 * 1024 + 1), "value", "256"),
        ("taken", "x", "name", "is set here already"),
    ],
)
def test_refused_with_the_reason_at_the_field(
    app: Flask, alice: Client, world: World, name: str, value: str, at: str, sentence: str
) -> None:
    with app.app_context():
        factories.variable("taken", "first", of=factories.environment())
    answer = alice.submit(f"{world.path}/variables/environment", {"name": name, "value": value})
    page = unescape(answer.get_data(as_text=True))
    assert answer.status_code == 422
    assert f'id="environment-new-{at}-error"' in page
    assert sentence in page
    assert '<details class="card-foot confirm" id="environment-new" open>' in page
    assert value in page  # not a secret, so typing it once is enough


def test_a_sensitive_hcl_value_with_a_short_part_is_refused_and_not_shown(
    app: Flask, alice: Client, world: World
) -> None:
    form = {"name": "conf", "value": '{ pin = "123", pw = "longpassword" }', "hcl": "on", "sensitive": "on"}
    answer = alice.submit(f"{world.path}/variables/terraform", form)
    page = unescape(answer.get_data(as_text=True))
    assert answer.status_code == 422
    assert "a string or number in it has fewer than 4 characters. Nothing was saved." in page
    assert "123" not in re.findall(r"<textarea.*?</textarea>", page, re.DOTALL)[-1] and "longpassword" not in page
    form["value"] = '{ pin = "1234", pw = "longpassword", on = true }'
    assert alice.submit(f"{world.path}/variables/terraform", form).status_code == 303
    assert _resolved(app, "alice", world).unhidden == ()


def test_the_largest_value_fits_in_the_form(app: Flask, alice: Client, world: World) -> None:
    value = "ä" * (128 * 1024)
    answer = alice.submit(f"{world.path}/variables/terraform", {"name": "big", "value": value})
    assert answer.status_code == 303
    assert _resolved(app, "alice", world).terraform["big"] == value
    assert len(_page(alice, f"{world.path}/variables")) < 50_000


def test_lines_are_kept_as_they_are(app: Flask, alice: Client, world: World) -> None:
    value = "\n  first\n\tsecond  \n\n"
    alice.submit(f"{world.path}/variables/terraform", {"name": "lines", "value": value.replace("\n", "\r\n")})
    assert _resolved(app, "alice", world).terraform["lines"] == value
    page = _page(alice, f"{world.path}/variables")
    number = re.findall(r"edit=(\d+)", page)[0]
    editing = _page(alice, f"{world.path}/variables?edit={number}")
    assert f">\n{value}</textarea>" in editing  # a browser drops one line break after the tag


def test_hcl_stays_apart_and_can_be_changed(app: Flask, alice: Client, world: World) -> None:
    alice.submit(f"{world.path}/variables/terraform", {"name": "zones", "value": '["a"]', "hcl": "on"})
    assert _resolved(app, "alice", world).hcl == {"zones": '["a"]'}
    page = _page(alice, f"{world.path}/variables")
    assert ">HCL<" in page
    save, number = f"{world.path}/variables/terraform", int(re.findall(r"edit=(\d+)", page)[0])
    alice.submit(f"{save}/{number}", {**_edit(alice, save, number), "value": "plain"})
    assert _resolved(app, "alice", world).terraform == {"zones": "plain"}


def test_delete_asks_first_and_then_does(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        number = factories.variable("gone", "soon", owner="alice").id
    page = _page(alice, f"{SHARED}?organization=acme&edit={number}")
    assert "Delete gone?" in page
    save = f"{SHARED}/acme/personal"
    assert alice.submit(f"{save}/{number}/delete", _edit(alice, save, number, "/delete")).status_code == 303
    assert "gone deleted." in _page(alice, f"{SHARED}?organization=acme")
    assert "gone" not in _resolved(app, "alice", world).env


def test_members_read_the_shared_ones(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        number = factories.variable("owner_tag", "platform").id
    page = _page(bob, f"{SHARED}?edit={number}")
    assert "platform" in page and "Owners can change them." in page
    assert f"edit={number}" not in page and f"shared/{number}" not in page


def test_check_list(app: Flask, alice: Client, bob: Client) -> None:
    with app.app_context():
        for owner, user in ((None, "bot"), ("alice", "alice")):
            factories.variable("AWS_ACCESS_KEY_ID", f"AKIA{user}", owner=owner)
            factories.variable("AWS_SECRET_ACCESS_KEY", f"a-secret-key-of-{user}", owner=owner)
        factories.variable("AWS_MFA_SERIAL_NUMBER", "arn:aws:iam::123456789012:mfa/alice", owner="alice")
        factories.variable("AWS_DEFAULT_REGION", "eu-west-1")
    page = _page(alice, SHARED)
    assert "Yes, for runs that you initiate" in page
    assert "ask for a code from <code>arn:aws:iam::123456789012:mfa/alice</code>" in page
    assert "in <code>eu-west-1</code>" in page
    assert "different panels" not in page
    page = _page(bob, SHARED)
    assert "No: 1 variable missing" in page and "mfa/alice" not in page and "AKIAalice" not in page
    bob.submit(f"{SHARED}/acme/personal", {"name": "AWS_MFA_SERIAL_NUMBER", "value": "GAHT12345678", "category": "env"})
    assert "Keys and device come from different panels" in _page(bob, SHARED)


def test_another_organization_can_be_chosen(app: Flask, alice: Client, carol: Client) -> None:
    with app.app_context():
        factories.member("alice", "labs", factories.member("alice").role)
    assert "<option selected>acme</option><option>labs</option>" in _page(alice, SHARED)
    assert "<option>acme</option><option selected>labs</option>" in _page(alice, f"{SHARED}?organization=labs")
    assert "<option" not in _page(carol, SHARED).split('id="mfa-heading"')[0]


def test_what_comes_from_the_organization(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        factories.variable("both", "shared one")
        factories.variable("both", "own one", owner="alice")
    page = _page(alice, f"{world.path}/variables").split("From the organization")[1]
    rows = re.findall(r"<code>(shared one|own one)</code>.*?data-label=\"From\">([^<]+)<", page)
    assert rows == [("shared one", "shared, replaced"), ("own one", "personal")]
