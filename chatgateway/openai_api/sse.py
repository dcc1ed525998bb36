"""Framing of server-sent events, and JSON that fits into one `data:` line.

Two rules come from reading the clients. A comment is the only keep-alive they all accept: `retry:`, `event:` or an
empty `data:` without JSON makes the Python SDK raise JSONDecodeError. And `id:` lines are never sent, because the
SDK's decoder remembers the last one and then dispatches the blank line after the next comment as an empty event.
"""

from __future__ import annotations

import json

import orjson

PING = b": ping\n\n"
"""A comment: proxies and read time-outs see traffic, clients see nothing."""

DONE = b"data: [DONE]\n\n"
"""The last line of a chat stream. The body must end right after it."""

DATA = b"data: "
END = b"\n\n"


def data(payload: bytes) -> bytes:
    """One event. `payload` is JSON without line breaks, as `json_bytes` and `json_text` make it."""
    return DATA + payload + END


def json_bytes(value: object) -> bytes:
    """`value` as one line of JSON. Escapes all but ASCII, so that even a lone surrogate cannot make it fail."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def json_text(text: str) -> bytes:
    """`text` as a JSON string in UTF-8; the call on the path of every token, hence orjson.

    Lone surrogates, which no strict JSON reader accepts, become U+FFFD; halves that meet are joined.
    """
    try:
        return orjson.dumps(text)
    except TypeError:  # "surrogates not allowed"
        return orjson.dumps(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
