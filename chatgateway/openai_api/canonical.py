"""One byte string per JSON value, and digests over it.

Retries and histories are recognised by digest. SDK versions order the keys of a body differently, and a database
may hand numbers back in another spelling, so the text that arrived cannot be hashed itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii
from typing import Any

# Integral floats up to here are written as integers, exactly. JavaScript knows no difference between 1 and 1.0, and
# PostgreSQL's jsonb turns 1e2 into 100.
_EXACT_FLOAT = float(2**53)

# Python's JSON parser reads these, so this writes them.
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def canonical_json(value: object) -> bytes:
    """`value` with sorted keys, no spaces, ASCII only. Equal values give equal bytes: 1 and 1.0 are equal, 1 and
    true are not.

    Takes whatever a JSON parser can return, at any depth, NaN and lone surrogates included; it has no recursion.
    Raises TypeError for anything else, dictionaries with keys that are not strings included.
    """
    out: list[str] = []
    open_items: list[tuple[str, Iterator[tuple[str, Any]]]] = []
    _write(value, out=out, open_items=open_items)
    while open_items:
        closing, items = open_items[-1]
        depth = len(open_items)
        for prefix, item in items:
            out.append(prefix)
            if type(item) is str:
                out.append(encode_basestring_ascii(item))
                out.append(",")
                continue
            _write(item, out=out, open_items=open_items)
            if len(open_items) > depth:
                break  # a container was opened: its items come first
            out.append(",")
        else:
            open_items.pop()
            if out[-1] == ",":
                out.pop()
            out.append(closing)
            if open_items:
                out.append(",")
    return "".join(out).encode("ascii")


def digest(*parts: str | bytes | None) -> bytes:
    """SHA-256 (32 bytes) over `parts` in order. Each part carries its length, so that no two lists collide by
    moving bytes from one part to the next; None differs from an empty part."""
    sha = hashlib.sha256()
    for part in parts:
        if part is None:
            sha.update(b"-")
            continue
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        sha.update(b"%d:" % len(content))
        sha.update(content)
    return sha.digest()


def message_digest(parent: bytes, message: dict[str, Any]) -> bytes:
    """The digest of a history that ends in `message`; `parent` is the digest of what stood before, b"" for nothing.

    Nothing is normalised but key order and the spelling of numbers: equal digests mean equal histories.
    """
    return digest(parent, canonical_json(message))


def _write(value: object, *, out: list[str], open_items: list[tuple[str, Iterator[tuple[str, Any]]]]) -> None:
    """Write a scalar, or open a container whose items the caller then walks."""
    if isinstance(value, str):
        out.append(encode_basestring_ascii(value))
    elif isinstance(value, dict):
        out.append("{")
        open_items.append(("}", ((encode_basestring_ascii(key) + ":", value[key]) for key in sorted(value))))
    elif isinstance(value, list | tuple):
        out.append("[")
        open_items.append(("]", (("", item) for item in value)))
    elif value is None:
        out.append("null")
    elif isinstance(value, bool):
        out.append("true" if value else "false")
    elif isinstance(value, int):
        out.append(int.__repr__(value))
    elif isinstance(value, float):
        out.append(_number(value))
    else:
        raise TypeError(f"{type(value).__name__} is not a JSON type")


def _number(value: float) -> str:
    if value.is_integer() and abs(value) <= _EXACT_FLOAT:
        return repr(int(value))
    written = float.__repr__(value)
    return _NOT_FINITE.get(written, written)
