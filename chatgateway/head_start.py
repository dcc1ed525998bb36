"""An agent that is made while the turn it is for is being committed.

Making one takes an agent-server longer than committing a turn takes the database, and sets no agent to work: that is
what the message does, and it is sent after the commit. So once a turn has its place, and nothing is left to refuse it,
its new conversation is created beside the commit.

Who removes it if the turn does not come about? In this process `HeadStarts`, at once. What a process leaves behind
that dies before the commit, no row speaks of: `strays` finds it on the agent-server.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import UUID

from chatgateway.agentserver.client import AgentServerClient
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.agentserver.schemas import AgentSpec, CreatedConversation

logger = logging.getLogger(__name__)

CALL_SECONDS = 30.0


class HeadStart:
    """A conversation that is being created on one agent-server. Made on the event loop."""

    def __init__(self, client: AgentServerClient, conversation_id: UUID, spec: AgentSpec, *, server_id: int) -> None:
        self.conversation_id = conversation_id
        self.server_id = server_id
        self._client = client
        creating = client.create_conversation(conversation_id, spec, timeout_seconds=CALL_SECONDS)
        # A fresh context, for the reason given in `Drivers`.
        self._task = asyncio.get_running_loop().create_task(creating, context=contextvars.Context())
        # Whoever does not wait for it learns of a failure in another way.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def created(self) -> CreatedConversation:
        """Wait for it. Raises what `AgentServerClient.create_conversation` raises."""
        return await self._task

    async def take_back(self) -> None:
        """Remove the conversation again."""
        await asyncio.wait({self._task})
        try:
            await self._client.delete(self.conversation_id, timeout_seconds=CALL_SECONDS)
        except AgentServerError as error:
            logger.warning("conversation %s stays behind until strays are looked for: %s", self.conversation_id, error)


class HeadStarts:
    """Of one request, from before its turn is opened until after: `with drivers.head_starts() as head_starts`.

    A transaction that is run again begins another one; all that are not taken are removed at the end.
    """

    def __init__(self, remove: Callable[[HeadStart], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._remove = remove
        self._begun: list[HeadStart] = []
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        for one in self._begun:
            self._remove(one)

    def begin(self, make: Callable[[], HeadStart]) -> None:
        """Have one begun. For the writer's thread: it is under way before the outcome of the transaction is known to
        the event loop."""
        self._loop.call_soon_threadsafe(self._begin, make)

    def _begin(self, make: Callable[[], HeadStart]) -> None:
        if self._is_over:
            return
        try:
            self._begun.append(make())
        except ValueError as error:  # an agent that cannot be described: the turn itself fails of that, and says so
            logger.info("a head start was not made: %s", error)

    def take(self, conversation_id: UUID | None) -> HeadStart | None:
        """Return the one of the conversation that was committed."""
        taken = next((one for one in self._begun if one.conversation_id == conversation_id), None)
        self._begun = [one for one in self._begun if one is not taken]
        return taken
