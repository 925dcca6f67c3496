"""Log bytes become safe HTML with the colours of a terminal."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from ansi2html import Ansi2HTMLConverter
from hypothesis import given, settings
from hypothesis import strategies as st

from services.storage.ansi import ANSI_CSS_CLASSES, FOLDED_FIRST, FOLDED_LAST, LONGEST_LINE, final_sgr, render_lines


class Page(HTMLParser):
    """Collects tags with attributes, and the text of each line."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], "a tag is left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)


def shown(data: bytes, sgr: str = "") -> str:
    """The HTML of the content of the lines, without the frame around each."""
    html = str(render_lines(data, 1, sgr, "a").html)
    html = html.replace("<b>", '<span class="ansi1">').replace("</b>", "</span>")  # the short form of the same
    return re.sub(r'<li id="a-\d+"><a [^>]*></a>(.*)\n</li>', r"\1|", html).removesuffix("|")


def test_the_markup_is_the_sheets() -> None:
    rendered = render_lines(b"one\ntwo\n", 813, "", "sample")
    assert len(rendered.lines) == 2 and rendered.sgr == ""
    assert rendered.html == "".join(
        f'<li id="sample-{n}"><a href="#sample-{n}" tabindex=-1 aria-hidden=true></a>{text}\n</li>'
        for n, text in [(813, "one"), (814, "two")]
    )


@pytest.mark.parametrize(
    ("tone", "css", "icon"),
    [(None, "line-own", ""), ("ok", "line-ok", "lock-open"), ("bad", "line-bad", "lock")],
)
def test_only_the_caller_makes_a_line_lockstep_s(tone: str | None, css: str, icon: str) -> None:
    svg = f'<svg class="icon" aria-hidden="true"><use href="/static/icons.svg#{icon}"/></svg> ' if icon else ""
    html = render_lines(b"14:12:04 By <alice>\n", 1, "", "a", own=True, tone=tone).html
    assert html.startswith(f'<li class="{css}" id="a-1">') and html.endswith(f"14:12:04 {svg}By &lt;alice&gt;\n</li>")
    assert render_lines(b"By\n", 1, "", "a", own=True, tone=tone).html.endswith(f"</a>{svg}By\n</li>")
    assert render_lines(b"x\n", 1, "", "a", tone="ok").html.startswith('<li id="a-1">')


@pytest.mark.parametrize("anchor", ["", "1", 'a"', "a b", "a\n", "é", "a<"])
def test_an_anchor_is_an_identifier(anchor: str) -> None:
    with pytest.raises(ValueError, match="anchor"):
        render_lines(b"x", 1, "", anchor)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<script>alert(1)</script> & \"'", "&lt;script&gt;alert(1)&lt;/script&gt; &amp; \"'"),
        (b"\x1b[1m\x1b[31mError:\x1b[0m bad", '<span class="ansi1 ansi31">Error:</span> bad'),
        (
            b"\x1b[1;4;9;3mx\x1b[22;24my",
            '<span class="ansi1 ansi3 ansi4 ansi9">x</span><span class="ansi3 ansi9">y</span>',
        ),
        (b"\x1b[1mx\x1b[2my\x1b[mz", '<span class="ansi1">x</span><span class="ansi2">y</span>z'),
        # A full disk cuts one short, and the next begins; or nothing follows.
        (b"a\x1b[0\x1b[0m\x1b[1mb\x1b[0m", 'a<span class="ansi1">b</span>'),
        (b"a\x1b[0;3\x1b[mb\x1b[", "ab"),
        (b"\x1b[31;42mx", '<span class="ansi42">x</span>'),
        (b"\x1b[31;7mx\x1b[27my", '<span class="ansi7">x</span><span class="ansi31">y</span>'),
        (b"\x1b[38;5;196mx\x1b[48;5;21my", '<span class="ansi91">x</span><span class="ansi44">y</span>'),
        (
            b"\x1b[38;2;0;200;0mx\x1b[38:2::0:0:230my",
            '<span class="ansi32">x</span><span class="ansi34">y</span>',
        ),
        (
            b"\x1b[38:5:3mx\x1b[4:3my\x1b[4:0;39mz",
            '<span class="ansi33">x</span><span class="ansi4 ansi33">y</span>z',
        ),
        (
            b"\x1b[38;5;999mx\x1b[38mx\x1b[38;5mx\x1b[38;2;1mx\x1b[999mx",
            "xx" + '<span class="ansi30">x</span>' * 3,
        ),
        (b"\x1b[5;8mx", "x"),
        (b"\xff\xfe caf\xc3\xa9", "\ufffd\ufffd café"),
        (b"a\0b\x08c\x7fd\te\x85", "a␀b␈c␡d\te\ufffd"),
        ("a\u202eb\u2028c\u009b31md".encode(), "a\ufffdb\ufffdc\ufffd31md"),
        (b"10%\r50%\r100%\r\n", "100%"),
        (b"\x1b[31m10%\r100%", '<span class="ansi31">100%</span>'),
        (b"a\x1b[2Kb\x1b[1Ac\x1b[?25ld\x1b[>4;1me\x1b[10;20Hf", "abcdef"),
        (b'\x1b]8;;http://e/"onclick=x\x07link\x1b]8;;\x07 \x1b]0;title\x1b\\t', "link t"),
        (b"\x1b]8;;http://unfinished", "]8;;http://unfinished"),
        (b"\x1bPq#0\x1b\\x\x1b(By\x1bMz\x1b", "xyz"),
        (b"\x1b[31", ""),
        (b"a\x1b[31\nb", "a|b"),
        (b"\x1b\x1b]x\x07[31my", "[31my"),
        (b"\x1b[" + b"1;" * 50 + b"31mx", "x"),
        (b"a\n\nb", "a||b"),
        (b"\n", ""),
        (b"a\n\x1b", "a|"),
    ],
)
def test_content_is_shown_as_a_terminal_would_and_never_obeyed(data: bytes, expected: str) -> None:
    assert shown(data) == expected


