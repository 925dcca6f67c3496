"""Which passwords are refused: too short, too common, or made of what everybody knows of the person.

What is common is computed from rules instead of looked up in a list of millions: public lists of leaked passwords
(NIST SP 800-63B, 5.1.1.2 asks to compare with them) are, at 12 characters and more, nearly all a common word or two
with digits and signs around it, a walk on the keyboard, or something repeated. The words below are our own choice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

LEAST = 12
MOST = 1000

#: Fewer than so many different characters are soon tried.
_LEAST_DIFFERENT = 5
#: So many characters must remain beside the person's own names.
_LEAST_BESIDE = 6

_TEXT = """
password passwort passwd passphrase pass word pwd secret secure security login logon signin access account admin
administrator root user username guest test testing tester tests temp temporary default changeme change me letmein
let in open please enter welcome hello hi hey goodbye bye thanks whatever nothing something anything everything
nobody qwerty qwertz azerty asdf zxcv qaz wsx iloveyou love you i loveyou lovely lover forever always never mylove
my baby angel princess prince queen king sunshine moon sun star starwars wars superman batman spiderman pokemon
naruto dragon monkey tiger lion eagle bear wolf horse dog doggy cat kitty puppy fish bird butterfly dolphin chicken
football soccer baseball basketball hockey golf tennis cricket rugby liverpool arsenal chelsea barcelona madrid
yankees cowboys steelers lakers master shadow hunter killer ninja samurai warrior soldier knight wizard merlin magic
michael michelle jennifer jessica jordan daniel thomas robert andrew anthony charlie george harley ashley amanda
nicole maria anna peter martin alex alexander david james john william joseph joshua matthew christopher jesus
christ god heaven blessed computer internet server system network windows linux ubuntu debian google facebook amazon
apple microsoft github docker cloud devops production staging development database oracle mysql postgres terraform
lockstep infrastructure engineer engineering manager company office work home house family mother father mom dad
brother sister summer winter spring autumn fall january february march april june july august september october
november december monday tuesday wednesday thursday friday saturday sunday today tomorrow happy birthday christmas
newyear new year holiday party freedom america england london paris berlin germany france italy spain canada mexico
india china japan africa europe ferrari porsche mercedes bmw honda toyota yamaha mustang corvette camaro money
dollar bitcoin rich lucky winner trustno trust no one two three four five six seven eight nine ten zero hundred
thousand cheese cookie chocolate coffee banana orange cherry pepper ginger sugar honey flower rose lily purple
yellow green blue red black white silver gold golden diamond crystal fire water earth wind thunder storm lightning
rainbow music guitar piano rock metal metallica nirvana slipknot eminem beatles elvis hiphop dance super mega ultra
extra cool awesome fuck fuckyou fucker shit bitch asshole sex sexy hot girl boy man woman lady friend friends buddy
the a an and of is are am it this that not so to for with on at
"""
_WORDS = frozenset(_TEXT.split())
_LONGEST_WORD = max(map(len, _WORDS))

#: Signs that stand for letters.
_SIGNS = str.maketrans("@4310$5!7|+8€", "aaeiossitltbe")

#: Neighbours on keyboards, in the alphabet and among the digits; walks go along them in either direction.
_ROWS = (
    "1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn",
    "abcdefghijklmnopqrstuvwxyz", "1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik", "9ol", "!@#$%^&*()",
)  # fmt: skip
_STEPS = frozenset(row[n : n + 2] for row in (*_ROWS, *(row[::-1] for row in _ROWS)) for n in range(len(row) - 1))


def problem(password: str, about: Iterable[str] = ()) -> str | None:
    """The sentence that says why this password is refused, None for a good one.

    ``about`` are the person's user name, e-mail address, organizations.
    """
    if not LEAST <= len(password) <= MOST:
        return f"A password has at least {LEAST} characters."
    if len(set(password)) < _LEAST_DIFFERENT or _is_repeated(password):
        return "That repeats itself too much. Use a few words that do not belong together."
    if _is_walk(password.casefold()):
        return "That follows the keys of a keyboard or the alphabet. Use a few words that do not belong together."
    if _is_about(password.casefold(), about):
        return "That is little more than your name, e-mail address or organization. Use something else."
    if is_common(password):
        return "That is among the first that are guessed: common words with digits or signs. Use other words."
    return None


def is_common(password: str) -> bool:
    """Whether its letters are at most two different common words, whatever digits and signs are around them."""
    plain = password.casefold()
    digits_off = re.sub(r"[\d\W_]+", "", plain)
    ends_off = re.sub(r"^[\d\W_]+|[\d\W_]+$", "", plain)
    signs_read = re.sub(r"[\d\W_]+", "", ends_off.translate(_SIGNS))
    all_read = re.sub(r"[\d\W_]+", "", plain.translate(_SIGNS))
    return any(_words_in(core) <= 2 for core in (digits_off, signs_read, all_read))


def _words_in(core: str) -> float:
    """How many different common words the text is made of, at best; infinite when it holds anything else."""
    best: list[frozenset[str] | None] = [frozenset(), *[None] * len(core)]
    for end in range(1, len(core) + 1):
        for start in range(max(0, end - _LONGEST_WORD), end):
            before, word = best[start], core[start:end]
            if before is not None and word in _WORDS:
                used, found = before | {word}, best[end]
                if found is None or len(used) < len(found):
                    best[end] = used
    whole = best[len(core)]
    return float("inf") if whole is None else len(whole)


def _is_repeated(password: str) -> bool:
    """Whether it is one part of at most six characters again and again."""
    return any(password == (password[:n] * len(password))[: len(password)] for n in range(1, 7))


def _is_walk(password: str) -> bool:
    """Whether all but a few steps from one character to the next go along a row, a column or stay."""
    steps = [a + b for a, b in itertools.pairwise(password)]
    jumps = sum(step not in _STEPS and step[0] != step[1] for step in steps)
    return jumps * 4 <= len(steps)


def _is_about(password: str, about: Iterable[str]) -> bool:
    rest = password
    # Of an e-mail address everything but its last label, which is "com" for everybody.
    texts = [re.sub(r"(@.*)\.\w+$", r"\1", text.casefold()) for text in about]
    names = {part for text in texts for part in (text, *re.split(r"[\W_]+", text))}
    for name in sorted(names, key=len, reverse=True):
        if len(name) >= 3:
            rest = rest.replace(name, "")
    return rest != password and len(re.sub(r"[\d\W_]+", "", rest)) < _LEAST_BESIDE
