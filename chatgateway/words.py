"""Words as the index of texts has them, and what somebody who searches for some has typed. Pure text.

Both databases are given words that are separated here, so that they find the same. No language is assumed: letters
without case and accents, numbers, and nothing else. Scripts that set no spaces between words (Chinese, Japanese, Thai)
are indexed character by character, and searched as sequences of characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

# Of one text. PostgreSQL numbers the words of a row up to 16,383, and would find no phrase beyond; SQLite would.
MAXIMUM_WORDS = 8_000
MAXIMUM_CHARS = 60_000
# Longer words are data. PostgreSQL leaves out words of more than 2,047 bytes.
_WORD_CHARS = 60
# Of what is searched for; SQLite takes 256 words joined by AND.
_QUERY_CHARS = 500
_QUERY_WORDS = 32

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# Diacritics of Latin, Greek and Cyrillic, and the vowel signs of Hebrew and Arabic.
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff]+")
_TERM = re.compile(r'"(?P<phrase>[^"]*)"?(?P<open>\*?)|(?P<word>[^\s"]+)')


def folded(text: str) -> str:
    """Return a text without case and accents: `Überprüfung` and `uberprufung` are one word."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFKD", text)))
    return text.casefold()


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are indexed, as many as are."""
    return _split(text[:MAXIMUM_CHARS])[:MAXIMUM_WORDS]


def for_postgresql(words: Iterable[str]) -> str:
    """Return words as a `tsvector`: made here, so that no parser of the database divides them another way."""
    return " ".join([f"'{word}':{number}" for number, word in enumerate(words, 1)])


def _split(text: str) -> list[str]:
    found = _WORD.findall(folded(text))
    if not text.isascii():
        found = [word for word in found if word.isalnum()]  # vowel signs stand among the letters of some scripts
    return [word[:_WORD_CHARS] for word in found]


@dataclass(frozen=True, slots=True)
class Term:
    """Words that must stand one after the other. `is_open`: the last one may go on."""

    words: tuple[str, ...]
    is_open: bool = False


@dataclass(frozen=True)
class Query:
    """What is searched for: all of the terms. Without any it finds nothing."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Query:
        """Read `word "some words" begin*`. Whatever is typed means something; signs separate words."""
        terms: list[Term] = []
        left = _QUERY_WORDS
        for found in _TERM.finditer(text[:_QUERY_CHARS]):
            word = found["word"] or ""
            typed = found["phrase"] if found["phrase"] is not None else word
            words = tuple(_split(typed)[:left])
            left -= len(words)
            if words:
                terms.append(Term(words, is_open=bool(found["open"]) or word.endswith("*")))
        return cls(tuple(terms))

    def __bool__(self) -> bool:
        return bool(self.terms)

    # Words are letters and digits, so that none of them can end its quotes.

    @property
    def for_postgresql(self) -> str:
        """As a `tsquery`."""
        return " & ".join(_tsquery(term) for term in self.terms)

    @property
    def for_sqlite(self) -> str:
        """For `MATCH` of FTS5."""
        return " AND ".join(f'"{" ".join(term.words)}"{" *" * term.is_open}' for term in self.terms)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(_regular(term) for term in self.terms))

    def found_in(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where the terms stand in a text as it was written, in order."""
        if not self:
            return
        plain, places = _plain(text)
        for found in self._pattern.finditer(plain):
            yield places[found.start()], places[found.end() - 1] + 1


def _tsquery(term: Term) -> str:
    words = [f"'{word}'" for word in term.words]
    if term.is_open:
        words[-1] += ":*"
    return f"({' <-> '.join(words)})"


def _regular(term: Term) -> str:
    gap = r"[\W_]*" if any(_is_unspaced(word) for word in term.words) else r"[\W_]+"
    before = "" if _is_unspaced(term.words[0]) else r"(?<![^\W_])"
    after = "" if term.is_open or _is_unspaced(term.words[-1]) else r"(?![^\W_])"
    return before + gap.join(term.words) + after


def _is_unspaced(word: str) -> bool:
    return re.fullmatch(f"[{_UNSPACED}]", word) is not None


def _plain(text: str) -> tuple[str, range | list[int]]:
    """A folded text, and where each of its characters stands in the text itself."""
    if text.isascii():
        return text.casefold(), range(len(text))
    pieces = [folded(character) for character in text]
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    return "".join(pieces), places
