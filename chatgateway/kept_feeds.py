"""Event feeds that stay open between two turns of a conversation.

Opening one costs a connection, an authentication and the conversation's state: about a fifth of a short turn on a
live conversation (measured). A feed is used again only if nothing whatever has come over it since its last turn:
another process, or somebody on the agent-server, may have gone on with the conversation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from uuid import UUID

from chatgateway.agentserver.feed import Feed

# The agent-server pings idle sockets after 20 s and hangs up on those that do not answer; nobody reads ours.
KEEP_SECONDS = 15.0
# An idle socket takes about 15 KiB here and a subscriber's place there.
MOST = 500

FeedKey = tuple[UUID, int]  # a conversation and its incarnation


class KeptFeeds:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._feeds: OrderedDict[FeedKey, tuple[Feed, asyncio.TimerHandle]] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def put(self, key: FeedKey, feed: Feed) -> None:
        """Keep a quiet feed for a while; it is closed when its time is over."""
        self._drop(key)
        while len(self._feeds) >= MOST:
            self._drop(next(iter(self._feeds)))
        timer = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._drop, key)
        self._feeds[key] = (feed, timer)

    async def take(self, key: FeedKey, *, after_seq: int) -> Feed | None:
        """Return the feed of a conversation if it stands exactly at `after_seq` and nothing has come since."""
        if key not in self._feeds:
            return None
        feed, timer = self._feeds.pop(key)
        timer.cancel()
        # What the server sent before the caller's last request is in our socket by now, but may not be parsed.
        await asyncio.sleep(0)
        if feed.is_quiet and feed.last_seq == after_seq:
            feed.begin_again()
            return feed
        await feed.close()
        return None

    async def close(self) -> None:
        """Close all of them, at the end of the process."""
        for key in list(self._feeds):
            self._drop(key)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _drop(self, key: FeedKey) -> None:
        kept = self._feeds.pop(key, None)
        if kept is None:
            return
        feed, timer = kept
        timer.cancel()
        task = asyncio.ensure_future(feed.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
