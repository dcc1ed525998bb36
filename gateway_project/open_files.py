"""How many files and sockets this process may have open at once. Standard library only."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

# Where the system says that there is no limit, there is one all the same (macOS: kern.maxfilesperproc); this is below.
UNLIMITED = 10_240


def raise_limit() -> int:
    """Raise this process's own limit to what the system lets it have; return the limit.

    An open turn needs two sockets, its caller's and its agent-server's. Shells and service managers begin with 1024,
    for the sake of programs that use `select()`: 500 open turns, and then no caller gets a connection. What this
    process starts inherits the limit, so only the server calls this, which starts nothing.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files stays %d: %s", soft, error)
        return soft
    return wanted