def test_nothing_is_no_line() -> None:
    assert render_lines(b"", 1, "31", "a").lines == [] and len(render_lines(b"\n", 1, "", "a").lines) == 1


def test_a_style_goes_on_from_line_to_line_and_chunk_to_chunk() -> None:
    first = render_lines(b"\x1b[1;31ma\nb\n", 1, "", "a")
    assert first.sgr == "1;31" and first.html.count('<span class="ansi1 ansi31">') == 2
    second = render_lines(b"c\x1b[0m\n", 3, first.sgr, "a")
    assert second.sgr == "" and '<span class="ansi1 ansi31">c</span>' in second.html
    assert shown(b"x", 'junk;"><script>;31') == '<span class="ansi31">x</span>'


def test_very_long_lines_are_folded_with_their_style_kept() -> None:
    data = b"x" * FOLDED_FIRST + b"<\x1b[31m" + b"y" * 4000 + b"\x1b[32m" + b"z" * FOLDED_LAST + b"\nnext\n"
    rendered = render_lines(data, 1, "", "a")
    assert "x<em" in rendered.html and "… 4,001 characters not shown; the raw log has the whole line …" in rendered.html
    assert "y" not in rendered.lines[0] and f'<span class="ansi32">{"z" * FOLDED_LAST}</span>' in rendered.lines[0]
    assert rendered.sgr == "32" and '<span class="ansi32">next</span>' in rendered.html
    whole = render_lines(b"x" * LONGEST_LINE, 1, "", "a")
    assert "x" * LONGEST_LINE in whole.html and "fold" not in whole.html
    assert len(render_lines(b"\x1b[1m" + b"x" * 1_000_000, 1, "", "a").html) < 4_000


@pytest.mark.parametrize("long", [b"x" * 5000 + b"\r", b"", b"\x1b[1m" + b"y" * 5000 + b"\n", b"\0" * 5000 + b"\n"])
def test_no_control_reaches_a_page_with_long_lines(long: bytes) -> None:
    html = render_lines(long + b"a\0b\x08\xe2\x80\xae\nnext\0\n", 1, "", "a").html
    assert "a\u2400b\u2408\ufffd" in html and "next\u2400" in html and "\0" not in html


def test_a_line_without_its_beginning_says_so() -> None:
    html = render_lines(b"rest\nnext\n", 7, "", "a", cut=True).html
    assert html.count("The beginning of this line is not shown") == 1 and html.index("beginning") < html.index("rest")


@given(st.integers(1, 5), st.lists(st.sampled_from(["\x1b[31m", "a" * 900, "\x1b[0m", "é", "<"]), max_size=30))
def test_what_is_shown_of_a_long_line_is_its_beginning_and_its_end(factor: int, parts: list[str]) -> None:
    text = re.sub(r"\x1b\[\d+m", "", "".join(parts * factor))
    page = Page(str(render_lines("".join(parts * factor).encode() + b"\n", 1, "", "a").html)).text.removesuffix("\n")
    if len(text) <= LONGEST_LINE:
        assert page == text
    else:
        hidden = len(text) - FOLDED_FIRST - FOLDED_LAST
        fold = f" … {hidden:,} characters not shown; the raw log has the whole line … "
        assert page == text[:FOLDED_FIRST] + fold + text[-FOLDED_LAST:]


