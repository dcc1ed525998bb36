"""Closed-loop load in a process of its own: `python -m benchmarks.load`, a `Job` as JSON on standard input, a `Result`
as JSON on standard output.

Each of `users` sends its next request when the one before it was answered. A warm-up per user comes first and is not
counted. CPU and memory are those of the watched processes, read at both ends of the counted part.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks import processes
from benchmarks.clients import Caller, NativeCaller, OpenAICaller, Timing, WrongAnswer
from benchmarks.wishes import Wish

# No request of a benchmark may take longer than this; one that does counts as failed.
REQUEST_SECONDS = 120.0
# What each occupant asks for: five seconds, of which the first one passes before anything is counted.
OCCUPYING = Wish(100, 50)
SETTLING_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to send to whom. `address` holds the fields of an `OpenAICaller`, or of a `NativeCaller` if `is_native`.

    `ramp_seconds` spreads the users' first requests. `holds` is for open streams: memory is read once, when every user
    has its first text, instead of at the end. While `occupants` others have a turn each, the users' calls are to be
    refused.
    """

    address: dict[str, Any]
    is_native: bool = False
    keeps_conversation: bool = False
    stream: bool = False
    tokens: int = 10
    delay_ms: int = 0
    users: int = 1
    requests: int = 1
    warm_up: int = 1
    ramp_seconds: float = 0.0
    holds: bool = False
    occupants: int = 0
    watch: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Result:
    """Times in milliseconds, one per counted request; `cpu_ms` is per counted request."""

    total_ms: list[float] = field(default_factory=list)
    first_text_ms: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_ms: float = 0.0
    rss_before_kib: int = 0
    rss_kib: int = 0


FAILURES = (WrongAnswer, OSError, asyncio.IncompleteReadError, TimeoutError)


class Load:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.wish = Wish(job.tokens, job.delay_ms)
        self.result = Result()
        self._errors: Counter[str] = Counter()
        self._numbers = itertools.count()

    async def run(self) -> Result:
        callers = [self._caller() for _ in range(self.job.users)]
        try:
            await self._warm_up(callers)
            async with self._occupied():
                before, started = processes.usage(self.job.watch), time.perf_counter()
                if self.job.holds:
                    await self._hold(callers)
                else:
                    await asyncio.gather(*(self._ask(caller, index) for index, caller in enumerate(callers)))
                self.result.seconds = time.perf_counter() - started
                after = processes.usage(self.job.watch)
        finally:
            await asyncio.gather(*(caller.close() for caller in callers))
        self.result.cpu_ms = (after.cpu_seconds - before.cpu_seconds) * 1000 / self.job.requests
        self.result.rss_before_kib = before.rss_kib
        self.result.rss_kib = self.result.rss_kib or after.rss_kib
        self.result.errors = dict(self._errors)
        return self.result

    def _caller(self) -> Caller:
        kind = NativeCaller if self.job.is_native else OpenAICaller
        return kind(**self.job.address, keeps_conversation=self.job.keeps_conversation)

    async def _warm_up(self, callers: list[Caller]) -> None:
        async def warm(caller: Caller) -> None:
            for _ in range(self.job.warm_up):
                async with asyncio.timeout(REQUEST_SECONDS):
                    await caller.turn(Wish(self.job.tokens, 0), stream=self.job.stream)

        if self.job.holds:
            callers = callers[:8]  # enough for what a target loads on first use, which is no stream's memory
        # A few at a time: a target that has not met load yet should not fall over before it is measured.
        for start in range(0, len(callers), 8):
            await asyncio.gather(*(warm(caller) for caller in callers[start : start + 8]))

    async def _ask(self, caller: Caller, index: int) -> None:
        await asyncio.sleep(self.job.ramp_seconds * index / self.job.users)
        while next(self._numbers) < self.job.requests:
            await self._turn(caller)

    async def _turn(self, caller: Caller) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                self._note(await self._answer(caller))
        except FAILURES as error:
            self._fail(error)

    async def _answer(self, caller: Caller) -> Timing:
        if self.job.occupants:
            assert isinstance(caller, OpenAICaller)
            return await caller.refusal(self.wish)
        return await caller.turn(self.wish, stream=self.job.stream)

    def _fail(self, error: Exception) -> None:
        self._errors[f"{type(error).__name__}: {error}"[:200]] += 1

    def _note(self, timing: Timing) -> None:
        self.result.total_ms.append(timing.total * 1000)
        if timing.first_text is not None:
            self.result.first_text_ms.append(timing.first_text * 1000)

    @contextlib.asynccontextmanager
    async def _occupied(self) -> AsyncIterator[None]:
        """Every place taken from the beginning of the block; at its end, until every occupant has its answer."""
        if not self.job.occupants:
            yield
            return
        occupants = [self._caller() for _ in range(self.job.occupants)]
        turns = asyncio.gather(*map(self._occupy, occupants))
        await asyncio.sleep(SETTLING_SECONDS)
        yield
        await turns
        await asyncio.gather(*(caller.close() for caller in occupants))

    async def _occupy(self, caller: Caller) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await caller.turn(OCCUPYING, stream=True)
        except FAILURES as error:
            self._fail(error)

    async def _hold(self, callers: list[Caller]) -> None:
        """One stream per user, all open at once; memory is read in the middle of the time they are."""
        streams = asyncio.gather(*(self._ask(caller, index) for index, caller in enumerate(callers)))
        stream_seconds = self.job.tokens * self.job.delay_ms / 1000
        await asyncio.sleep(self.job.ramp_seconds + (stream_seconds - self.job.ramp_seconds) / 2)
        self.result.rss_kib = processes.usage(self.job.watch).rss_kib
        await streams


def main() -> None:
    job = Job(**json.load(sys.stdin))
    json.dump(dataclasses.asdict(uvloop.run(Load(job).run())), sys.stdout)


if __name__ == "__main__":
    main()
