"""The REST routes of a `FakeAgentServer`: the ones a gateway uses, with the real server's answers."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.fakes.agent_conversation import FakeConversation

if TYPE_CHECKING:
    from tests.fakes.agent_server import FakeAgentServer

Json = dict[str, Any]

LIMIT_REACHED = "Conversation run limit reached. Retry the request later."
MESSAGE_SAVED = (
    "Message saved, but the conversation run limit was reached. "
    "Retry POST /api/conversations/{id}/run without resending the message."
)


def routes(server: FakeAgentServer) -> list[web.RouteDef]:
    one = "/api/conversations/{id}"
    on = _Routes(server)
    return [
        web.get("/alive", on.alive),
        web.get("/health", on.alive),
        web.get("/ready", on.ready),
        web.get("/server_info", on.server_info),
        web.get("/api/conversations", on.batch),
        web.post("/api/conversations", on.create),
        web.get("/api/conversations/search", on.search),
        web.get(one, on.within(on.show)),
        web.delete(one, on.within(on.delete)),
        web.post(f"{one}/events", on.within(on.send)),
        web.get(f"{one}/events/search", on.within(on.events)),
        web.post(f"{one}/events/respond_to_confirmation", on.within(on.confirm)),
        web.post(f"{one}/run", on.within(on.run)),
        web.post(f"{one}/interrupt", on.within(on.interrupt)),
        web.post(f"{one}/navigate", on.within(on.navigate)),
        web.post(f"{one}/switch_llm", on.within(on.switch_llm)),
        web.post(f"{one}/fork", on.within(on.fork)),
        web.post("/api/bash/execute_bash_command", on.bash),
    ]


class _Routes:
    def __init__(self, server: FakeAgentServer) -> None:
        self._server = server

    def within(
        self, handle: Callable[[FakeConversation, Json], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A route about one conversation: 404 without it."""

        async def route(request: web.Request) -> web.Response:
            conversation = self._server.conversations.get(uuid.UUID(request.match_info["id"]))
            if conversation is None:
                return _error(404, "Not Found")
            given = await request.json() if await request.read() else dict(request.query)
            return await handle(conversation, given)

        return route

    # --- the server -----------------------------------------------------------------------------------------------

    async def alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def server_info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "version": self._server.version,
                "sdk_version": self._server.version,
                "usable_tools": self._server.usable_tools,
                "capabilities": ["idempotent_conversation_create_v1"],
                "uptime": time.monotonic() - self._server.started_at,
            }
        )

    async def bash(self, request: web.Request) -> web.Response:
        """Really runs the command, as the user who runs the tests."""
        body = await request.json()
        process = await asyncio.create_subprocess_shell(
            body["command"], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(body.get("timeout", 300)):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return web.json_response({"exit_code": -1, "stdout": None, "stderr": "timed out"})
        output = {"stdout": stdout.decode() or None, "stderr": stderr.decode() or None}
        return web.json_response({"exit_code": process.returncode, **output})

    # --- conversations ----------------------------------------------------------------------------------------------

    async def batch(self, request: web.Request) -> web.Response:
        found = [self._server.conversations.get(uuid.UUID(one)) for one in request.query.getall("ids")]
        return web.json_response([one.info() if one else None for one in found])

    async def search(self, request: web.Request) -> web.Response:
        items = [one.info() for one in self._server.conversations.values()]
        status = request.query.get("status")
        found = [item for item in items if status is None or item["execution_status"] == status]
        return web.json_response({"items": found, "next_page_id": None})

    async def create(self, request: web.Request) -> web.Response:
        body: Json = await request.json()
        conversation_id = uuid.UUID(body.get("conversation_id") or str(uuid.uuid4()))
        existing = self._server.conversations.get(conversation_id)
        if existing is not None:
            return web.json_response(existing.info(), status=200)
        if problem := _problem_with(body):
            return web.json_response({"detail": [problem]}, status=422)
        if not self._server.has_room():
            return _error(429, LIMIT_REACHED)
        conversation = FakeConversation(conversation_id, body, on_change=self._server.notify)
        self._server.conversations[conversation_id] = conversation
        return web.json_response(conversation.info(), status=201)

    async def show(self, conversation: FakeConversation, _: Json) -> web.Response:
        return web.json_response(conversation.info())

    async def delete(self, conversation: FakeConversation, _: Json) -> web.Response:
        await self._server.delete(conversation)
        return _success()

    async def send(self, conversation: FakeConversation, body: Json) -> web.Response:
        if body.get("role") != "user":
            detail = "Only user messages are allowed to be sent to the agent."
            return web.json_response({"detail": "Internal Server Error", "exception": detail}, status=500)
        if any(part.get("type") not in ("text", "image") for part in body["content"]):
            return web.json_response({"detail": [_problem(["body", "content"], "union_tag_invalid")]}, status=422)
        if not self._server.take_message(conversation, body["content"], run=bool(body.get("run"))):
            return _error(429, MESSAGE_SAVED.format(id=conversation.id))
        return _success()

    async def events(self, conversation: FakeConversation, query: Json) -> web.Response:
        ids = [event["id"] for event in conversation.events]
        start = ids.index(query["page_id"]) if query.get("page_id") in ids else 0
        end = start + int(query.get("limit", 100))
        next_page_id = ids[end] if end < len(ids) else None
        return web.json_response({"items": conversation.events[start:end], "next_page_id": next_page_id})

    async def confirm(self, conversation: FakeConversation, body: Json) -> web.Response:
        if not body["accept"] and conversation.status == "waiting_for_confirmation":
            conversation.reject_step(body.get("reason", "User rejected the action."))
        return _success()

    # --- control ----------------------------------------------------------------------------------------------------

    async def run(self, conversation: FakeConversation, _: Json) -> web.Response:
        if conversation.is_running:
            return _error(409, "Conversation already running. Wait for completion or pause first.")
        if conversation.is_answered:
            return _success()
        if not self._server.has_room():
            return _error(429, LIMIT_REACHED)
        self._server.start_run(conversation)
        return _success()

    async def interrupt(self, conversation: FakeConversation, _: Json) -> web.Response:
        await self._server.interrupt(conversation)
        return _success()

    async def navigate(self, conversation: FakeConversation, body: Json) -> web.Response:
        if not conversation.navigate(body["event_id"]):
            return _error(404, f"Unknown event_id: {body['event_id']}")
        return web.json_response(conversation.info())

    async def switch_llm(self, conversation: FakeConversation, body: Json) -> web.Response:
        if conversation.forked_from and not conversation.posted:
            conversation.counts_tokens = False  # the LLM is not that of an agent which was set up
        conversation.requested = {**conversation.requested, "agent": {**conversation.agent, "llm": body["llm"]}}
        return _success()

    async def fork(self, conversation: FakeConversation, body: Json) -> web.Response:
        new_id = uuid.UUID(body.get("id") or str(uuid.uuid4()))
        if new_id in self._server.conversations:
            return _error(409, f"Conversation with id {new_id} already exists")
        copy = conversation.fork(new_id, from_event_id=body.get("from_event_id"), tags=body.get("tags") or {})
        if copy is None:
            return _error(404, f"Unknown from_event_id: {body['from_event_id']}")
        self._server.conversations[new_id] = copy
        return web.json_response(copy.info(), status=201)


def _problem_with(body: Json) -> Json | None:
    if not isinstance(body.get("agent"), dict) or "llm" not in body["agent"]:
        return _problem(["body", "agent", "llm"], "Field required")
    for name in body.get("tags") or {}:
        if not re.fullmatch(r"[a-z0-9]+", name):
            return _problem(["body", "tags"], f"Tag key '{name}' is invalid: keys must be lowercase alphanumeric only")
    return None


def _problem(place: list[str], message: str) -> Json:
    return {"type": "value_error", "loc": place, "msg": message, "input": "whatever was sent, secrets included"}


def _success() -> web.Response:
    return web.json_response({"success": True})


def _error(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)
