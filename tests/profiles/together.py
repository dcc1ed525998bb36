"""Doing one thing several times at once, each in a thread with a database connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.db import connections


def at_once(work: Callable[[int], object], *, times: int) -> list[Any]:
    """Call `work(0)`, `work(1)`, … in threads that start together; return what they returned or raised, in order."""
    start = threading.Barrier(times)
    outcomes: list[Any] = [None] * times

    def run(number: int) -> None:
        try:
            start.wait(10)
            outcomes[number] = work(number)
        except Exception as error:
            outcomes[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes
