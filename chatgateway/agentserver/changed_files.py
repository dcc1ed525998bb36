"""Which files an agent changed, whatever tool it used: asked of the agent-server's host by a program of ours.

The agent-server's own Git routes know only what a repository tracks: no ignored file, no repository that an agent
cloned below its directory, and no difference between two turns of which neither ended with a commit.
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import shlex
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

# Beside the tenants' directories, below the root: what the program saw of each directory.
STATES = ".turn-files"
NO_PYTHON = 127
# The agent-server is run by one, which need not be on its path.
_FIND_PYTHON = """for python in python3 python "$(readlink /proc/$PPID/exe)"; do
case "$python" in *python*) command -v "$python" >/dev/null 2>&1 && exec "$python" -I -S -c """


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """`change`: added, changed or deleted. `kind`: text, long (too long to be compared), binary or link. Sizes are in
    bytes, None where there was or is no file. `diff` is one as `diff -u` writes it, if `is_compared`."""

    path: str
    change: str
    kind: str
    size: int | None
    was_size: int | None
    diff: str
    is_compared: bool
    lines_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryChanges:
    """What changed below a directory; or `problem`, why that is not known.

    `since`: when it was looked at before, None if it was new or a copy then. `is_whole`: all of it was looked at, but
    for `directories_left_out`. `files_left_out`: so many more have changed.
    """

    files: tuple[ChangedFile, ...] = ()
    files_left_out: int = 0
    directories_left_out: tuple[str, ...] = ()
    is_whole: bool = True
    since: dt.datetime | None = None
    problem: str = ""


def state_of(directory: str) -> str:
    """Return where the program keeps what it saw of a conversation's directory, `{root}/{tenant}/{conversation}`."""
    root = posixpath.dirname(posixpath.dirname(directory))
    return posixpath.join(root, STATES, posixpath.basename(directory))


def command(directory: str, *, base: str) -> str:
    """Return the shell's command that compares. `base`: see `host_script`."""
    arguments = " ".join(shlex.quote(one) for one in (_program(), directory, state_of(directory), base))
    return f"{_FIND_PYTHON}{arguments};; esac\ndone; exit {NO_PYTHON}"


def read(text: str) -> DirectoryChanges:
    """Return what the program wrote. Raises ValueError for anything else."""
    said = json.loads(text)
    try:
        if problem := said.get("problem"):
            return DirectoryChanges(problem=str(problem)[:300])
        since = said["since"]
        return DirectoryChanges(
            files=tuple(_file(one) for one in said["files"]),
            files_left_out=int(said["files_left_out"]),
            directories_left_out=tuple(str(name)[:100] for name in said["directories_left_out"]),
            is_whole=bool(said["is_whole"]),
            since=None if since is None else dt.datetime.fromtimestamp(since, tz=dt.UTC),
        )
    except (KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise ValueError(f"not what the program writes: {error!r}") from error


def _file(said: dict[str, Any]) -> ChangedFile:
    return ChangedFile(**{field.name: said[field.name] for field in fields(ChangedFile)})


@cache
def _program() -> str:
    return (Path(__file__).parent / "host_script.py").read_text(encoding="utf-8")
