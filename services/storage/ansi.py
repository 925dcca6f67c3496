"""Log bytes as safe HTML: a list item for each line, colours as classes, nothing else from the content.

The styles of a terminal (SGR, ECMA-48 8.3.117) are kept; every other escape sequence is dropped, so content
can neither move the cursor over earlier lines nor make a link. Class names are ansi2html's (ansi1, ansi31);
ansi2html itself renders 1.3 MB/s, loses its state between calls, and obeys "cursor up" by removing lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from html import escape

from markupsafe import Markup

#: Characters of a line that are shown whole, and what is shown of a longer one: its first and its last.
LONGEST_LINE = 4_000
FOLDED_FIRST, FOLDED_LAST = 3_000, 500

_STYLES = {1: 22, 2: 22, 3: 23, 4: 24, 7: 27, 9: 29}  # code that switches on: code that switches off
_COLOURS: tuple[int, ...] = (*range(30, 38), *range(90, 98))
_BACKGROUNDS: tuple[int, ...] = (*range(40, 48), *range(100, 108))
ANSI_CSS_CLASSES = tuple(f"ansi{code}" for code in (*_STYLES, *_COLOURS, *_BACKGROUNDS))

_SGR = re.compile(r"\x1b\[([0-9;:]{0,64})m")
_OTHER_ESCAPES = re.compile(
    r"\x1b(?!\[[0-9;:]{0,64}m)"
    # Other control sequences: cursor, erase, private modes; and one that was cut short, by a full disk say.
    r"(?:\[[0-?]*[ -/]*(?:[@-~]|(?=[\x1b\n]|$))"
    r"|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"  # OSC (titles, links), DCS, SOS, PM, APC
    r"|[ -/]*[0-Z\\`-~]"  # two-character escapes, character sets
    r")?"
)
# Controls, and the marks that turn the order of text round; without tab, newline, carriage return and ESC.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ANCHOR = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CLOCK = re.compile(r"\d\d:\d\d:\d\d ")

_ICON = '<svg class="icon" aria-hidden="true"><use href="/static/icons.svg#{}"/></svg> '
#: Tone of a line of Lockstep's own → its classes and icon. The padlock means MFA and nothing else.
_TONES = {
    "own": (' class="line-own"', ""),
    "ok": (' class="line-ok"', _ICON.format("lock-open")),
    "bad": (' class="line-bad"', _ICON.format("lock")),
    "error": (' class="line-bad"', ""),
}

# xterm's first 16 colours, in the order of the codes 30–37 and 90–97.
_PALETTE = (
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0),
    (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229),
    (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0),
    (92, 92, 255), (255, 0, 255), (0, 255, 255), (255, 255, 255),
)  # fmt: skip


@dataclass(frozen=True)
class Rendered:
    """HTML of whole lines, one string each, and the style that holds after them."""

    lines: list[str]
    sgr: str

    @property
    def html(self) -> Markup:
        """All of them."""
        # Everything from the content went through escape(); the rest is the text of this module.
        return Markup("".join(self.lines))  # noqa: S704


def render_lines(
    data: bytes,
    first_line: int,
    sgr: str,
    anchor: str,
    *,
    own: bool = False,
    tone: str | None = None,
    cut: bool = False,
) -> Rendered:
    """Whole lines as HTML (the last one may lack its newline): list items, whose number is the list's.

    The markup is short, because a page holds thousands of lines.

    :param first_line: number of the first line, for its id.
    :param sgr: the style that held at the end of what came before ("" at the start).
    :param anchor: beginning of the lines' ids ("apply" makes #apply-12).
    :param own: the lines are Lockstep's; only the caller can say so, no content can look like it.
    :param tone: with `own`: "ok" and "bad" are the open and the closed padlock of MFA, "error" has none.
    :param cut: the beginning of the first line is not in `data`; it is said so.
    :raises ValueError: the anchor is not a plain identifier.
    """
    if not _ANCHOR.fullmatch(anchor):
        raise ValueError("an anchor is letters, digits, _ and -")
    if not data:
        return Rendered([], sgr)
    css, icon = _TONES.get(tone or "own", _TONES["own"]) if own else ("", "")
    texts, sgr = _line_texts(_cleaned(data.removesuffix(b"\n")), sgr)
    if cut:
        texts[0] = f"{_fold('The beginning of this line is not shown')}{texts[0]}"
    start, middle = f'<li{css} id="{anchor}-', f'"><a href="#{anchor}-'
    lines = [
        f'{start}{n}{middle}{n}" tabindex=-1 aria-hidden=true></a>{_with_icon(text, icon) if icon else text}\n</li>'
        for n, text in enumerate(texts, first_line)
    ]
    return Rendered(lines, sgr)


def final_sgr(data: bytes, sgr: str) -> str:
    """The style that holds after these lines, as `render_lines` would say, without rendering them."""
    if b"\x1b[" not in data:
        return sgr
    reset = data.rfind(b"\x1b[0m")  # nothing before it counts, and terraform writes it at the end of each colour
    if reset >= 0:
        data, sgr = data[reset + 4 :], ""
        if b"\x1b[" not in data:
            return sgr
    for match in _SGR.finditer(_cleaned(data)):
        sgr = _after(sgr, match[1])
    return sgr


def _cleaned(data: bytes) -> str:
    text = data.decode("utf-8", errors="replace")
    return _OTHER_ESCAPES.sub("", text) if "\x1b" in text else text


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def _line_texts(text: str, sgr: str) -> tuple[list[str], str]:
    """The HTML of each line's content, and the style after the last."""
    lines = text.split("\n")
    if max(map(len, lines)) <= LONGEST_LINE:
        text = _CONTROLS.sub(_visible, text)
        if not sgr and "\x1b" not in text and "\r" not in text:
            return escape(text, quote=False).split("\n"), sgr
        lines = text.split("\n")
    done: list[str] = []
    for line in lines:
        if "\r" in line:
            line, sgr = _last_of_progress(line, sgr)
        if len(line) <= LONGEST_LINE:
            line = _CONTROLS.sub(_visible, line)  # of longer ones only what is shown is looked at
        if not sgr and "\x1b" not in line and len(line) <= LONGEST_LINE:
            done.append(escape(line, quote=False))
        else:
            html, sgr = _styled(line, sgr)
            done.append(html)
    return done, sgr


