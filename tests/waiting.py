"""Waiting for what another thread will have done in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], *, timeout_seconds: float = 60.0) -> T:
    """Return the first thing `look` finds that is neither None nor False; AssertionError if there is none in time."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing was found within {timeout_seconds} s")
