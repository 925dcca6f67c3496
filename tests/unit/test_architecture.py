"""Holds the directions of docs/ARCHITECTURE.md: who may import what, and who may commit, start processes, call STS."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2]
LAYERS = (
    "app.py",
    "cli.py",
    "cli_audit.py",
    "worker.py",
    "config.py",
    "extensions.py",
    "blueprints",
    "models",
    "policy",
    "services",
)


def files(*places: str) -> Iterator[Path]:
    for place in places:
        path = TOP / place
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imports(path: Path) -> set[str]:
    """Dotted names of everything that the file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offenders(places: tuple[str, ...], *forbidden: str, allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(TOP)} imports {name}"
        for path in files(*places)
        if str(path.relative_to(TOP)) not in allowed
        for name in sorted(imports(path))
        if any(name == word or name.startswith(word + ".") for word in forbidden)
    ]


def test_the_rules_are_pure() -> None:
    frameworks = ("flask", "flask_login", "flask_sqlalchemy", "sqlalchemy", "boto3", "botocore", "redis", "rq")
    above = ("extensions", "models", "services", "blueprints", "config", "time", "subprocess", "os")
    assert offenders(("policy",), *frameworks, *above) == []


def test_models_know_neither_requests_nor_services() -> None:
    assert offenders(("models",), "flask", "flask_login", "services", "blueprints", "boto3", "botocore", "redis") == []


def test_services_know_no_pages() -> None:
    assert offenders(("services",), "blueprints", "app", "cli", "worker", "wtforms", "flask_wtf", "flask_login") == []


def test_blueprints_reach_the_world_through_services() -> None:
    outside = (
        "boto3",
        "botocore",
        "rq",
        "subprocess",
        "services.mfa.sts",
        "services.mfa.handoff",
        "services.execution",
    )
    assert offenders(("blueprints",), *outside) == []


def test_blueprints_do_not_import_each_others_views() -> None:
    views = [path.stem for path in files("blueprints") if "Blueprint(" in path.read_text()]
    for path in files("blueprints"):
        if path.stem in views:
            others = {f"blueprints.{view}" for view in views if view != path.stem}
            assert not imports(path) & others, path.name


def test_terraform_is_started_in_one_place_and_the_reader_of_archives_in_another() -> None:
    allowed = (
        "services/archive_child.py",
        "services/execution/child_wrapper.py",
        "services/execution/terraform.py",
    )
    assert offenders(LAYERS, "subprocess", allowed=allowed) == []


def created_clients() -> list[tuple[str, str]]:
    """Each ``….create_client("service")``: its file and the service."""
    return [
        (str(path.relative_to(TOP)), ast.literal_eval(node.args[0]))
        for path in files(*LAYERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "create_client"
    ]


def test_sts_is_called_in_one_place_and_the_bucket_in_another() -> None:
    aws = ("services/mfa/sts.py", "services/storage/object_store.py")
    assert offenders(LAYERS, "boto3", "botocore", allowed=aws) == []
    assert [call for call in created_clients() if call not in {(aws[0], "sts"), (aws[1], "s3")}] == []


def callers(method: str) -> set[str]:
    """Files with a call of ``….method(``."""
    return {
        str(path.relative_to(TOP))
        for path in files(*LAYERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    }


def test_jobs_are_queued_in_one_place() -> None:
    assert callers("enqueue") == {"services/queue.py"}


def test_only_services_commit() -> None:
    assert {path for path in callers("commit") if not path.startswith("services/")} == set()


def test_the_demo_is_never_reachable_from_a_real_installation() -> None:
    assert offenders(LAYERS, "demo", "tests", "moto") == []
