"""No secret anywhere: canaries of every kind are planted, printed by a configuration in every form, and looked for.

Looked for in every table, the database's files, Redis (keys, values and its dump), the spool, the logs of web server
and worker, arguments and environments of processes, and every page, during a run and after it. Left out is what is the
child's own: its environment, and in its working directory the configuration, variables, state and plan; the two files
with the keys; and the download of a state, which is the state.
"""

from __future__ import annotations

import base64
import contextlib
import html
import http.cookiejar
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from extensions import db
from models import Category, MfaAttempt, Run, TokenScope
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import queue, states, tokens
from services.mfa import handoff
from services.mfa.credentials import TemporaryCredentials
from tests import factories
from tests.deploy.launcher import free_port
from tests.support import lab
from tests.worker.configurations import hcl
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

ROOT = Path(__file__).resolve().parents[2]
Hits = list[tuple[str, str]]
#: The parts of a working directory that are no child's own.
OURS = re.compile(r"/work/phase-[^/]+/(spool$|control/|archive$)")
KEY_FILES = {"secret_key", "encryption_keys"}
#: GETs that answer with a state as it is, to whoever may have it.
STATES = {"/terraform/<organization>/environments/<environment>/states/<int:number>"}

PRINTS = r"""
env | sort
printf '%s\n' "$P" "$M"
printf '%s' "$P" | base64
printf '%s' "$M" | base64
printf '%s' "$AWS_SECRET_ACCESS_KEY" | base64 -w 0; echo
printf 'x%s' "$AWS_SESSION_TOKEN" | base64 -w 0; echo
cat ../../../encryption_keys ../../../secret_key
echo the-forms-are-printed
for _ in $(seq 1200); do test -e go && exit 0; sleep 0.1; done
"""
DECLARED = 'variable "plain" {}\nvariable "multi" {}\nvariable "repo" {}\nvariable "number" {\n  type = number\n}\n'
PRINTING = f"""{DECLARED}
resource "terraform_data" "named" {{
  for_each = toset([var.plain])
  input    = each.key
}}
resource "terraform_data" "forms" {{
  input = {{
    (var.plain) = "its name"
    json   = jsonencode({{ a = var.plain }})
    twice  = jsonencode(jsonencode([var.plain]))
    url    = urlencode(var.plain)
    zero   = base64encode(var.plain)
    one    = base64encode("a${{var.plain}}z")
    two    = base64encode("ab${{var.plain}}z")
    multi  = var.multi
    mjson  = jsonencode(var.multi)
    mbase  = base64encode(var.multi)
    number = var.number
    repo   = var.repo
  }}
  provisioner "local-exec" {{
    command     = {hcl(PRINTS)}
    environment = {{
      P = var.plain
      M = var.multi
    }}
  }}
}}
output "plain" {{
  value = var.plain
}}
output "all" {{
  value = [var.multi, var.number, var.repo, base64encode(var.plain)]
}}
"""
FAILING = f"""{DECLARED}
resource "terraform_data" "named" {{
  input = tonumber(var.plain)
  lifecycle {{
    precondition {{
      condition     = var.plain == "other"
      error_message = "It goes on until it is broken: ${{var.plain}} and ${{var.repo}} and ${{var.multi}}."
    }}
  }}
}}
"""


