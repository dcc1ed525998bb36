"""A program's output on disk, readable by its owner only, without credentials, limited in size."""

from __future__ import annotations

import os
from pathlib import Path

from gateway_project.redaction import redact

# Two files of this size are kept for each program: the current one and the one before.
MAXIMUM_BYTES = 10 * 1024 * 1024


class LogFile:
    def __init__(self, path: Path, *, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._path = path
        self._maximum_bytes = maximum_bytes
        self._descriptor = -1
        self._open()

    def write(self, line: bytes) -> str:
        """Append a line and return it as text, both without what looks like a credential."""
        text = redact(line.decode(errors="replace").rstrip("\r\n"))
        encoded = f"{text}\n".encode()
        if self._size + len(encoded) > self._maximum_bytes and self._size:
            self._turn_over()
        try:
            self._size += os.write(self._descriptor, encoded)
        except OSError:  # a full disk must not stop the program whose output this is
            return text
        return text

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _turn_over(self) -> None:
        os.close(self._descriptor)
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._open()
