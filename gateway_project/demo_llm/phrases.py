"""How the demo's tables of prompts are written: what a prompt may stand for, and the small language of its patterns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, auto


class Intent(StrEnum):
    HOUSEKEEPING = auto()
    RUN = auto()
    CREATE = auto()
    READ = auto()
    LIST = auto()
    TELL_NAME = auto()
    REMEMBER = auto()
    RECALL_FACTS = auto()
    RECALL_FIRST = auto()
    RECALL_LAST = auto()
    RECALL_ALL = auto()
    RECALL_VALUE = auto()
    GREET = auto()
    EXPLAIN = auto()
    SAY = auto()
    THANK = auto()
    LEAVE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a prompt asks for.

    `subject` is the command, path, fact or thing that it names, "" where there is none. `content` is what a file
    shall hold. `is_own`: the thing is "my …", so that not knowing it is worth an answer.
    """

    intent: Intent
    subject: str = ""
    content: str = ""
    is_own: bool = False


Reader = Callable[[Intent, re.Match[str]], Wish | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """Ways to say one thing. `read` makes a wish of a match, or None where it was none after all."""

    intent: Intent
    patterns: tuple[re.Pattern[str], ...]
    read: Reader

    def wish(self, prompt: str) -> Wish | None:
        for pattern in self.patterns:
            if (match := pattern.fullmatch(prompt)) and (wish := self.read(self.intent, match)):
                return wish
        return None


def bare(intent: Intent, _match: re.Match[str]) -> Wish:
    return Wish(intent=intent)


def subject(intent: Intent, match: re.Match[str]) -> Wish:
    return Wish(intent=intent, subject=unquoted(match["subject"].strip()))


GAP = r"\s{1,9}"
_END_OF_SENTENCE = r"\s{0,9}[.?!]{0,9}"


def phrases(intent: Intent, *patterns: str, read: Reader = bare) -> Phrases:
    """The patterns are for a whole prompt. In them a blank stands for any white space, `.` stays within a line, upper
    and lower case are one, and the sentence may end in any of `.?!`.

    Repetitions that can meet in one place have small bounds, here and in the tables: the time for a match must not
    grow with the square of a prompt's length, whatever it consists of.
    """
    return Phrases(
        intent=intent,
        patterns=tuple(
            re.compile(f"(?:{pattern.replace(' ', GAP)}){_END_OF_SENTENCE}", re.IGNORECASE) for pattern in patterns
        ),
        read=read,
    )


def unquoted(text: str) -> str:
    """Without the one pair of quotation marks or backticks around all of it."""
    mark = text[:1]
    is_quoted = len(text) > 2 and mark in {"`", '"', "'"} and text[-1] == mark and mark not in text[1:-1]
    return text[1:-1] if is_quoted else text
