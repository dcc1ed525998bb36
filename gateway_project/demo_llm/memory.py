"""What the demo remembers: nothing but the messages it is sent. It looks things up in what the user said before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# How far back a list of earlier messages goes, and how much of each is quoted.
_LISTED, _QUOTED = 10, 200

_VALUE = r"(?P<value>[^\n]+?)(?=[.!?;]{0,9}\s{0,9}$|[.!?;]\s|\n|,? (?:and|but) (?:my|the|please|remember)\b)"
_NAME = re.compile(rf"\b(?:my name is|my name's|call me|i am called|i'm called) {_VALUE}", re.IGNORECASE)
_TO_REMEMBER = (
    re.compile(r"(?:please )?remember(?: that| this)?:?\s{1,9}(?P<fact>[^\n]+)", re.IGNORECASE),
    re.compile(
        r"(?P<fact>[^\n]+?)[.,;:!]{0,9}\s{1,9}(?:and |so )?(?:please )?remember (?:it|this|that)\b[^\n]*", re.IGNORECASE
    ),
)


def name_in(texts: Sequence[str]) -> str | None:
    """The name that the user gave last."""
    return _newest(_NAME, texts)


def value_of(thing: str, texts: Sequence[str]) -> str | None:
    """What the user last said `thing` is: "blue" for "colour" after "my colour is blue"."""
    if thing.lower() == "name":
        return name_in(texts)
    words = r"\s{1,9}".join(re.escape(word) for word in thing.split())
    return _newest(re.compile(rf"\b(?:my|the) {words}(?: is| was| are|:| =)? {_VALUE}", re.IGNORECASE), texts)


def to_remember(text: str) -> str | None:
    """The fact that `text` asks to remember, None if it asks no such thing."""
    for pattern in _TO_REMEMBER:
        if match := pattern.fullmatch(text.strip()):
            return match["fact"].strip().rstrip(".!")
    return None


def facts_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Everything that the user asked to remember, oldest first."""
    return tuple(fact for text in texts if (fact := to_remember(text)))


def listed(texts: Sequence[str]) -> str:
    """The newest of `texts` as a numbered list, oldest first."""
    shown = texts[-_LISTED:]
    start = len(texts) - len(shown) + 1
    return "\n".join(f"{number}. {quoted(text)}" for number, text in enumerate(shown, start=start))


def quoted(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line[:_QUOTED]}…"' if len(line) > _QUOTED else f'"{line}"'


def _newest(pattern: re.Pattern[str], texts: Sequence[str]) -> str | None:
    for text in reversed(texts):
        found = [match["value"].strip(" \"'`") for match in pattern.finditer(text)]
        if found and found[-1]:
            return found[-1]
    return None
