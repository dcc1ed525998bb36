"""The drivers of this process: their tasks, their leases, their place in the queue, and their orderly end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import threading
import uuid
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import aiohttp
from django.db import close_old_connections
from django.db.utils import Error as DatabaseError

from chatgateway import agents, audit, servers
from chatgateway.agent_session import AgentSession
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.driver import Driver
from chatgateway.errors import AgentServerUnavailable
from chatgateway.file_changes import Comparisons
from chatgateway.follower import Follower, FrameFollower, replay
from chatgateway.frame_log import FrameLog
from chatgateway.head_start import HeadStart, HeadStarts
from chatgateway.housekeeping import Chore, Housekeeper
from chatgateway.kept_feeds import KeptFeeds
from chatgateway.live import LiveTurn
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api.chat_request import LlmOverrides
from chatgateway.preparation import Assignment
from chatgateway.turn_events import TurnFailed
from chatgateway.writer import writer
from profiles.models import Profile

logger = logging.getLogger(__name__)

# How soon a turn stops that somebody cancelled in another process.
LOOK_SECONDS = 1.0
# Leases last 20 s; revoking a key stops what was started with it within 5 s.
RENEW_EVERY = 4
# Slots freed by other processes are noticed this fast; those freed here at once.
QUEUE_POLL_SECONDS = 0.25
# How soon a process that ends sees that nothing is left to wait for.
DRAIN_LOOK_SECONDS = 0.1


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
        self._comparisons = Comparisons(self.client)
        self._followed: dict[UUID, LiveTurn] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._attached: set[str] = set()
        self._opening: set[asyncio.Task[Any]] = set()  # requests that were let in and have no turn yet
        self._stop_renewing = threading.Event()
        self._renewer: threading.Thread | None = None

    def refuse_if_draining(self) -> None:
        """Raise AgentServerUnavailable once this process ends; till then a drain waits for the turn of whoever asks."""
        if self.is_draining:
            raise AgentServerUnavailable("The gateway is restarting. Try again in a moment.", retry_after_seconds=2)
        request = asyncio.current_task()
        assert request is not None
        self._opening.add(request)
        request.add_done_callback(self._opening.discard)

    def start(self, assignment: Assignment) -> LiveTurn:
        """Drive a turn in a task of its own and return what there is to subscribe to."""
        turn = assignment.turn
        live = _live(turn)
        driver = Driver(
            assignment,
            live,
            sessions=self.session,
            wait_for_slot=self.wait_for_slot,
            follow=self._follow_on,
            comparisons=self._comparisons,
            frame_log=FrameLog(turn, live, known=assignment.frames) if turn.is_response else None,
        )
        return self._drive(turn, live, driver.drive())

    def start_housekeeping(self, chore: Chore) -> LiveTurn:
        """`start`, for a turn without an agent."""
        live = _live(chore.turn)
        return self._drive(chore.turn, live, Housekeeper(chore, live, follow=self._follow_on).drive())

    def _drive(self, turn: Turn, live: LiveTurn, work: Coroutine[Any, Any, None]) -> LiveTurn:
        self.live[turn.pk] = live
        # A fresh context: one inherited from a view would give every driver a thread of its own (measured: 62
        # threads for 60 drivers, 3 with a fresh one).
        task = self._loop.create_task(work, name=f"turn {turn.pk}", context=contextvars.Context())
        self._tasks[turn.pk] = task
        task.add_done_callback(lambda done: self._ended(turn.pk, done))
        self._renew()
        return live

    def subscription(self, turn: Turn) -> LiveTurn:
        """Return what there is to subscribe to for a turn that exists, whichever process drives or drove it."""
        # What is not written ahead has other pieces while it is shown than afterwards.
        is_as_written = not turn.is_response or turn.is_resumable
        known = (self.live.get(turn.pk) if is_as_written else None) or self._followed.get(turn.pk)
        if known is not None:
            return known
        live = _live(turn)
        if turn.is_response:
            live.frames = 0
            self._follow(live, FrameFollower(live))
        elif turn.outcome != Turn.Outcome.OPEN:
            replay(live, turn)
        else:
            self._follow(live, Follower(live, sessions=self.session))
        return live

    def _follow_on(self, live: LiveTurn, shown: str) -> None:
        """Another process took over a turn that this one drove: tell those who wait here how it ends."""
        if live.frames is not None:
            self._follow(live, FrameFollower(live))
        else:
            self._follow(live, Follower(live, sessions=self.session, relays=False, shown=shown))

    def _follow(self, live: LiveTurn, follower: Follower | FrameFollower) -> None:
        self._followed[live.turn_id] = live
        task = self._loop.create_task(follower.run(), name=f"following {live.turn_id}", context=contextvars.Context())
        self._following.add(task)
        task.add_done_callback(lambda done: self._no_longer_followed(live, done))

    def _no_longer_followed(self, live: LiveTurn, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        self._followed.pop(live.turn_id, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("turn %s could not be followed", live.turn_id, exc_info=task.exception())
            live.publish([_UNFOLLOWED])

    # --- those who wait -------------------------------------------------------------------------------------------

    def attach(self, request_id: str) -> None:
        """A request waits in this process: its attempt's lease is renewed until `detach`."""
        self._opening.discard(asyncio.current_task())  # it has its turn
        self._attached.add(request_id)
        self._renew()

    def detach(self, request_id: str) -> None:
        self._attached.discard(request_id)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside everything else, and keep hold of it."""
        task = self._loop.create_task(work, context=contextvars.Context())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _ended(self, turn_id: UUID, task: asyncio.Task[None]) -> None:
        # A process that froze may have lost the turn, and taken it over again before this task noticed: then another
        # one drives it.
        if self._tasks.get(turn_id) is task:
            del self._tasks[turn_id]
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

    def head_starts(self) -> HeadStarts:
        return HeadStarts(remove=lambda one: self.later(one.take_back()))

    def head_start(
        self,
        *,
        server: AgentServer,
        conversation: Conversation,
        profile: Profile,
        overrides: LlmOverrides,
        instructions: str,
    ) -> HeadStart:
        """Begin to create a conversation whose turn is not committed yet."""
        spec = agents.agent_for(
            profile=profile, conversation=conversation, server=server, overrides=overrides, instructions=instructions
        )
        return HeadStart(self.client(server), conversation.pk, spec, server_id=server.pk)

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
                mine = Turn.objects.filter(pk__in=ids, phase=Turn.Phase.STARTING).select_related("agent_server")
                return list(mine.only("phase", "started_at", "server_url", "agent_server"))

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
        ticks = 0
        while not self._stop_renewing.wait(LOOK_SECONDS):
            ticks += 1
            ids, waiting = list(self._tasks), list(self._attached)
            if not ids and not waiting:
                continue
            try:
                if ids:
                    self._pass_on(audit.cancellations(ids))
                if ticks % RENEW_EVERY == 0:
                    audit.renew_leases(self.owner, ids)
                    audit.renew_attempts(waiting)
                    self._pass_on([(turn_id, "key") for turn_id in audit.no_longer_allowed(ids)])
            except DatabaseError:
                logger.exception("leases could not be renewed")
            finally:
                close_old_connections()

    def _pass_on(self, cancellations: list[tuple[UUID, str]]) -> None:
        for turn_id, reason in cancellations:
            self._loop.call_soon_threadsafe(self._cancel, turn_id, reason)

    def _cancel(self, turn_id: UUID, reason: str) -> None:
        if turn_id in self.live:
            self.live[turn_id].request_cancel(reason)

    # --- the end of the process -----------------------------------------------------------------------------------

    async def drain(self, grace_seconds: float) -> None:
        """Admit nothing more, let turns end for a while, then leave the rest to whoever takes over their leases."""
        self.is_draining = True
        until = self._loop.time() + grace_seconds
        # Again and again: a request that was let in before may open its turn only now.
        while (busy := {*self._tasks.values(), *self._following, *self._opening}) and self._loop.time() < until:
            await asyncio.wait(busy, timeout=min(until - self._loop.time(), DRAIN_LOOK_SECONDS))
        left = dict(self._tasks)
        # Whoever took over at once a turn whose message is under way would not find it in the agent-server's log yet,
        # and send it again. Such a turn keeps its lease, as if this process had been killed.
        certain = [turn_id for turn_id in left if not self.live[turn_id].is_in_doubt]
        for live in [*map(self.live.__getitem__, left), *self._followed.values()]:
            live.publish([_HANDED_OVER])
        for task in (*left.values(), *self._following, *self._chores):
            task.cancel()
        self._comparisons.cancel()
        if left:
            await asyncio.wait(left.values(), timeout=5)
            await writer.run(lambda: audit.drop_leases(self.owner, certain))
        if self._granter is not None:
            self._granter.cancel()
        self._stop_renewing.set()
        await self._kept_feeds.close()
        if self._http is not None:
            await self._http.close()


def _live(turn: Turn) -> LiveTurn:
    return LiveTurn(
        turn_id=turn.pk,
        reply_id=turn.reply_id,
        created=int(turn.opened_at.timestamp()),
        conversation_id=turn.conversation_id,
    )


_HANDED_OVER = TurnFailed(
    status=503,
    type="server_error",
    code="service_unavailable",
    message="The gateway is restarting. The agent goes on; repeat the request with the same Idempotency-Key, if it had "
    "one, to get its answer.",
    headers={"x-should-retry": "false"},
    is_handover=True,
)

_UNFOLLOWED = TurnFailed(
    status=500,
    type="server_error",
    code="internal_error",
    message="The gateway failed. Quote the x-request-id header to its administrator.",
    headers={"x-should-retry": "false"},
)

_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Drivers] = WeakKeyDictionary()


def current() -> Drivers:
    """The drivers of the running event loop; made on first use."""
    loop = asyncio.get_running_loop()
    drivers = _of_loops.get(loop)
    if drivers is None:
        drivers = _of_loops[loop] = Drivers()
    return drivers
