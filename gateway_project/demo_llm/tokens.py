"""Plausible token counts, and text cut into the pieces it is streamed in. Nothing is tokenised: there is no model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# English text has about four characters to a token in the tokenisers of common models.
_BYTES_PER_TOKEN = 4
# Roles and separators of one message, as OpenAI's cookbook counts them.
_PER_MESSAGE = 4


def count(text: str) -> int:
    return math.ceil(len(text.encode(errors="surrogatepass")) / _BYTES_PER_TOKEN)


def count_prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int:
    """Of a whole request. A picture counts by the length of its URL, at most like a small one (85 tokens)."""
    total = count(json.dumps(tools)) if tools else 0
    for message in messages:
        total += _PER_MESSAGE
        if message.get("tool_calls"):
            total += count(json.dumps(message["tool_calls"]))
        content = message.get("content") or ""
        for part in [content] if isinstance(content, str) else content:
            text = part if isinstance(part, str) else part.get("text")
            total += count(text) if isinstance(text, str) else 85
    return total


def words(text: str) -> list[str]:
    """`text` in pieces of a word with the white space before it; joined they are `text` again."""
    return re.findall(r"\s*\S+(?:\s+\Z)?|\s+", text)


def pieces(text: str, *, most: int) -> list[str]:
    """`text` in at most `most` pieces of whole words."""
    every = words(text)
    size = max(1, math.ceil(len(every) / most))
    return ["".join(every[start : start + size]) for start in range(0, len(every), size)]


def cut(text: str, limit: int | None) -> tuple[str, bool]:
    """The beginning of `text` that fits into `limit` tokens, and whether anything was cut off."""
    if limit is None or count(text) <= limit:
        return text, False
    data = text.encode(errors="surrogatepass")[: limit * _BYTES_PER_TOKEN]
    return data.decode(errors="ignore"), True
