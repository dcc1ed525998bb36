"""Keeps our secrets from other processes of the same user, such as an agent's. Standard library only.

On Linux `/proc/<pid>/environ` shows the environment a process was started with to every process of its user, and a
debugger of that user can read its memory. Neither function helps against root, which may read memory; but an
overwritten environment cannot be read by anybody any more.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h
# Variables whose values are credentials: our own, and whatever else the shell that started us had.
_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|PEPPER|AUTH|COOKIE|DATABASE_URL|BROKER_URL|REDIS_URL|DSN|_SESSION_",
    re.IGNORECASE,
)
# Pointers to files, not secrets themselves.
_NOT_SECRET = re.compile(r"_FILE\Z|_PATH\Z|_DIR\Z|\ASSH_AUTH_SOCK\Z|\AXAUTHORITY\Z")
# A URL with a password in it, whatever the variable is called.
_SECRET_VALUE = re.compile(r"://[^\s/@]*:[^\s/@]+@")


def protect_process() -> None:
    """Do both of what follows; the first thing a long-lived process does. `exec` undoes it."""
    make_undumpable()
    hide_environment()


def make_undumpable() -> bool:
    """Have the kernel refuse debuggers and `/proc/<pid>/environ` to other processes of this user; True if it does.

    Linux only. It also means no core dumps, and no profiler can attach but as root.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def hide_environment() -> int:
    """Overwrite the credentials in the memory that `/proc/<pid>/environ` and `ps e` show; return how many.

    `os.environ` is a copy and keeps them: settings read from it, and children are started with what is taken from it.
    """
    libc = ctypes.CDLL(None)
    try:
        block = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
    except ValueError:  # a C library without the symbol, as in a macOS framework build
        return 0
    hidden = 0
    index = 0
    while address := block[index]:
        name, _, value = ctypes.string_at(address).partition(b"=")
        if value and is_secret(os.fsdecode(name), os.fsdecode(value)):
            ctypes.memset(address + len(name) + 1, ord("*"), len(value))
            hidden += 1
        index += 1
    return hidden


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is taken to hold a credential, by its name or by what it looks like."""
    if _SECRET_VALUE.search(value):
        return True
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.search(name)