PIECES = st.sampled_from(
    ["<", ">", "&", '"', "'", "\x1b", "[", "]", "m", "31", "1", ";", "0", "\x1b[31m", "\x1b[0m", "\x1b[1;4m",
     "\x1b[38;5;9m", "\x1b]8;;", "\x07", "\x1b\\", "\r", "\n", "\t", "\0", "<script>", "</span>", "<!--",
     "&lt;", "javascript:", "\u202e", "\x9b", "é", "\x1b[7m", "\x1b[41m", " onclick=x", "\x1b[K"]
)  # fmt: skip
CONTENT = st.one_of(st.lists(PIECES, max_size=40).map(lambda parts: "".join(parts).encode()), st.binary(max_size=200))
FRAME_KEYS = {
    "li": {"class", "id"},
    "b": set(),
    "span": {"class"},
    "a": {"href", "tabindex", "aria-hidden"},
    "svg": {"class", "aria-hidden"},
    "use": {"href"},
}
CSS = {"line-own", "line-ok", "line-bad", *ANSI_CSS_CLASSES}


def plain(data: bytes) -> str:
    """What is left of content without styles: an independent, slow way to say it."""
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", data.decode("utf-8", "replace"))
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.removesuffix("\n").split("\n")]
    return "".join(f"{line}\n" for line in lines)


@settings(max_examples=500, deadline=None)
@given(
    CONTENT,
    st.sampled_from([(False, None), (True, None), (True, "ok"), (True, "bad")]),
    st.sampled_from(["", "1;31", "7"]),
)
def test_no_content_becomes_markup(data: bytes, look: tuple[bool, str | None], sgr: str) -> None:
    own, tone = look
    rendered = render_lines(data, 7, sgr, "apply", own=own, tone=tone)
    page = Page(str(rendered.html))
    for tag, attributes in page.tags:
        assert {key for key, _ in attributes} <= FRAME_KEYS[tag]
        values = dict(attributes)
        assert set((values.get("class") or "").split()) <= CSS | ({"icon"} if tag == "svg" else set())
        assert tag != "a" or re.fullmatch(r"#apply-\d+", values["href"] or "")
    outer = [dict(attributes).get("class") for tag, attributes in page.tags if tag == "li"]
    assert len(outer) == len(rendered.lines) == (data.removesuffix(b"\n").count(b"\n") + 1 if data else 0)
    assert own or set(outer) <= {None}
    assert "\x1b" not in rendered.html and "\0" not in rendered.html
    assert rendered.sgr == final_sgr(data, sgr)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cf"]), max_size=60),
    st.booleans(),
)
def test_the_text_is_the_content(text: str, coloured: bool) -> None:
    data = (f"\x1b[31m{text}\x1b[K\n\r{text}" if coloured else text).encode()
    assert Page(str(render_lines(data, 1, "", "a").html)).text == (plain(data) if data else "")


@given(st.lists(CONTENT, max_size=5))
def test_chunks_render_as_the_whole_does(chunks: list[bytes]) -> None:
    lines = [chunk.removesuffix(b"\n") + b"\n" for chunk in chunks]
    whole = render_lines(b"".join(lines), 1, "", "a")
    html, sgr, number = "", "", 1
    for chunk in lines:
        part = render_lines(chunk, number, sgr, "a")
        html, sgr, number = html + part.html, part.sgr, number + len(part.lines)
    assert (html, sgr, number) == (whole.html, whole.sgr, len(whole.lines) + 1)


SIMPLE = st.sampled_from([0, 1, 2, 3, 4, 9, 22, 23, 24, 29, *range(30, 38), 39, *range(90, 98)])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(SIMPLE, min_size=1, max_size=3), min_size=1, max_size=6))
def test_styles_are_those_of_ansi2html(sequences: list[list[int]]) -> None:
    data = "".join(f"\x1b[{';'.join(map(str, codes))}m{index}" for index, codes in enumerate(sequences))
    theirs = Ansi2HTMLConverter(inline=False).convert(data, full=False)

    def classes(html: str) -> dict[str, set[str]]:
        found = {digit: set[str]() for digit in re.sub("<[^>]*>", "", html)}
        found.update({text: set(css.split()) for css, text in re.findall(r'<span class="([^"]*)">(\w)</span>', html)})
        return found

    assert classes(shown(data.encode())) == classes(theirs)
