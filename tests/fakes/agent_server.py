"""A small agent-server on a loopback port: real HTTP, real session sockets, an agent that does as the test says.

    server = FakeAgentServer()
    server.start()
    server.script(Step(command="ls"), Answer("Two files."))     # for the next message that is posted
    ...
    assert server.only_conversation.posted == [...]
    server.stop()

It behaves as `openhands-agent-server` 1.58 was seen to: routes, status codes, order of events, cumulative token counts,
and the traps (a 429 on a message that was saved, a fork without its key, a socket that is closed rather than sent a
large frame). Messages without a script are answered with `default_answer`. It runs in a thread of its own, so tests may
block, and every method may be called from any thread. Faults are methods too, each named after what then happens.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.fakes import agent_routes
from tests.fakes.agent_conversation import RESTARTED, FakeConversation
from tests.fakes.agent_script import Answer, Move
from tests.fakes.event_socket import SocketFaults, serve_events

_DEADLINE_SECONDS = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One REST request. `body` is its JSON, None without one."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class FakeAgentServer:
    """Start it, script it, break it. `requests` and `conversations` say what was asked of it.

    `on_message(conversation, text)`, if set, returns the moves for a message instead of the scripts; it runs on the
    fake's loop and must not block. `max_concurrent_runs` is the real server's `OH_MAX_CONCURRENT_RUNS`.
    """

    def __init__(self, *, version: str = "1.58.0", max_concurrent_runs: int = 10) -> None:
        self.session_api_key = f"session-{uuid.uuid4().hex}"
        self.version = version
        self.max_concurrent_runs = max_concurrent_runs
        self.usable_tools = ["terminal", "file_editor", "task_tracker", "glob", "grep", "browser_tool_set"]
        self.default_answer = Answer("Hello from the agent.")
        self.on_message: Callable[[FakeConversation, str], list[Move]] | None = None
        self.requests: list[Received] = []
        self.handshakes: list[str] = []  # address and headers of the event sockets that were asked for
        self.conversations: dict[uuid.UUID, FakeConversation] = {}
        self.deleted: list[FakeConversation] = []
        self.max_frame_bytes = 4 * 2**20
        self.socket_faults = SocketFaults()
        self.started_at = time.monotonic()
        self.most_running = 0  # runs at the same time, ever
        self._scripts: deque[list[Move]] = deque()
        self._failures: list[tuple[str, str, int, Any]] = []
        self._lost_answers: list[tuple[str, str]] = []
        self._capacity_refusals = 0
        self._messages_to_lose = 0
        self._defect: BaseException | None = None
        self._hung: asyncio.Event | None = None
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._port = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Return when the port accepts connections."""
        self._thread = threading.Thread(target=self._run_loop, name="fake-agent-server", daemon=True)
        self._thread.start()
        self._await(self._set_up())
        return self

    def stop(self) -> None:
        """Close everything. Harmless if it was stopped before. Raises if a script made no sense."""
        if self._thread is None or not self._thread.is_alive():
            return
        self._await(self._tear_down())
        defect = self._defect
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_SECONDS)
        self._loop.close()
        if defect is not None:
            raise RuntimeError("A script could not be played; the test saw an agent that hung.") from defect

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what the agent does, and what was asked of it ------------------------------------------------------------------

    def script(self, *moves: Move) -> None:
        """Moves for the next message that has none yet, whichever conversation it is posted to."""
        self._soon(lambda: self._scripts.append(list(moves)))

    @property
    def only_conversation(self) -> FakeConversation:
        """The one conversation there is; an error if there are more or none."""
        (conversation,) = self.conversations.values()
        return conversation

    def calls(self, method: str, ending: str = "") -> list[Received]:
        """The requests of a method whose path ends so."""
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]

    def wait_until(self, is_true: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
        """Wait for something about this server: a request, an event, a status. TimeoutError if it does not happen."""
        with self._changed:
            if not self._changed.wait_for(is_true, timeout_seconds):
                raise TimeoutError(f"It did not happen; requests: {[(r.method, r.path) for r in self.requests][-10:]}")

    # --- faults of the server -------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Die as by `kill -9`: no port, every connection cut, runs gone."""
        self._await(self._close_port(graceful=False))

    def shut_down(self) -> None:
        """Stop as by SIGTERM: runs are paused and interrupted first, sockets closed with 1012."""
        self._await(self._close_port(graceful=True))

    def come_back(self) -> None:
        """Listen again at the same address. Runs that a crash cut short are then in `error`."""
        self._await(self._reopen())

    def hang(self) -> None:
        """Accept connections and requests and never answer; sockets fall silent, pings included."""
        self._soon(self._start_hanging)

    def recover(self) -> None:
        """End `hang`."""
        self._soon(self._stop_hanging)

    def forget_conversations(self) -> None:
        """Lose the data directory: every conversation is unknown from now on."""
        self._soon(self.conversations.clear)

    def change_key(self) -> None:
        """Accept another session API key only."""
        self.session_api_key = f"session-{uuid.uuid4().hex}"

    def fail_next(self, method: str, ending: str, *, status: int, body: Any = None) -> None:
        """Answer the next such request with a status, without doing what it asks. A 5xx also closes the connection.

        `body` is sent as JSON, or as it is if it is a text.
        """
        self._soon(lambda: self._failures.append((method, ending, status, body)))

    def lose_next_answer(self, method: str, ending: str) -> None:
        """Do what the next such request asks and cut the connection instead of answering. A message over an event
        socket is the method SEND of `…/events`, here and in `fail_next`."""
        self._soon(lambda: self._lost_answers.append((method, ending)))

    def lose_next_message(self) -> None:
        """Cut the connection when a message comes over an event socket, without having looked at it."""
        self._soon(lambda: setattr(self, "_messages_to_lose", 1))

    def hold_messages(self) -> None:
        """Be slow with messages over event sockets, and with nothing else, until `take_messages`; `held_messages` are
        there and not looked at."""
        self._soon(self.socket_faults.may_take.clear)

    def take_messages(self) -> None:
        """End `hold_messages`."""
        self._soon(self.socket_faults.may_take.set)

    @property
    def held_messages(self) -> int:
        return self.socket_faults.held_messages

    async def hold_message(self) -> None:
        self.socket_faults.held_messages += 1
        self.notify()
        await self.socket_faults.may_take.wait()
        self.socket_faults.held_messages -= 1

    def refuse_runs(self, times: int) -> None:
        """Say that all run slots are taken, so many times; a message is saved all the same."""
        self._soon(lambda: setattr(self, "_capacity_refusals", times))

    # --- faults of the event sockets: open ones and, until `times` or `mend_sockets`, later ones ---------------------------

    def drop_socket_after(self, frames: int, *, times: int = 1) -> None:
        """Cut a socket, without a closing handshake, after so many more live frames."""
        self._soon(lambda: self.socket_faults.drop_after(frames, times))

    def close_sockets(self, code: int, reason: str = "") -> None:
        """Close the sockets that are open now."""
        self._soon(lambda: self.socket_faults.close_all(code, reason))

    def repeat_frames(self) -> None:
        """Send every frame twice."""
        self._soon(lambda: setattr(self.socket_faults, "repeats", True))

    def swap_deltas(self) -> None:
        """Send every two deltas in the wrong order."""
        self._soon(lambda: setattr(self.socket_faults, "swaps_deltas", True))

    def lose_delta(self, order: int) -> None:
        """Leave out the delta of this order, of every item."""
        self._soon(lambda: setattr(self.socket_faults, "lost_order", order))

    def send_garbage(self) -> None:
        """Send something unreadable, and a frame of an unknown type, before every frame."""
        self._soon(lambda: setattr(self.socket_faults, "garbage", True))

    def overtake_replay(self) -> None:
        """Send a delta of an item that is being written before the events that are replayed."""
        self._soon(lambda: setattr(self.socket_faults, "overtakes", True))

    def mute_sockets(self) -> None:
        """Accept sockets and send nothing, not even `sync`."""
        self._soon(lambda: setattr(self.socket_faults, "is_mute", True))

    def refuse_sockets(self, status: int) -> None:
        """Answer handshakes with an HTTP status."""
        self._soon(lambda: setattr(self.socket_faults, "refusal", status))

    def mend_sockets(self) -> None:
        """End every fault of the event sockets."""
        self._soon(self.socket_faults.mend)

    # --- used by the routes, on the loop -----------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return sum(conversation.is_running for conversation in self.conversations.values())

    def has_room(self) -> bool:
        if self._capacity_refusals:
            self._capacity_refusals -= 1
            return False
        return self.running < self.max_concurrent_runs

    def start_run(self, conversation: FakeConversation) -> None:
        """Answer what stands unanswered; does nothing otherwise, as the real server."""
        conversation.task = asyncio.create_task(conversation.run())
        self.most_running = max(self.most_running, self.running)
        conversation.task.add_done_callback(self._note_end_of_run)

    def _note_end_of_run(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._defect = self._defect or task.exception()
        self.notify()

    def moves_for(self, conversation: FakeConversation) -> list[Move]:
        text = "".join(part.get("text", "") for part in conversation.posted[-1])
        if self.on_message is not None:
            return self.on_message(conversation, text)
        return self._scripts.popleft() if self._scripts else [self.default_answer]

    def take_message(self, conversation: FakeConversation, content: list[Any], *, run: bool) -> bool:
        """Append a message and start a run, if it is to; False when there is no room for it: the message stays."""
        if conversation.is_running:
            conversation.add_message(content)  # taken up by the run that is going on
            return True
        conversation.add_message(content)
        conversation.moves = self.moves_for(conversation)
        if run:
            if not self.has_room():
                return False
            self.start_run(conversation)
        return True

    def take_over_socket(self, conversation: FakeConversation, message: dict[str, Any]) -> tuple[str, str, bool]:
        """A message that came over an event socket. Return code and text of what the real server objects with, empty
        for nothing, and whether the connection is to be cut then."""
        path = f"/api/conversations/{conversation.id}/events"
        received = Received(method="SEND", path=path, headers={}, body=message)
        self.requests.append(received)
        try:
            if self._messages_to_lose:
                self._messages_to_lose -= 1
                return "", "", True
            if failure := self._take(self._failures, received):
                return "ValidationError", str(failure[3] or "boom"), False
            if conversation.id not in self.conversations:
                return "ValueError", "inactive_service", False
            has_room = self.take_message(conversation, message["content"], run=True)
            is_cut = self._take(self._lost_answers, received) is not None
            if has_room:
                return "", "", is_cut
            return "ConversationRunLimitExceeded", agent_routes.MESSAGE_SAVED.format(id=conversation.id), is_cut
        finally:
            self.notify()

    async def interrupt(self, conversation: FakeConversation) -> None:
        conversation.interrupts += 1
        if not conversation.is_running:
            return
        await self._end_task(conversation)
        conversation.abort_item("cancelled")
        conversation.abort_step("Tool call interrupted before completion. The conversation was paused.")
        conversation.set_status("paused")
        conversation.append_event("InterruptEvent", source="user")
        for _ in range(2):  # the real server sends it twice
            conversation.publish(conversation.full_state())

    async def delete(self, conversation: FakeConversation) -> None:
        await self.interrupt(conversation)
        self.conversations.pop(conversation.id, None)
        self.deleted.append(conversation)

    async def hold_if_hung(self) -> None:
        if self._hung is not None:
            await self._hung.wait()

    # --- the loop ------------------------------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _await(self, coroutine: Any) -> Any:
        """Run a coroutine on the fake's loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_DEADLINE_SECONDS)

    def _soon(self, action: Callable[[], object]) -> None:
        """Run something on the fake's loop and wait for it, so that the next line of a test can rely on it."""

        async def act() -> None:
            action()

        if threading.current_thread() is self._thread:
            action()
        else:
            self._await(act())

    def notify(self) -> None:
        """Have `wait_until` look again."""
        with self._changed:
            self._changed.notify_all()

    async def _set_up(self) -> None:
        application = web.Application(client_max_size=64 * 2**20, middlewares=[self._middleware])
        application.add_routes(agent_routes.routes(self))
        application.add_routes([web.get("/sockets/session/{id}", self._serve_events)])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await self._listen()

    async def _serve_events(self, request: web.Request) -> web.StreamResponse:
        return await serve_events(self, request)

    async def _listen(self) -> None:
        assert self._runner is not None
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self._port))
        self._port = sock.getsockname()[1]
        self._site = web.SockSite(self._runner, sock)
        await self._site.start()

    async def _tear_down(self) -> None:
        self._stop_hanging()
        for conversation in list(self.conversations.values()):
            await self._end_task(conversation)
        self._cut_connections()
        assert self._runner is not None
        await self._runner.cleanup()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _close_port(self, *, graceful: bool) -> None:
        assert self._site is not None
        await self._site.stop()
        if graceful:
            for conversation in list(self.conversations.values()):
                await self._pause_for_shutdown(conversation)
            await self.socket_faults.close_and_wait(1012)
        else:
            for conversation in list(self.conversations.values()):
                await self._end_task(conversation)
        self._cut_connections()

    async def _pause_for_shutdown(self, conversation: FakeConversation) -> None:
        if not conversation.is_running:
            return
        await self._end_task(conversation)
        conversation.forget_item()
        conversation.set_status("paused")
        conversation.append_event("PauseEvent", source="user")
        conversation.append_event("InterruptEvent", source="user")

    async def _reopen(self) -> None:
        for conversation in self.conversations.values():
            if conversation.status == "running":
                conversation.forget_item()
                conversation.set_status("error")
                conversation.abort_step(RESTARTED)
        await self._listen()

    @staticmethod
    async def _end_task(conversation: FakeConversation) -> None:
        task, conversation.task = conversation.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _cut_connections(self) -> None:
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def _start_hanging(self) -> None:
        self._hung = self._hung or asyncio.Event()

    def _stop_hanging(self) -> None:
        if self._hung is not None:
            self._hung.set()
            self._hung = None

    # --- every request ---------------------------------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        await self.hold_if_hung()
        if request.path.startswith("/sockets/"):
            self.handshakes.append(f"{request.path_qs} {dict(request.headers)}")
            if status := self.socket_faults.refusal:
                return web.json_response({"detail": "refused"}, status=status)
            return await handler(request)
        raw = await request.read()
        received = Received(
            method=request.method,
            path=request.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=json.loads(raw) if raw else None,
        )
        self.requests.append(received)
        try:
            if failure := self._take(self._failures, received):
                return self._refuse(failure[2], failure[3])
            if request.path.startswith("/api/") and received.headers.get("x-session-api-key") != self.session_api_key:
                return web.json_response({"detail": "Unauthorized"}, status=401)
            response = await handler(request)
            if self._take(self._lost_answers, received):
                assert request.transport is not None
                request.transport.abort()
            return response
        except web.HTTPNotFound:
            return web.json_response({"detail": "Not Found"}, status=404)
        finally:
            self.notify()

    @staticmethod
    def _refuse(status: int, body: Any) -> web.Response:
        if isinstance(body, str):
            return web.Response(text=body, status=status)
        response = web.json_response(body or {"detail": "Internal Server Error", "exception": "boom"}, status=status)
        if status >= 500:
            response.force_close()
        return response

    @staticmethod
    def _take[T: tuple[Any, ...]](planned: list[T], received: Received) -> T | None:
        for one in planned:
            if one[0] == received.method and received.path.endswith(one[1]):
                planned.remove(one)
                return one
        return None
