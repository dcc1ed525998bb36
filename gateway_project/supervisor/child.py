"""One program that is kept running: started, waited for, watched, started again, given up, ended."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway_project.supervisor.log_file import LogFile
from gateway_project.supervisor.readiness import Probe

# The guard is imported from here, whatever the directory of the program.
_CODE = Path(__file__).resolve().parents[2]
_PROBE_SECONDS = 0.1
# What a guard needs for its own work after its program's grace: two rounds of ending what is left.
_GUARD_SECONDS = 2.0
_LONGEST_LINE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a program that ended is started again. A death within `rapid_seconds` of its start counts as rapid; after
    `rapid_deaths` in a row it is given up."""

    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 10.0
    rapid_seconds: float = 30.0
    rapid_deaths: int = 4

    def delay_seconds(self, deaths: int) -> float:
        return min(self.first_delay_seconds * 2.0 ** (deaths - 1), self.longest_delay_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A program to keep running. `environment` is all it gets; `is_ready` is asked every 0.1 s until it says yes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    directory: Path
    log_path: Path
    is_ready: Probe
    ready_within_seconds: float = 60.0
    # Between SIGTERM and SIGKILL.
    grace_seconds: float = 2.5
    is_echoed: bool = False


class State(enum.Enum):
    STARTING = "starting"
    UP = "up"
    WAITING = "waiting to be started again"
    GIVEN_UP = "given up"
    ENDED = "ended"


class ChildGivenUp(Exception):
    """A program died too often in a row. The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Who is told: `restarted` gets a sentence about each death that is followed by a new start, `said` the name and
    a line of the program, `ready` is awaited each time the program has become ready."""

    restarted: Callable[[str], None]
    said: Callable[[str, str], None]
    ready: Callable[[], Awaitable[None]] | None = None


class Child:
    """Runs one `ChildSpec` until `run` is cancelled or gives up. `inherited` are file descriptors for the guard."""

    def __init__(
        self,
        spec: ChildSpec,
        listeners: Listeners,
        *,
        policy: RestartPolicy | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        self.spec = spec
        self.state = State.ENDED
        self.ready = asyncio.Event()
        self.seconds_to_ready = 0.0
        self._listeners = listeners
        self._policy = policy or RestartPolicy()
        self._inherited = tuple(inherited)
        self._last_lines: collections.deque[str] = collections.deque(maxlen=3)
        self._guard: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._is_ending = False
        self._is_hurried = False

    async def run(self) -> None:
        """Keep the program running; returns only by an exception. Raises ChildGivenUp."""
        deaths = 0
        while True:
            started = time.monotonic()
            try:
                how = await self._run_once(started)
            finally:
                self.ready.clear()
                self.state = State.ENDED
                await self._end()
            deaths = deaths + 1 if time.monotonic() - started < self._policy.rapid_seconds else 1
            if deaths >= self._policy.rapid_deaths:
                self.state = State.GIVEN_UP
                raise ChildGivenUp(self._last_words(how, deaths))
            delay = self._policy.delay_seconds(deaths)
            self._listeners.restarted(f"{self.spec.name} {how}; it is started again in {delay:g} s.")
            self.state = State.WAITING
            await asyncio.sleep(delay)

    def hurry(self) -> None:
        """Have the program ended without its grace, now if it is being ended and else when it will be."""
        self._is_hurried = True
        if self._is_ending:
            self._tell_guard_to_end()

    async def _run_once(self, started: float) -> str:
        """Start the program and return how it ended, as the end of a sentence."""
        self.state = State.STARTING
        self._guard = guard = await self._start()
        ended = asyncio.create_task(guard.wait())
        becomes_ready = asyncio.create_task(self._become_ready())
        try:
            await asyncio.wait({ended, becomes_ready}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return _how(ended.result())
            if not becomes_ready.result():
                return f"was not ready within {self.spec.ready_within_seconds:g} s"
            self.seconds_to_ready = time.monotonic() - started
            self.state = State.UP
            self.ready.set()
            return _how(await ended)
        finally:
            for task in (ended, becomes_ready):
                task.cancel()
            await asyncio.gather(ended, becomes_ready, return_exceptions=True)

    async def _become_ready(self) -> bool:
        deadline = time.monotonic() + self.spec.ready_within_seconds
        while not await self.spec.is_ready():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PROBE_SECONDS)
        if self._listeners.ready is not None:
            await self._listeners.ready()
        return True

    async def _start(self) -> asyncio.subprocess.Process:
        output, output_end = os.pipe()
        options = ["--directory", str(self.spec.directory), "--grace", str(self.spec.grace_seconds)]
        guard = [sys.executable, "-S", "-E", "-m", "gateway_project.supervisor.guard"]
        try:
            process = await asyncio.create_subprocess_exec(
                *(*guard, *options, "--", *self.spec.command),
                stdin=asyncio.subprocess.PIPE,  # its end tells the guard that we are gone
                stdout=output_end,
                stderr=output_end,
                env=self.spec.environment,
                cwd=_CODE,
                start_new_session=True,
                pass_fds=self._inherited,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(output_end)
        self._pump = asyncio.create_task(self._pump_output(output))
        return process

    async def _end(self) -> None:
        """End the program and what it started, and return when all of it is gone."""
        guard = self._guard
        if guard is None:
            return
        if guard.returncode is None:
            self._is_ending = True
            self._tell_guard_to_end()
            try:
                async with asyncio.timeout(self.spec.grace_seconds + _GUARD_SECONDS):
                    await guard.wait()
            except TimeoutError:
                guard.kill()
                await guard.wait()
            self._is_ending = False
        if self._pump is not None:
            # Something that escaped may hold the pipe open for ever; what it says is nobody's business any more.
            await asyncio.wait({self._pump}, timeout=0.5)
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    def _tell_guard_to_end(self) -> None:
        assert self._guard is not None
        with contextlib.suppress(ProcessLookupError):
            self._guard.send_signal(signal.SIGINT if self._is_hurried else signal.SIGTERM)

    async def _pump_output(self, descriptor: int) -> None:
        reader = asyncio.StreamReader(limit=_LONGEST_LINE)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        log = LogFile(self.spec.log_path)
        try:
            while line := await _next_line(reader):
                text = log.write(line)
                if text.strip():
                    self._last_lines.append(text.strip())
                self._listeners.said(self.spec.name, text)
        finally:
            log.close()
            transport.close()

    def _last_words(self, how: str, deaths: int) -> str:
        words = f" Its last line: {self._last_lines[-1][:300]}" if self._last_lines else ""
        return f"{self.spec.name} {how}, {deaths} times in a row. Its log is {self.spec.log_path}.{words}"


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line, or as much of it as fits; empty at the end."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(error.consumed)


def _how(status: int) -> str:
    if status > 128:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(status - 128).name}"
    if status < 0:
        return f"lost its guard to {signal.Signals(-status).name}"
    return f"ended with status {status}"