def _last_of_progress(line: str, sgr: str) -> tuple[str, str]:
    """What a terminal would show in the end: the part after the last carriage return."""
    before, _, last = line.rstrip("\r").rpartition("\r")
    for match in _SGR.finditer(before):
        sgr = _after(sgr, match[1])
    return last, sgr


def _styled(line: str, sgr: str) -> tuple[str, str]:
    """One line with its styles, folded when it is very long. Every span ends with the line."""
    parts = _SGR.split(line)
    length = sum(map(len, parts[::2]))
    # Shown is what stands before `first` and from `last` on, counted without the sequences.
    first, last = (FOLDED_FIRST, length - FOLDED_LAST) if length > LONGEST_LINE else (length, length)
    html: list[str] = []
    at = 0
    for index in range(0, len(parts), 2):
        if index:
            sgr = _after(sgr, parts[index - 1])
        text = parts[index]
        if at < first:
            html.append(_in_style(text[: first - at], sgr))
        if last > first and at <= first < at + len(text):
            html.append(_fold(f"{last - first:,} characters not shown; the raw log has the whole line"))
        if last > first and at + len(text) > last:
            html.append(_in_style(text[max(last - at, 0) :], sgr))
        at += len(text)
    return "".join(html), sgr


def _in_style(text: str, sgr: str) -> str:
    if not text:
        return ""
    css = _classes(sgr)
    safe = escape(_CONTROLS.sub(_visible, text), quote=False)
    if css == "ansi1":  # most of what terraform prints in colour is bold; a short tag makes a small page
        return f"<b>{safe}</b>"
    return f'<span class="{css}">{safe}</span>' if css else safe


