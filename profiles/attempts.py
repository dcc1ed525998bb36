"""A limit on unknown API keys per address, so that guessing does not become database load. In memory, per process."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Callable

from profiles.exceptions import TooManyFailedAttempts

LIMIT_PER_WINDOW = 20
WINDOW_SECONDS = 60.0
# About 2 MB. When an attack from more addresses than this is going on, the oldest are let go.
MAXIMUM_ADDRESSES = 10_000


class FailedAttempts:
    """Counts failures in windows that begin with an address's first one. Safe to share between threads.

    `clock` returns seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # source -> when it began, failures
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raise TooManyFailedAttempts if `address` has used up its window."""
        began_at, count = self._windows.get(_source(address), (0.0, 0))
        left = began_at + WINDOW_SECONDS - self._clock()
        if count >= LIMIT_PER_WINDOW and left > 0:
            raise TooManyFailedAttempts(max(1, math.ceil(left)))

    def note(self, address: str) -> None:
        """Count one failure."""
        source, now = _source(address), self._clock()
        with self._lock:
            began_at, count = self._windows.get(source, (now, 0))
            if now - began_at >= WINDOW_SECONDS:
                self._windows.pop(source)  # so that the dictionary stays ordered by age
                began_at, count = now, 0
            elif source not in self._windows and len(self._windows) >= MAXIMUM_ADDRESSES:
                del self._windows[next(iter(self._windows))]
            self._windows[source] = (began_at, count + 1)

    def forget_all(self) -> None:
        """Let every address begin anew."""
        with self._lock:
            self._windows.clear()


def _source(address: str) -> str:
    """Whom an address stands for: an IPv6 host has 2^64 of them, so its network counts."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
