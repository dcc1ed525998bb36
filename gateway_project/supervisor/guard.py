"""Runs one program and ends everything it started: `python -m gateway_project.supervisor.guard [options] -- program …`.

One guard stands between the supervisor and each of its programs. It ends the program when it is told to (SIGTERM, or
SIGINT for without its grace) and when the supervisor is gone, however that happened: its standard input is a pipe that
only the supervisor holds open. And it ends what the program leaves behind, such as the tmux server of an agent's
terminal, which puts itself into a session of its own: on Linux such orphans become children of the guard. It exits as
the program did.

Standard library only, and little of it: a guard starts in 50 ms and takes 10 MB.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import NoReturn

from gateway_project.hardening import protect_process
from gateway_project.supervisor import process_tree

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
# What is left gets this long between SIGTERM and SIGKILL, and again to be gone.
_LEFTOVER_SECONDS = 0.7
NOT_STARTED = 127  # the shell's status for a program that cannot be started


class Guard:
    def __init__(self, command: list[str], *, directory: str, grace_seconds: float) -> None:
        self._command = command
        self._directory = directory
        self._grace_seconds = grace_seconds
        self._status: int | None = None
        self._wake, wake_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        self._is_told_to_stop = False
        self._is_hurried = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wake-up pipe is written to

    def _stop(self, number: int, _frame: object) -> None:
        self._is_told_to_stop = True
        self._is_hurried = self._is_hurried or number == signal.SIGINT

    def run(self) -> int:
        """Return the status to exit with: the program's, or 128 and the signal that ended it."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._child = self._start()
        while self._status is None and not self._is_told_to_stop:
            self._wait(None)
        if self._status is None:
            self._signal_group(signal.SIGTERM)
            self._allow_grace()
        self._end_leftovers()
        return 128 + signal.SIGKILL if self._status is None else self._status

    def _allow_grace(self) -> None:
        deadline = time.monotonic() + self._grace_seconds
        while self._status is None and not self._is_hurried and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())

    def _start(self) -> int:
        parent = os.getpid()
        child = os.fork()
        if child:
            return child
        # In the child: nothing here may return, or two guards would go on.
        try:
            self._become_program(parent)
        except OSError as error:
            os.write(2, f"{self._command[0]} cannot be started: {error.strerror}\n".encode())
        finally:
            os._exit(NOT_STARTED)

    def _become_program(self, parent: int) -> NoReturn:
        os.setsid()
        if sys.platform == "linux":
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # should the guard itself be killed
            if os.getppid() != parent:  # it was, before the line above
                os._exit(NOT_STARTED)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Everything else that was handed down, such as the lock on the data directory, is the guard's alone.
        os.closerange(3, 256)
        os.chdir(self._directory)
        os.execvpe(self._command[0], self._command, os.environ)  # noqa: S606  the supervisor's own command

    def _wait(self, seconds: float | None) -> None:
        """Wait for a signal, a dead child or the end of the supervisor; at most `seconds`."""
        watched = [self._wake] if self._is_told_to_stop else [self._wake, 0]
        readable, _, _ = select.select(watched, [], [], seconds)
        if self._wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if 0 in readable and not os.read(0, 4096):
            self._is_told_to_stop = True
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child:
                    code = os.waitstatus_to_exitcode(status)
                    self._status = code if code >= 0 else 128 - code

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, number)

    def _end_leftovers(self) -> None:
        """SIGTERM, then SIGKILL until nothing is left: what is killed may have started something meanwhile."""
        if not self._leftovers():
            return
        self._kill_leftovers(signal.SIGTERM, until_gone_seconds=_LEFTOVER_SECONDS)
        self._kill_leftovers(signal.SIGKILL, until_gone_seconds=_LEFTOVER_SECONDS)

    def _kill_leftovers(self, number: int, *, until_gone_seconds: float) -> None:
        deadline = time.monotonic() + until_gone_seconds
        told: set[int] = set()
        while (left := self._leftovers()) and time.monotonic() < deadline:
            for pid in left - told:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            told |= left
            self._wait(0.02)

    def _leftovers(self) -> set[int]:
        self._reap()
        return process_tree.descendants(os.getpid()) | process_tree.group(self._child)


def main(arguments: list[str]) -> int:
    """`--directory DIR --grace SECONDS -- program argument …`"""
    options, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    values = dict(zip(options[::2], options[1::2], strict=True))
    protect_process()
    return Guard(command, directory=values["--directory"], grace_seconds=float(values["--grace"])).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
