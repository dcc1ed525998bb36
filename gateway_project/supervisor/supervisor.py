"""Keeps several programs running and ends them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from gateway_project.supervisor.child import Child


class Supervisor:
    """Owns the programs it started. `wait` ends when one of them is given up; `stop` when all are gone."""

    def __init__(self) -> None:
        self._running: dict[Child, asyncio.Task[None]] = {}

    def start(self, child: Child) -> None:
        self._running[child] = asyncio.create_task(child.run(), name=child.spec.name)

    async def until_ready(self, child: Child) -> None:
        """Return when the program has become ready. Raises what ended it: ChildGivenUp, or its listener's error."""
        ready = asyncio.create_task(child.ready.wait())
        try:
            await asyncio.wait({ready, self._running[child]}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                self._running[child].result()
        finally:
            ready.cancel()

    async def wait(self) -> NoReturn:
        """Wait for a program to be given up. Raises ChildGivenUp, or a listener's error."""
        done, _ = await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
        raise AssertionError("a program is run until it is given up")

    async def stop(self, *, first: Sequence[Child] = ()) -> None:
        """End `first`, each as long as its grace allows, and then all the others at once."""
        await self._end([child for child in first if child in self._running])
        await self._end(list(self._running))

    def hurry(self) -> None:
        """Have everything that is being ended, or will be, ended without its grace."""
        for child in self._running:
            child.hurry()

    async def _end(self, children: Sequence[Child]) -> None:
        tasks = [self._running[child] for child in children]
        for task in tasks:
            task.cancel()
        # How a program failed was told by `until_ready` or `wait`; here they are only ended.
        await asyncio.gather(*tasks, return_exceptions=True)
        for child in children:
            del self._running[child]
