"""Waiting in an event loop for what blocks, and for several things at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from django.db import connections


async def in_thread[T](function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `function` in a thread of its own and return what it returns.

    A daemon thread, not the loop's executor: that is waited for at the end, and Ctrl-C must not wait for a database
    or a provider that does not answer.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def work() -> None:
        try:
            result = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  handed to whoever awaits
            set_outcome = partial(future.set_exception, error)
        else:
            set_outcome = partial(future.set_result, result)
        finally:
            connections.close_all()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, set_outcome)

    threading.Thread(target=work, name=function.__name__, daemon=True).start()
    return await future


async def all_of(*coroutines: Awaitable[Any]) -> list[Any]:
    """Await all of them together; the first failure cancels the others and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
