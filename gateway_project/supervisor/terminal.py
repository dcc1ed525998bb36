"""What `up` prints. A thread of its own writes, so that a terminal that is stopped stops nothing else."""

from __future__ import annotations

import io
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_BOLD, _DIM, _RED, _YELLOW, _GREEN, _PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[33m", "\033[32m", "\033[0m"
_NAME_WIDTH = 20
# Lines that wait for a slow terminal; beyond that, lines are dropped (the log files have them all).
_BACKLOG = 10_000


class Terminal:
    """Steps, sentences and other programs' lines. Colours only where somebody looks."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="replace")  # a terminal without a tick still shows the rest
        self.is_interactive = self._stream.isatty()
        self._lines: queue.Queue[str | None] = queue.Queue(_BACKLOG)
        self._thread = threading.Thread(target=self._write, name="terminal", daemon=True)
        self._thread.start()

    def say(self, text: str = "") -> None:
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            return

    def step(self, name: str, seconds: float, note: str = "") -> None:
        """One finished step: its name, how long it took, and what came of it."""
        mark = self._coloured(_GREEN, "✓")
        self.say(f"  {mark} {name:<{_NAME_WIDTH}} {seconds:6.1f} s  {self._coloured(_DIM, note)}".rstrip())

    def announce(self, name: str, text: str) -> None:
        """Something that will take long, before it does."""
        self.say(f"  … {name:<{_NAME_WIDTH}}           {text}")

    def warn(self, text: str) -> None:
        self.say(f"  {self._coloured(_YELLOW, '!')} {text}")

    def fail(self, text: str) -> None:
        self.say(f"{self._coloured(_RED, 'error:')} {text}")

    def title(self, text: str) -> None:
        self.say(self._coloured(_BOLD, text))

    def strong(self, text: str) -> str:
        return self._coloured(_BOLD, text)

    def dim(self, text: str) -> str:
        return self._coloured(_DIM, text)

    def line_of(self, program: str, line: str) -> None:
        self.say(f"{self._coloured(_DIM, f'{program} |')} {line}")

    @contextmanager
    def timed(self, name: str) -> Iterator[list[str]]:
        """Time a step and print it when it is done; what is put into the list becomes its note."""
        notes: list[str] = []
        started = time.monotonic()
        yield notes
        self.step(name, time.monotonic() - started, ", ".join(notes))

    def close(self, *, within_seconds: float = 1.0) -> None:
        """Write what waits, if the terminal takes it in time."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(within_seconds)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(f"{line}\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # whoever read it has gone, as in `up | head`
                continue

    def _coloured(self, code: str, text: str) -> str:
        return f"{code}{text}{_PLAIN}" if self.is_interactive and text else text