class Canaries:
    """The planted secrets by name, and where they must not be."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}

    def plant(self, name: str, value: str = "") -> str:
        value = value or f"canary-{name.replace(' ', '-')}-{secrets.token_hex(8)}"
        self.planted[name] = value
        return value

    def found(self, where: str, content: bytes) -> Hits:
        """Which of them stand in ``content``, in any shape."""
        haystack = content + b"\0" + html.unescape(content.decode("utf-8", "replace")).encode()
        return [(name, where) for name, value in self.planted.items() if any(n in haystack for n in shapes(value))]


def shapes(value: str) -> set[bytes]:
    """Made without the code under test."""
    found: set[bytes] = set()
    for part in {value, *(line for line in value.splitlines() if len(line) >= 12)}:
        raw = part.encode()
        found |= {raw, html.escape(part).encode(), json.dumps(part)[1:-1].encode()}
        found |= {json.dumps(part, ensure_ascii=False)[1:-1].encode()}
        found |= {urllib.parse.quote(part, safe=safe).encode() for safe in ("", "/")}
        found |= {urllib.parse.quote_plus(part).encode()}
        for before in (b"", b"a", b"ab"):
            encoded = base64.b64encode(before + raw)
            core = encoded[4 if before else 0 : -4]
            if len(core) >= 12:
                found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return found


# -- where they are looked for ------------------------------------------------------------------------------------


def everything(bench: Bench, canaries: Canaries, outputs: list[Path], processes: list[int]) -> Hits:
    hits: Hits = []
    for table in db.metadata.sorted_tables:
        for row in db.session.execute(text(f'SELECT * FROM "{table.name}"')):  # noqa: S608 (a name of our own)
            values = [value if isinstance(value, bytes) else str(value).encode() for value in row]
            hits += canaries.found(f"table {table.name}", b"\0".join(values))
    db.session.rollback()
    for path in [*bench.home.rglob("*"), *outputs]:
        own = "/work/phase-" in str(path) and not OURS.search(str(path))
        if not own and path.name not in KEY_FILES and path.is_file():
            # By another process: see lab.stored.
            content = subprocess.run(["cat", path], check=False, capture_output=True).stdout
            hits += canaries.found(f"file {path}", content)
    client = queue.connection()
    for key in client.scan_iter("*"):
        hits += canaries.found(f"redis {key!r}", repr((key, lab._value(client, key))).encode())
    client.save()
    dump = Path(os.fsdecode(config_of(client, "dir"))) / os.fsdecode(config_of(client, "dbfilename"))
    hits += canaries.found("the dump of Redis", dump.read_bytes())
    return hits + in_processes(canaries, processes)


def config_of(client: Any, name: str) -> Any:
    found = client.config_get(name)
    return found.get(name) or found[name.encode()]


def in_processes(canaries: Canaries, roots: list[int]) -> Hits:
    hits: Hits = []
    for root in roots:
        family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
        childs = {one.pid for one in family if child_of_a_run(one)}
        for process in family:
            with contextlib.suppress(OSError, psutil.Error):
                folder = Path(f"/proc/{process.pid}")
                hits += canaries.found(f"arguments of {process.pid}", folder.joinpath("cmdline").read_bytes())
                if process.pid not in childs:
                    hits += canaries.found(f"environment of {process.pid}", folder.joinpath("environ").read_bytes())
    return hits


def child_of_a_run(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        line = [process, *process.parents()]
        return any("child_wrapper" in " ".join(one.cmdline()) for one in line)
    return True


class Browser:
    """Somebody at the real web server."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        token = re.search(r'name="csrf_token" value="([^"]+)"', self.get("/login")[1].decode())
        assert token
        form = {"csrf_token": token[1], "username": name, "password": factories.PASSWORD}
        self._opener.open(f"{url}/login", urllib.parse.urlencode(form).encode(), timeout=60).read()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 (our own server)
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


def on_pages(bench: Bench, canaries: Canaries, browser: Browser, runs: list[Run]) -> Hits:
    """Every GET of the application, as a page and as a fragment."""
    hits, good, more = Hits(), 0, "?organization=acme&to=1&offset=0&phase=apply"
    numbers = {run.number for run in runs} | {1, 2}
    db.session.rollback()  # a transaction that stays open here would keep the web server from writing
    for rule in bench.app.url_map.iter_rules():
        if (
            "GET" not in (rule.methods or ())
            or rule.rule in STATES
            or rule.endpoint == "static"
            or "/api/" in rule.rule
        ):
            continue
        for number in sorted(numbers) if "number" in str(rule.arguments) or "run" in rule.arguments else (1,):
            values = {"organization": "acme", "environment": "network", "panel": "personal", "kind": "apply"}
            known = {name: values.get(name, "apply" if "phase" in name else number) for name in rule.arguments}
            path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", lambda found: str(known[found[1]]), rule.rule)  # noqa: B023
            for query, headers in (("", {}), (more, {}), (more, {"HX-Request": "true"})):
                status, body = browser.get(path + query, **headers)
                good += status == 200
                hits += canaries.found(f"page {path}{query} for {browser.name}", body)
    assert good > 25, "the pages are really there"
    return hits


# -- the processes ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(bench: Bench, arguments: list[str], output: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = bench.app.config["LOCKSTEP"]
    environment = {
        **{name: os.environ[name] for name in ("PATH", "TERRAFORM_SANDBOX_PATHS") if name in os.environ},
        "LOCKSTEP_HOME": str(bench.home),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "AWS_ENDPOINT_URL": bench.aws.endpoint,
        "LOG_LEVEL": "DEBUG",
        **more,
    }
    with output.open("ab") as file:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310 (our own server)
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def canaries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Canaries:
    """Everything is planted; the temporary credentials join as they are handed out."""
    canaries = Canaries()
    tail = ' "<&>\\ +/%${x}é and several words in it'
    values = {
        "plain": canaries.plant("plain", f"canary-plain-{secrets.token_hex(8)}{tail}"),
        "multi": canaries.plant("multi", "\n".join(secrets.token_urlsafe(30) for _ in range(4))),
        "number": canaries.plant("number", str(10**15 + secrets.randbelow(10**14))),
    }
    for name, value in values.items():
        factories.variable(name, value, category=Category.TERRAFORM, sensitive=True, owner="alice")
    password = canaries.plant("git password in a variable")
    address = f"https://bob:{password}@127.0.0.1:9/x.git"
    factories.variable("repo", address, category=Category.TERRAFORM, owner="alice")
    factories.variable("SECRET_ENV", canaries.plant("environment variable"), sensitive=True, of=bench.environment)
    lab.aws_keys(bench.aws)
    canaries.plant("long-lived key", bench.aws.user().secret_access_key)
    canaries.plant("password", factories.PASSWORD)
    canaries.plant("API token", tokens.create(factories.person("alice"), "ci", TokenScope.READ, None)[1])
    for number, value in enumerate(bench.app.config["LOCKSTEP"].own_secrets):
        canaries.plant(f"own secret {number}", value)
    seal = handoff.seal

    def sealing(phase_id: int, credentials: TemporaryCredentials) -> None:
        for name, value in zip(("secret", "token"), credentials.secrets(), strict=True):
            canaries.plant(f"temporary {name} of phase {phase_id}", value)
        seal(phase_id, credentials)

    monkeypatch.setattr(handoff, "seal", sealing)
    bench.environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()
    return canaries


def ended(run: Run, status: RunStatus, output: Path) -> None:
    lab.until(lambda: lab.status(run) in (status, RunStatus.ERRORED), f"{status}: {output.read_text()[-2000:]}")
    assert lab.status(run) is status, run.error


def authenticate(bench: Bench, run: Run) -> str:
    code = bench.aws.code()
    lab.authenticate(run, code)
    return code


def test_no_canary_is_anywhere(bench: Bench, canaries: Canaries, tmp_path: Path) -> None:
    outputs = [tmp_path / "web.log", tmp_path / "worker.log"]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    web_arguments = ["-m", "gunicorn", "-c", "python:deploy.gunicorn_conf"]
    with (
        started(bench, web_arguments, outputs[0], PORT=str(port), WEB_PROCESSES="1") as web,
        started(bench, ["worker.py"], outputs[1]) as worker,
    ):
        lab.until(lambda: answers(url), "the web server answers")
        people = [Browser(url, "alice"), Browser(url, "bob")]
        run = bench.run(PRINTING)
        codes = [authenticate(bench, run)]
        ended(run, RunStatus.AWAITING_APPLY_AUTHENTICATION, outputs[1])
        codes.append(authenticate(bench, run))
        lab.until(lambda: b"\nthe-forms" in _margin(lab.log_of(run.apply)), "it prints", 90)
        spool = [path for path in bench.home.rglob("spool") if path.is_file()]
        assert spool
        lab.until(lambda: not [hit for path in spool for hit in canaries.found("", path.read_bytes())], "it is wiped")
        during = everything(bench, canaries, outputs, [web.pid, worker.pid])
        during += on_pages(bench, canaries, people[1], [run])
        (bench.home / "work").joinpath(spool[0].parent.name, "config", "go").touch(mode=0o644)
        ended(run, RunStatus.APPLIED, outputs[1])
        failing = bench.run(FAILING)
        codes.append(authenticate(bench, failing))
        source = f"git::https://bob:{canaries.plant('git password in a source')}@127.0.0.1:9/m.git"
        broken = bench.run(f'module "m" {{\n  source = "{source}"\n}}\n')
        lab.until(lambda: lab.status(failing) is RunStatus.ERRORED, f"it fails: {outputs[1].read_text()[-2000:]}")
        codes.append(authenticate(bench, broken))
        lab.until(lambda: lab.status(broken) is RunStatus.ERRORED, "it fails in init")
        lab.until(lambda: not bench.workdirs(), "the working directories are removed")
        after = everything(bench, canaries, outputs, [web.pid, worker.pid])
        for person in people:
            after += on_pages(bench, canaries, person, [run, failing, broken])
    for log in outputs:
        for code in codes:
            assert not lab.holds_code(log.read_bytes(), code)
    attempts = db.session.query(MfaAttempt).count()
    db.session.rollback()
    assert attempts == len(codes)
    logs = [lab.log_of(phase) for one in (run, failing, broken) for phase in one.phases]
    assert sum(log.count("•••") for log in logs) > 25, "it was printed, and hidden"
    assert "•••" in json.dumps(run.summary, ensure_ascii=False)
    state = states.content(bench.environment, 1)[1]
    assert canaries.found("", state), "and it is in the state, which is encrypted at rest"
    # Whoever set a variable that is not marked as sensitive sees and edits it as it is.
    edited = {("git password in a variable", where) for _, where in after if "variables" in where and "alice" in where}
    assert sorted({*during, *after} - edited) == []


def _margin(log: str) -> bytes:
    """The log with what a provisioner printed at the margin."""
    return re.sub(r"(?m)^.*\(local-exec\): ", "", log).encode()


def test_the_search_finds_what_lies_open(bench: Bench, canaries: Canaries, tmp_path: Path) -> None:
    """Each place, with one canary put there."""
    output = tmp_path / "web.log"
    output.write_text("x")
    value = canaries.planted["plain"]
    assert everything(bench, canaries, [output], [os.getpid()]) == []
    output.write_text(json.dumps({"a": value}))
    (bench.home / "forgotten").write_bytes(base64.b64encode(b"ab" + value.encode() + b"zz"))
    queue.connection().lpush("left", urllib.parse.quote(value))
    lab.new_run(bench.environment, message=canaries.planted["number"])
    sleeper = subprocess.Popen(["sleep", "60"], env={"LEFT": value, "PATH": os.environ["PATH"]})
    try:
        hits = {
            re.sub(r"[\d/].*", "", where).strip() for _, where in everything(bench, canaries, [output], [os.getpid()])
        }
    finally:
        sleeper.kill()
        sleeper.wait()
        (bench.home / "forgotten").unlink()
    assert {"file", "redis b'left'", "table run", "the dump of Redis", "environment of"} <= hits
