"""Shell scripts as programs to supervise, and questions about what is left of them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway_project.supervisor.child import Child, ChildSpec, Listeners, RestartPolicy
from gateway_project.supervisor.readiness import file_appears
from gateway_project.supervisor.supervisor import Supervisor

# Fast, so that a test of several deaths takes a fraction of a second.
QUICK = RestartPolicy(first_delay_seconds=0.01, longest_delay_seconds=0.05, rapid_deaths=3)


class TinyProgram:
    """A shell script in a directory of its own, and what was said about it. The script says it is ready with
    `touch ready`, and notes pids with `echo $! >> pids`."""

    def __init__(self, directory: Path, script: str, *, policy: RestartPolicy = QUICK, **spec: Any) -> None:
        self.directory = directory
        self.restarts: list[str] = []
        self.lines: list[str] = []
        values: dict[str, Any] = {
            "name": "tiny",
            "command": ("/bin/sh", "-c", script),
            "environment": {"PATH": os.environ["PATH"]},
            "directory": directory,
            "log_path": directory / "logs" / "tiny.log",
            "is_ready": file_appears(directory / "ready"),
            "ready_within_seconds": 10.0,
            "grace_seconds": 0.5,
        }
        listeners = Listeners(restarted=self.restarts.append, said=lambda _name, line: self.lines.append(line))
        self.child = Child(ChildSpec(**(values | spec)), listeners, policy=policy)

    def pids(self) -> list[int]:
        return [int(line) for line in (self.directory / "pids").read_text().split()]

    def starts(self) -> int:
        return len((self.directory / "starts").read_text().split())


@contextmanager
def supervised(*programs: TinyProgram) -> Iterator[Supervisor]:
    supervisor = Supervisor()
    for program in programs:
        supervisor.start(program.child)
    yield supervisor


def is_alive(pid: int) -> bool:
    """Whether it still runs; a process that has ended counts as dead although nobody has waited for it yet."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # gone since the line above, or a system without /proc
        return sys.platform != "linux"


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


async def eventually(is_so: Callable[[], bool], *, within_seconds: float) -> bool:
    """Whether it comes true in time. For what nobody announces, such as the death of a process that is not ours."""
    deadline = time.monotonic() + within_seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
