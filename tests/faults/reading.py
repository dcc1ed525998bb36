"""Streams of responses whose gateway dies."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
from openai import APIError
from openai.types.responses import ResponseStreamEvent


def read_until_it_breaks(stream: Any) -> list[ResponseStreamEvent]:
    """What still came before the connection broke."""
    events: list[ResponseStreamEvent] = []
    with contextlib.suppress(APIError, httpx.TransportError):
        events.extend(stream)
    return events