def _fold(words: str) -> str:
    return f'<em class="fold"> … {words} … </em>'


def _with_icon(text: str, icon: str) -> str:
    clock = _CLOCK.match(text)
    at = clock.end() if clock else 0
    return text[:at] + icon + text[at:]


@lru_cache(maxsize=4096)
def _classes(sgr: str) -> str:
    """CSS classes of a style. With a background or in reverse the foreground goes: any pair of 16 colours
    could be unreadable, and the style sheet gives each background its own text colour.
    """
    codes = _codes(sgr)
    if 7 in codes:
        codes = [code for code in codes if code not in _COLOURS and code not in _BACKGROUNDS]
    elif any(code in _BACKGROUNDS for code in codes):
        codes = [code for code in codes if code not in _COLOURS]
    return " ".join(f"ansi{code}" for code in codes)


def _codes(sgr: str) -> list[int]:
    """The codes of a style as this module writes it; anything else in it is left out."""
    known = {f"{code}": code for code in (*_STYLES, *_COLOURS, *_BACKGROUNDS)}
    return [known[part] for part in sgr.split(";") if part in known]


@lru_cache(maxsize=4096)
def _after(sgr: str, parameters: str) -> str:
    """The style after one more sequence; a style is its codes in order, joined by ";"."""
    codes = set(_codes(sgr))
    for code in _flattened(parameters):
        if code == 0:
            codes.clear()
        elif code in _STYLES:
            # Bold and faint end by the same code, but a terminal can hold both; the later one shows.
            codes -= {1, 2} if code in (1, 2) else set()
            codes.add(code)
        elif code in _STYLES.values():
            codes -= {on for on, off in _STYLES.items() if off == code}
        elif code in _COLOURS or code == 39:
            codes -= set(_COLOURS)
            codes |= {code} - {39}
        elif code in _BACKGROUNDS or code == 49:
            codes -= set(_BACKGROUNDS)
            codes |= {code} - {49}
    return ";".join(str(code) for code in sorted(codes))


def _flattened(parameters: str) -> Iterator[int]:
    """The codes of a sequence, with extended colours (38;5;n, 38;2;r;g;b, also with colons) as the nearest
    of the 16.
    """
    fields = iter(parameters.split(";"))
    for field in fields:
        head, *rest = [int(part[:4]) if part else 0 for part in field.split(":")]
        if head not in (38, 48):
            # 4:0 is "no underline"; 4:3 a curly one.
            yield 24 if head == 4 and rest[:1] == [0] else head
            continue
        if not rest:
            rest = _extended(fields)
        elif rest[0] == 2 and len(rest) > 4:
            rest = [2, *rest[2:]]  # 38:2:colour space:r:g:b
        colour = _nearest(rest)
        if colour is not None:
            yield colour + (head - 38)


def _extended(fields: Iterator[str]) -> list[int]:
    kind = int((next(fields, "") or "0").split(":")[0][:4] or 0)
    count = {5: 1, 2: 3}.get(kind, 0)
    numbers = [next(fields, "") for _ in range(count)]
    return [kind, *(int(number[:4]) if number.isdigit() else 0 for number in numbers)]


def _nearest(colour: list[int]) -> int | None:
    """The foreground code nearest to [5, index] or [2, r, g, b]."""
    kind, *numbers = colour
    if kind == 5 and numbers and numbers[0] < 256:
        index = numbers[0]
        if index < 16:
            return _COLOURS[index]
        if index >= 232:
            red = green = blue = 8 + 10 * (index - 232)
        else:
            red, green, blue = ((0, 95, 135, 175, 215, 255)[(index - 16) // step % 6] for step in (36, 6, 1))
    elif kind == 2 and len(numbers) >= 3:
        red, green, blue = (min(number, 255) for number in numbers[:3])
    else:
        return None
    distances = [(r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2 for r, g, b in _PALETTE]
    return _COLOURS[distances.index(min(distances))]
