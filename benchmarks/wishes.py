"""What an imitation is to say: the request itself asks for it, the same way at every target.

The last user message holds `tokens=<n> delay_ms=<m>`, which passes through a gateway, an agent and a proxy alike, and
is read from the raw body: the last one counts, since a conversation repeats the earlier ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WISH = re.compile(rb"tokens=(\d+) delay_ms=(\d+)")


@dataclass(frozen=True, slots=True)
class Wish:
    """`tokens` words, `delay_ms` apart."""

    tokens: int
    delay_ms: int

    def prompt(self) -> str:
        return f"Say something. tokens={self.tokens} delay_ms={self.delay_ms}"

    def text(self) -> str:
        return "".join(word(index) for index in range(self.tokens))


def word(index: int) -> str:
    return f"word{index:03d} "


def read(body: bytes, *, default: Wish) -> Wish:
    """The wish in a request body, `default` if it holds none."""
    found = _WISH.findall(body)
    return Wish(int(found[-1][0]), int(found[-1][1])) if found else default
