"""Starting, watching and stopping the processes of a measurement; each is stopped by its own id.

CPU time and memory come from /proc, of a process with all its threads and its living descendants.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


class DidNotStart(Exception):
    """The process ended, or did not answer within its time; the text holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """`cpu_seconds` since the process started, its children included; `rss_kib` now."""

    cpu_seconds: float
    rss_kib: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    argv: list[str],
    *,
    env: Mapping[str, str],
    directory: Path,
    name: str,
    ready_url: str | None,
    start_seconds: float = 60,
    core: int | None = None,
) -> Iterator[int]:
    """A process, from when `ready_url` answers 200 until the block is left; yields its id. Raises DidNotStart.

    `core` pins it, with all its threads, to one CPU: what it can do is then what one core can.
    """
    log_path = directory / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  this process has no threads
        )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core % (os.cpu_count() or 1)})
        if ready_url is not None:
            _wait_until_ready(process, ready_url, start_seconds, log_path)
        yield process.pid
    finally:
        _stop(process)


def _die_with_parent() -> None:
    """A measurement that is killed must not leave servers behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, seconds: float, log_path: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise DidNotStart(f"{log_path.stem} did not answer at {url}:\n{log_path.read_text(errors='replace')[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it and the process group that it leads: SIGTERM, and SIGKILL after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def usage(pids: list[int]) -> Usage:
    """What these processes and their descendants have used; those that are gone count for nothing."""
    cpu, rss = 0.0, 0
    for pid in _with_descendants(pids):
        fields = _stat(pid)
        if fields is not None:
            # utime, stime, and those of waited-for children (proc(5), counted from the field after the name)
            cpu += sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICK
            rss += int(fields[21]) * _PAGE // 1024
    return Usage(cpu_seconds=cpu, rss_kib=rss)


def files(pid: int) -> list[str]:
    """What the open files of a process are: a path, `socket:[…]`, `anon_inode:…`. Those just closed are left out."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return found


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def _with_descendants(pids: list[int]) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            parents[int(entry.name)] = int(fields[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(") ")[2].split()
