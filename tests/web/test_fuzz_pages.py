"""What people and terraform write never becomes an element or an attribute: asserted on the parsed page."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from extensions import db
from models import StateVersion
from policy.lifecycle import RunStatus
from policy.plan_summary import summarize
from policy.run_errors import plain
from services import audit
from services.storage import logs
from services.storage.ansi import render_lines
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web.run_stories import story

HOSTILE = [
    "<xss onxss=xss>", "</title><xss onxss=1>", "</script><xss>", "\"><xss onxss='1'>", "' onxss='1", "\" onxss=\"1",
    "<!--<xss>", "]]><xss>", "&lt;xss&gt;<xss>", "<svg/onxss=1>", "<img src=x onxss=1>", "javascript:xss()", "{{xss}}",
    "<a href=javascript:xss()>", "\x1b[31m<xss>\x1b[0m", "\x1b]8;;javascript:xss()\x1b\\<xss>\x1b]8;;\x1b\\",
    "<\x1b[1mxss onxss=1>", "<\x00xss>", "<x\u200bss onxss=1>", "\u202e<xss>", "<textarea><xss>", "`><xss onxss=1>",
]  # fmt: skip

#: Everything that an element of ours may be inside a line of a log.
LINE = {"li", "span", "b", "a", "svg", "use", "code"}
LINE_ATTRIBUTES = {"class", "id", "href", "aria-hidden", "title", "data-line", "aria-label", "tabindex"}


class Page(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")


def clean(text: str, what: str) -> None:
    page = Page(text)
    assert "xss" not in page.elements, what
    assert not [name for name in page.attributes if "xss" in name or name.startswith("on")], what
    for name in ("href", "src", "action", "formaction", "hx-get", "hx-post"):
        for value in page.attributes.get(name, []):
            assert not value.strip().lower().startswith(("javascript:", "data:", "vbscript:", "//")), f"{what}: {value}"
    assert "style" not in page.attributes and "style" not in page.elements, what
    assert not page.elements & {"iframe", "object", "embed", "base", "textarea-xss"}, what


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20), st.sampled_from(["\n", "\r", "\x1b[", "m"]))))
def test_no_log_makes_an_element(pieces: list[str]) -> None:
    rendered = render_lines("".join(pieces).encode("utf-8", "replace"), first_line=1, sgr="", anchor="plan")
    page = Page("".join(rendered.lines))
    assert page.elements <= LINE, page.elements
    assert set(page.attributes) <= LINE_ATTRIBUTES, page.attributes
    clean("".join(rendered.lines), "a log")


@pytest.mark.parametrize("hostile", ["".join(HOSTILE[first::6]) for first in range(6)])
def test_no_name_message_output_or_line_makes_an_element(app: Flask, alice: Client, world: World, hostile: str) -> None:
    word = "".join(char for char in hostile if char.isprintable())[:190]
    with app.app_context():
        factories.environment(description=word)
        network = factories.lock(word)
        version = factories.configuration(network)
        version.filename, version.message, version.directories = word, word, word
        run = story(network, RunStatus.APPLIED, message=word, error=plain(hostile), terraform_directory=word)
        run.summary = summarize(_plan(hostile)).to_json()
        run.plan.gate_note = word
        logs.say(run.apply.id, hostile)
        logs.append(run.apply.id, run.apply.log_size, hostile.encode() + b"\n")
        factories.variable("tag", word, of=network)
        db.session.execute(update(StateVersion).values(lineage=word))
        audit.record("thing.happened", factories.person("alice"), run=run, said={hostile: [hostile, {"a": hostile}]})
        db.session.commit()
        number = run.number
    here = f"{world.path}/changes/runs"
    for path in (
        world.home, here, f"{here}/{number}", f"{here}/{number}?resources=all", f"{here}/{number}/status",
        f"{here}/{number}/evidence", f"{world.path}/variables", f"{world.path}/settings", f"{world.path}/states",
        f"{world.path}/states/compare", f"{world.home}/audit", f"{world.home}/audit?who={word}",
        f"{world.path}/variables?edit=1",
    ):  # fmt: skip
        answer = alice.get(path)
        assert answer.status_code < 500
        if answer.content_type.startswith("text/html"):
            clean(answer.text, f"{path} with {hostile!r}")


def _plan(hostile: str) -> dict[str, object]:
    change = {"actions": ["update"], "before": {hostile: hostile}, "after": {hostile: hostile + "2", "n": [hostile]}}
    resource = {"address": f'terraform_data.x["{hostile}"]', "mode": "managed", "type": "terraform_data", "name": "x"}
    output = {"actions": ["create"], "before": None, "after": hostile}
    return {
        "format_version": "1.2",
        "resource_changes": [resource | {"index": hostile, "provider_name": hostile, "change": change}],
        "output_changes": {hostile: output},
    }


@pytest.mark.parametrize(
    "path",
    ["/changes/runs/{run}/plan/log.txt", "/states/1", "/changes/runs/{run}/evidence.json", "/../../audit.csv"],
)
def test_what_people_write_is_handed_out_as_a_file_and_never_as_a_page(
    app: Flask, alice: Client, world: World, path: str
) -> None:
    with app.app_context():
        run = factories.run(factories.environment(), RunStatus.APPLIED, message="<script>xss()</script>")
        logs.say(run.plan.id, "<script>xss()</script>")
        factories.state(run)
        db.session.commit()
        number = run.number
    address = f"{world.home}/audit.csv" if "audit" in path else world.path + path.format(run=number)
    answer = alice.get(address)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "html" not in answer.content_type and "xml" not in answer.content_type
