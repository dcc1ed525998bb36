"""What every process of ours that holds secrets does at its start. No Django, no database."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_PARENT_POLL_SECONDS = 1.0


def hide_from_same_user() -> bool:
    """Keep other processes of this user from reading our memory and `/proc/<pid>/environ`; True if it worked.

    Agents run as the same user in the embedded set-up. Linux only: elsewhere there is no such file, and debuggers
    are held off by the system's own rules. `exec` undoes it, so it is called after the last one.
    """
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0  # type: ignore[no-any-return]


async def until_orphaned(parent: int) -> None:
    """Return when `parent`, which started this process, is gone. Looked at once a second: macOS has no signal for it.

    The id is read at the very start of the process: later it may be somebody else's already.
    """
    while os.getppid() == parent:  # noqa: ASYNC110  nobody sets an event when a process dies
        await asyncio.sleep(_PARENT_POLL_SECONDS)
