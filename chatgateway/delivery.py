"""Did the reply arrive? What becomes of a request's place at its turn when its response is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatgateway import turns
from chatgateway.turns import Subscription

# A client that was cut off, or a proxy that cut it off, is seen to be gone within this time.
WATCH_SECONDS = 1.0


class Delivery:
    """Belongs to one response; `over` is called once, by the ASGI handler."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def over(self, *, was_sent: bool, is_connected: Callable[[], bool]) -> None:
        """`was_sent`: the last byte was handed to the connection.

        That does not mean that it arrived. A client that counts its attempts and has lost the answer will ask again,
        so its answer counts as delivered only if the connection is still there a moment later.
        """
        subscription = self._subscription
        if not was_sent or subscription.arrival.retry_count is None:
            turns.leave(subscription, delivered=was_sent)
            return
        turns.let_go(subscription)
        asyncio.get_running_loop().call_later(
            WATCH_SECONDS, lambda: turns.note_end(subscription, delivered=is_connected())
        )
