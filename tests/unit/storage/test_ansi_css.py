"""The colours of logs can be read: every class has a rule, with AA contrast in both colour schemes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.storage.ansi import ANSI_CSS_CLASSES

STATIC = Path(__file__).parents[3] / "static"
ANSI = (STATIC / "ansi.css").read_text()


def tokens(dark: bool) -> dict[str, str]:
    """The custom properties that hold in a colour scheme."""
    found: dict[str, str] = {}
    for sheet in ((STATIC / "app.css").read_text(), ANSI):
        layer = sheet[sheet.index("@layer tokens {") : sheet.index("@layer", sheet.index("@layer tokens {") + 1)]
        light, _, rest = layer.partition("@media (prefers-color-scheme: dark)")
        for part in (light, rest) if dark else (light,):
            found.update(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6});", part))
    return found


def rules() -> dict[str, dict[str, str]]:
    """The declarations of each class."""
    found: dict[str, dict[str, str]] = {}
    for selectors, body in re.findall(r"^ {2}(\.[^{]+) \{([^}]*)\}", ANSI, re.MULTILINE):
        for selector in selectors.split(", "):
            found[selector[1:]] = dict(re.findall(r"([\w-]+): ([^;]+);", body))
    return found


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio, WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ANSI_CSS_CLASSES)
def test_every_class_has_a_readable_rule(name: str, dark: bool) -> None:
    rule, known = rules()[name], tokens(dark)
    if "color" not in rule:
        assert rule, "a rule without effect"
        return

    def resolve(value: str) -> str:
        return known[value.removeprefix("var(").removesuffix(")")]

    grounds = [rule["background"]] if "background" in rule else ["var(--log-bg)", "var(--warn-soft)"]
    for ground in grounds:
        assert contrast(resolve(rule["color"]), resolve(ground)) >= 4.5, (name, ground)
