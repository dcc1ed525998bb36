"""The data directory's lock, so that one `up` uses it at a time, and the secrets that only `up` needs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The guards of a start that was killed hold the lock until they have ended everything; that takes less than this.
_EARLIER_START_SECONDS = 15.0


class AlreadyRunning(Exception):
    """Another start uses the data directory. The message is one sentence for an operator."""


@contextmanager
def locked(data_dir: Path, *, url: str) -> Iterator[int]:
    """Hold the data directory and yield the lock's file descriptor, to be inherited by guards.

    Waits for what a killed start has left to be gone. Raises AlreadyRunning, and OSError when nothing can be written.
    """
    path = data_dir / "up.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def stored_secret(path: Path) -> str:
    """Return the secret in a file of the data directory, made at the first start (0600)."""
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _EARLIER_START_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            pid = holder.get("pid")
            if (isinstance(pid, int) and _lives(pid)) or time.monotonic() > deadline:
                raise AlreadyRunning(
                    f"The data directory {path.parent} is in use by another `manage.py up` "
                    f"(process {pid}, {holder.get('url', 'starting')}). Stop it, or set GATEWAY_DATA_DIR to another."
                ) from None
            time.sleep(0.1)
        else:
            return


def _holder(descriptor: int) -> dict[str, object]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # it has the lock and has not written yet
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
