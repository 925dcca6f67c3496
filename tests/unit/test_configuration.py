"""docs/CONFIGURATION.md and policy/settings.py say the same, and nothing else is read from the environment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import config
from policy.settings import OPERATOR_PASSTHROUGH, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "CONFIGURATION.md").read_text()
APPLICATION = ("app.py", "cli.py", "config.py", "worker.py", "blueprints", "deploy", "models", "policy", "services")
#: Read besides the settings: where to find programs, which every process has and nobody sets for Lockstep.
SURROUNDINGS = {"PATH"}


def _section(title: str) -> list[str]:
    body = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in body.splitlines() if line.startswith("| `")]


def _sources() -> Iterator[Path]:
    for name in APPLICATION:
        path = ROOT / name
        yield from path.rglob("*.py") if path.is_dir() else [path]


def _environment_names(tree: ast.AST) -> Iterator[str]:
    """Names read by `os.environ[…]`, `os.environ.get(…)` and `os.getenv(…)`; "?" for one that is computed.

    A fork of the launcher is given its environment by `clear` and `update`, which read nothing.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield _literal(node.slice)
        elif isinstance(node, ast.Call) and re.fullmatch(
            r"os\.(environ\.(?!(clear|update)$)\w+|getenv)", ast.unparse(node.func)
        ):
            yield _literal(node.args[0]) if node.args else "?"


def _literal(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "?"


def test_the_page_lists_every_setting_and_no_other() -> None:
    documented = [line.split("`")[1] for line in _section("Settings")]
    assert documented == [setting.name for setting in SETTINGS]


def test_the_page_tells_each_default_and_meaning_as_the_program_does() -> None:
    rows = {line.split("`")[1]: line for line in _section("Settings")}
    for setting in SETTINGS:
        assert rows[setting.name] == f"| `{setting.name}` | {setting.default} | {setting.help} |"


def test_the_page_tells_which_settings_terraform_gets() -> None:
    told = re.search(r"Terraform gets (.+?) as they are", PAGE, re.DOTALL)
    assert told is not None
    assert re.findall(r"`([A-Z_]+)`", told.group(1)) == [setting.name for setting in SETTINGS if setting.passed]
    assert "`AWS_ENDPOINT_URL_<SERVICE>`" in PAGE


def test_load_reads_every_setting_and_no_other() -> None:
    class Noting(dict[str, str]):
        def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
            asked.add(name)
            return super().get(name, default)

    asked: set[str] = set()
    get = config._reader(Noting())
    tree = ast.parse((ROOT / "config.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            argument = {"get": 0, "_number": 1}.get(node.func.id)
            if argument is not None and (literal := _literal(node.args[argument])) != "?":
                get(literal)
    for name in OPERATOR_PASSTHROUGH:
        get(name)
    names = {setting.name for setting in SETTINGS}
    assert asked == names | {f"{name}_FILE" for name in names} | {"CREDENTIALS_DIRECTORY"}


def test_nothing_else_is_read_from_the_environment() -> None:
    known = {setting.name for setting in SETTINGS} | SURROUNDINGS
    for path in _sources():
        for name in _environment_names(ast.parse(path.read_text())):
            assert name in known, f"{path.relative_to(ROOT)} reads {name} from the environment"
