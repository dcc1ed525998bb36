"""API keys as text: made, read, digested, compared. Pure functions; the pepper is an argument.

A key reads `gw-{prefix}-{secret}`: 8 hexadecimal characters that find its row, and 256 random bits that prove it.
An operator may also give a text of their own (GATEWAY_BOOTSTRAP_API_KEY); its prefix is then derived from it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

# Below this a text can be guessed: a digest with a pepper is as fast to try as it is to check.
MINIMUM_GIVEN_CHARS = 32
# Longer texts are not digested: a header may hold kilobytes.
MAXIMUM_CHARS = 512
# Marks the prefix of a text that an operator gave; a minted one is hexadecimal.
GIVEN_PREFIX = "given-"
# 32 random bytes, URL-safe Base64 without padding.
_SECRET_BYTES = 32

_MINTED = re.compile(r"gw-([0-9a-f]{8})-[A-Za-z0-9_-]{43}")
# What survives an HTTP header unchanged: visible ASCII.
_GIVEN = re.compile(rf"[!-~]{{{MINIMUM_GIVEN_CHARS},{MAXIMUM_CHARS}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A key that was just made. `text` is to be shown once; `prefix` and `digest` are stored."""

    prefix: str
    text: str = field(repr=False)
    digest: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedKey:
    """A text that may be a key. `is_minted` tells our own form from a text that an operator gave."""

    prefix: str
    is_minted: bool
    text: str = field(repr=False)


def mint(*, pepper: str) -> NewSecret:
    """Return a new random key."""
    prefix = secrets.token_hex(4)
    text = f"gw-{prefix}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewSecret(prefix=prefix, text=text, digest=digest(text, pepper=pepper))


def adopt(text: str, *, pepper: str) -> NewSecret:
    """Make a key of a text that an operator gave. Raises ValueError when it cannot serve as one."""
    parsed = parse(text, pepper=pepper)
    if parsed is None:
        raise ValueError(
            f"An API key given from outside needs {MINIMUM_GIVEN_CHARS} to {MAXIMUM_CHARS} visible ASCII characters, "
            f"without spaces; this one has {len(text)}."
        )
    return NewSecret(prefix=parsed.prefix, text=text, digest=digest(text, pepper=pepper))


def parse(text: str, *, pepper: str) -> ParsedKey | None:
    """Return the key `text` may be, or None when no key could look so.

    The prefix of a given text is taken from a keyed digest: prefixes are public, and a plain hash of the text
    would let whoever reads one test guesses.
    """
    if minted := _MINTED.fullmatch(text):
        return ParsedKey(prefix=minted[1], is_minted=True, text=text)
    if _GIVEN.fullmatch(text):
        derived = hmac.new(pepper.encode(), b"prefix\0" + text.encode(), hashlib.sha256).hexdigest()[:8]
        return ParsedKey(prefix=GIVEN_PREFIX + derived, is_minted=False, text=text)
    return None


def digest(text: str, *, pepper: str) -> str:
    """Return the HMAC-SHA-256 of `text`, in hexadecimal. Fast is right here: keys are random, not remembered."""
    return hmac.new(pepper.encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def matches(text: str, stored_digest: str, *, pepper: str) -> bool:
    """Whether `text` is the key behind `stored_digest`; takes the same time wherever the two differ."""
    return hmac.compare_digest(digest(text, pepper=pepper), stored_digest)
