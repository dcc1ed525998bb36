"""The drivers of this process: their tasks, their leases, their place in the queue, and their orderly end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import threading
import uuid
from contextlib import AbstractAsyncContextManager
from uuid import UUID

import aiohttp
from django.db import close_old_connections
from django.db.utils import Error as DatabaseError

from chatgateway import audit, servers
from chatgateway.agent_session import AgentSession
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.driver import Assignment, Driver
from chatgateway.errors import AgentServerUnavailable
from chatgateway.kept_feeds import KeptFeeds
from chatgateway.live import LiveTurn
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.turn_events import TurnFailed
from chatgateway.writer import writer
from profiles.models import OnDisconnect

logger = logging.getLogger(__name__)

# Well within a lease's 20 s, and the time in which revoking a key stops what was started with it.
RENEW_SECONDS = 4.0
# Slots freed by other processes are noticed this fast; those freed here at once.
QUEUE_POLL_SECONDS = 0.25


class Drivers:
    """One per process and event loop; `current()` returns it."""

    def __init__(self) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"[:64]
        self.live: dict[UUID, LiveTurn] = {}
        self.is_draining = False
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._waiting: dict[UUID, tuple[Turn, asyncio.Event]] = {}
        self._granter: asyncio.Task[None] | None = None
        self._slot_freed = asyncio.Event()
        self._http: aiohttp.ClientSession | None = None
        self._kept_feeds = KeptFeeds()
        self._stop_renewing = threading.Event()
        self._renewer: threading.Thread | None = None

    def refuse_if_draining(self) -> None:
        if self.is_draining:
            raise AgentServerUnavailable("The gateway is restarting. Try again in a moment.", retry_after_seconds=2)

    def start(self, assignment: Assignment) -> LiveTurn:
        """Drive a turn in a task of its own and return what there is to subscribe to."""
        turn = assignment.turn
        live = LiveTurn(
            turn_id=turn.pk,
            reply_id=turn.reply_id,
            created=int(turn.opened_at.timestamp()),
            conversation_id=assignment.conversation.pk,
            cancels_on_disconnect=assignment.profile.on_disconnect == OnDisconnect.CANCEL,
        )
        driver = Driver(assignment, live, sessions=self.session, wait_for_slot=self.wait_for_slot)
        self.live[turn.pk] = live
        # A fresh context: one inherited from a view would give every driver a thread of its own (measured: 62
        # threads for 60 drivers, 3 with a fresh one).
        task = self._loop.create_task(driver.drive(), name=f"turn {turn.pk}", context=contextvars.Context())
        self._tasks[turn.pk] = task
        task.add_done_callback(lambda _: self._ended(turn.pk))
        self._renew()
        return live

    def _ended(self, turn_id: UUID) -> None:
        task = self._tasks.pop(turn_id)
        self.live.pop(turn_id, None)
        self._slot_freed.set()
        if not task.cancelled() and task.exception() is not None:
            logger.error("the driver of turn %s failed", turn_id, exc_info=task.exception())

    def session(self, server: AgentServer, conversation: Conversation) -> AbstractAsyncContextManager[AgentSession]:
        return AgentSession(
            client=self.client(server),
            conversation_id=conversation.pk,
            incarnation=conversation.incarnation,
            kept_feeds=self._kept_feeds,
        )

    def client(self, server: AgentServer) -> AgentServerClient:
        """A client on the process's one HTTP session."""
        if self._http is None or self._http.closed:
            self._http = new_http_session()
        return AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=self._http)

    # --- the queue ----------------------------------------------------------------------------------------------

    async def wait_for_slot(self, turn: Turn, timeout_seconds: float) -> bool:
        """Wait until `turn` was given an agent-server, by this process or another. False after the time-out."""
        granted = asyncio.Event()
        self._waiting[turn.pk] = (turn, granted)
        if self._granter is None or self._granter.done():
            self._granter = self._loop.create_task(self._grant(), context=contextvars.Context())
        try:
            await asyncio.wait_for(granted.wait(), timeout_seconds)
        except TimeoutError:
            return False
        finally:
            del self._waiting[turn.pk]
        return True

    async def _grant(self) -> None:
        while self._waiting:
            self._slot_freed.clear()
            ids = list(self._waiting)

            def grant(ids: list[UUID] = ids) -> list[Turn]:
                servers.grant_waiting()
                mine = Turn.objects.filter(pk__in=ids, phase=Turn.Phase.STARTING)
                return list(mine.select_related("agent_server"))

            try:
                granted = await writer.run(grant)
            except DatabaseError:
                logger.exception("the queue could not be read")
                granted = []
            for row in granted:
                if row.pk in self._waiting:
                    turn, event = self._waiting[row.pk]
                    turn.phase, turn.started_at = row.phase, row.started_at
                    turn.agent_server, turn.server_url = row.agent_server, row.server_url
                    event.set()
            try:
                await asyncio.wait_for(self._slot_freed.wait(), QUEUE_POLL_SECONDS)
            except TimeoutError:
                continue

    # --- leases -------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        if self._renewer is None or not self._renewer.is_alive():
            self._stop_renewing.clear()
            self._renewer = threading.Thread(target=self._keep_renewing, name="gateway-leases", daemon=True)
            self._renewer.start()

    def _keep_renewing(self) -> None:
        """A thread, so that a busy event loop does not cost its turns."""
        while not self._stop_renewing.wait(RENEW_SECONDS):
            ids = list(self._tasks)
            if not ids:
                continue
            try:
                audit.renew_leases(self.owner, ids)
                for turn_id in audit.no_longer_allowed(ids):
                    self._loop.call_soon_threadsafe(self._cancel, turn_id, "key")
            except DatabaseError:
                logger.exception("leases could not be renewed")
            finally:
                close_old_connections()

    def _cancel(self, turn_id: UUID, reason: str) -> None:
        if turn_id in self.live:
            self.live[turn_id].request_cancel(reason)

    # --- the end of the process -----------------------------------------------------------------------------------

    async def drain(self, grace_seconds: float) -> None:
        """Admit nothing more, let turns end for a while, then leave the rest to whoever takes over their leases."""
        self.is_draining = True
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
        left = dict(self._tasks)
        for turn_id, task in left.items():
            self.live[turn_id].publish([_RESTARTING])
            task.cancel()
        if left:
            await asyncio.wait(left.values(), timeout=5)
            await writer.run(lambda: audit.drop_leases(self.owner, list(left)))
        if self._granter is not None:
            self._granter.cancel()
        self._stop_renewing.set()
        await self._kept_feeds.close()
        if self._http is not None:
            await self._http.close()


_RESTARTING = TurnFailed(
    status=503,
    type="server_error",
    code="service_unavailable",
    message="The gateway is restarting. The agent goes on; its answer is kept in the record.",
    headers={"x-should-retry": "false"},
)

_current: Drivers | None = None


def current() -> Drivers:
    """The drivers of the running event loop; made on first use."""
    global _current  # noqa: PLW0603  one event loop per process: this is its anchor
    if _current is None or _current._loop is not asyncio.get_running_loop():
        _current = Drivers()
    return _current
