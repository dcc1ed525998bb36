"""Which processes belong to another. `/proc` on Linux, `ps` elsewhere. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    group: int


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, at any depth; dead ones too until somebody has waited for them."""
    children: dict[int, list[int]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    ahead = list(children.get(pid, ()))
    while ahead:
        current = ahead.pop()
        if current not in found:
            found.add(current)
            ahead.extend(children.get(current, ()))
    return found


def group(group_id: int) -> set[int]:
    """Return the processes of a process group; dead ones too until somebody has waited for them."""
    return {process.pid for process in _processes() if process.group == group_id}


def _processes() -> list[Process]:
    return _from_proc() if sys.platform == "linux" else _from_ps()


def _from_proc() -> list[Process]:
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        # "pid (name) state parent group …": the name may hold spaces and brackets
        parent, group_id = text.rpartition(")")[2].split()[1:3]
        found.append(Process(int(entry.name), int(parent), int(group_id)))
    return found


def _from_ps() -> list[Process]:
    command = ["/bin/ps", "-axo", "pid=,ppid=,pgid="]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603  no input
    return [Process(*(int(text) for text in line.split())) for line in listing.stdout.splitlines()]
