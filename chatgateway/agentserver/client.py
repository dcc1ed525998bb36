"""An agent-server's REST API, as far as the gateway uses it.

Every call has a deadline and fails with a class of `exceptions`, whose text holds neither the session API key nor
anything secret of what was sent. Nothing is repeated unless that is harmless, and then once: an agent-server that
answered 500 closes the connection without announcing it, so the next request on it breaks off (measured).
"""

from __future__ import annotations

import re
import shlex
from typing import Any
from uuid import UUID

import aiohttp

from chatgateway.agentserver import changed_files, session_socket
from chatgateway.agentserver.changed_files import DirectoryChanges
from chatgateway.agentserver.exceptions import (
    AgentServerError,
    AlreadyRunning,
    CapacityReached,
    CommandFailed,
    ConversationMissing,
    Rejected,
    SendDoubtful,
    TooOld,
    Unreachable,
)
from chatgateway.agentserver.feed import open_feed
from chatgateway.agentserver.rest import Budget, Dropped, Rest, ServerFailed, new_http_session
from chatgateway.agentserver.schemas import (
    AgentSpec,
    ConversationInfo,
    CreatedConversation,
    DurableEvent,
    Json,
    LlmSpec,
    MessagePart,
    ServerInfo,
)
from chatgateway.agentserver.session_socket import SessionSocket, SkippedFrames

__all__ = ["AgentServerClient", "new_http_session"]

# The session socket came with 1.45 (it is absent from the 1.44.0 wheel).
OLDEST_VERSION = (1, 45)

# Often enough that a run on a server that died silently does not look alive for half a minute, seldom enough to cost
# nothing: a socket on which frames arrive sends none.
HEARTBEAT_SECONDS = 20.0

# An id that no conversation has; asking for it costs the server nothing and is answered only with the right key.
_NO_CONVERSATION = UUID(int=0)

_OUTPUT_CHARS = 500


class AgentServerClient:
    """One agent-server, as one holder of a session API key sees it. Cheap to make; keeps nothing between calls.

    Every method takes `timeout_seconds`, a limit on the whole call, and raises Unreachable, Unauthorized and Rejected;
    what else it raises is said where it does. After `heartbeat_seconds` of silence on an event socket the server is
    asked for a sign of life; one that gives none within half of that counts as gone.
    """

    def __init__(
        self,
        *,
        base_url: str,
        session_api_key: str,
        http: aiohttp.ClientSession,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._rest = Rest(base_url=self.base_url, session_api_key=session_api_key, http=http)
        self._heartbeat_seconds = heartbeat_seconds
        self._session_api_key = session_api_key
        self._http = http

    def __repr__(self) -> str:
        return f"AgentServerClient({self.base_url!r})"

    # --- the server ---------------------------------------------------------------------------------------------

    async def server_info(self, *, timeout_seconds: float) -> ServerInfo:
        """What the server is and can; at the same time a check of address, version and key.

        Raises TooOld below 1.45, and Unauthorized for a wrong key: `/server_info` itself is open to everybody, so
        something that is not is asked for as well.
        """
        budget = Budget(timeout_seconds)
        _, body = await self._rest.call("GET", "/server_info", timeout_seconds=budget.left)
        info = ServerInfo.from_json(_object(body, "/server_info"))
        if _version(info.version) < OLDEST_VERSION:
            raise TooOld(info.version)
        await self._rest.call("GET", f"/api/conversations?ids={_NO_CONVERSATION}", timeout_seconds=budget.left)
        return info

    async def is_ready(self, *, timeout_seconds: float) -> bool:
        """Whether the server has started up. False also while it cannot be reached; raises nothing."""
        try:
            await self._rest.call("GET", "/ready", timeout_seconds=timeout_seconds)
        except AgentServerError:
            return False
        return True

    async def copy_directory(self, source: str, target: str, *, timeout_seconds: float) -> None:
        """Copy what is in `source` into `target`, both absolute paths on the agent-server's host.

        `target` is made if missing; files of the same name are replaced, others stay, so a second call is harmless.
        Links are copied as links. Uses the server's shell route, which waits for the command.

        Raises ValueError for a path that is not absolute, CommandFailed if the host could not do it.
        """
        for name, path in (("source", source), ("target", target)):
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"{name} must be an absolute path, not {path!r}")
        copy_from, copy_to = shlex.quote(f"{source.rstrip('/')}/."), shlex.quote(f"{target.rstrip('/')}/")
        command = f"mkdir -p -- {copy_to} && cp -R -P -p -- {copy_from} {copy_to}"
        await self._execute(command, f"copying {source} to {target}", timeout_seconds=timeout_seconds)

    async def delete_directory(
        self, path: str, *, root: str, tenant_id: int, conversation_id: UUID, timeout_seconds: float
    ) -> None:
        """Delete the directory of one conversation and all that is in it; no effect if there is none.

        `path` must be exactly `{root}/{tenant_id}/{conversation_id}`, with `root` absolute: whatever the caller's row
        says, nothing else is ever deleted. A link in its place is removed, not followed. Directories that an agent has
        made read-only, as package caches are, go too.

        Raises ValueError for any other path, before anything is sent; CommandFailed if the host could not do it.
        """
        if not root.startswith("/") or "\0" in root or {".", ".."} & set(root.split("/")):
            raise ValueError(f"root must be an absolute path, not {root!r}")
        if path != f"{root.rstrip('/')}/{tenant_id}/{conversation_id}":
            raise ValueError(f"{path!r} is not the directory of conversation {conversation_id} below {root!r}")
        target = shlex.quote(path)
        make_writable = f"if [ -d {target} ] && [ ! -L {target} ]; then chmod -R u+rwX -- {target} 2>/dev/null; fi"
        state = shlex.quote(changed_files.state_of(path))
        command = f"{make_writable}; rm -f -- {state}; rm -rf -- {target}"
        await self._execute(command, f"deleting {path}", timeout_seconds=timeout_seconds)

    async def changed_files(self, directory: str, *, base: str, timeout_seconds: float) -> DirectoryChanges:
        """Which files below a conversation's directory changed since the last call, whatever changed them.

        `base`: what it is compared with at the first call; `new` for an empty directory, the absolute path of the one
        it began as a copy of, or `unknown`. Runs a program on the agent-server's host, which needs a Python there, and
        looks at file contents only where size or times changed.

        Raises ValueError for a path that is not absolute, CommandFailed if the host could not do it.
        """
        if not directory.startswith("/") or "\0" in directory:
            raise ValueError(f"directory must be an absolute path, not {directory!r}")
        what = f"comparing {directory}"
        try:
            said = await self._execute(
                changed_files.command(directory, base=base), what, timeout_seconds=timeout_seconds
            )
        except CommandFailed as error:
            if error.exit_code == changed_files.NO_PYTHON:
                raise CommandFailed(
                    error.exit_code, f"{what}: there is no Python on the agent-server's host"
                ) from error
            raise
        try:
            return changed_files.read(said)
        except ValueError as error:
            raise CommandFailed(0, f"{what}: {error}"[:_OUTPUT_CHARS]) from error

    async def _execute(self, command: str, what: str, *, timeout_seconds: float) -> str:
        """Run a command in the server's shell, wait for it and return its output. Raises CommandFailed."""
        body = {"command": command, "timeout": max(1, int(timeout_seconds))}
        _, answer = await self._rest.call(
            "POST", "/api/bash/execute_bash_command", json=body, timeout_seconds=timeout_seconds
        )
        result = _object(answer, "execute_bash_command")
        if result.get("exit_code") != 0:
            said = str(result.get("stderr") or result.get("stdout") or "no output").strip()
            raise CommandFailed(_exit_code(result), f"{what}: {said[:_OUTPUT_CHARS]}")
        return str(result.get("stdout") or "")

    # --- conversations --------------------------------------------------------------------------------------------

    async def create_conversation(
        self, conversation_id: UUID, spec: AgentSpec, *, timeout_seconds: float
    ) -> CreatedConversation:
        """Start a conversation under an id of our choosing, without a message.

        Idempotent by the id: an existing conversation is returned unchanged, whatever `spec` says. A connection that
        breaks off is therefore tried once more, and `is_new` may then be False for a conversation this call created.
        Raises CapacityReached if the server runs as many conversations as it may; nothing is stored then.
        """
        status, body = await self._rest.call_twice(
            "POST",
            "/api/conversations",
            json=spec.to_json(conversation_id),
            hide=(spec.llm.api_key, *spec.secrets.values(), *_strings(spec.mcp_config)),
            timeout_seconds=timeout_seconds,
        )
        return CreatedConversation(is_new=status == 201, info=_conversation(body))

    async def conversation(self, conversation_id: UUID, *, timeout_seconds: float) -> ConversationInfo:
        """The conversation as it stands. Raises ConversationMissing."""
        path = f"/api/conversations/{conversation_id}"
        _, body = await self._rest.call("GET", path, missing=ConversationMissing, timeout_seconds=timeout_seconds)
        return _conversation(body)

    async def idle_conversations(self, *, timeout_seconds: float) -> list[ConversationInfo]:
        """Those whose agent has not been set to work, or has been and was put back to waiting; oldest first, 100 at
        most."""
        path = "/api/conversations/search?status=idle&sort_order=CREATED_AT&limit=100"
        _, body = await self._rest.call("GET", path, timeout_seconds=timeout_seconds)
        return [_conversation(item) for item in _object(body, "conversations/search").get("items") or []]

    async def send_message(
        self, conversation_id: UUID, parts: list[MessagePart], *, run: bool = True, timeout_seconds: float
    ) -> None:
        """Append a user's message and start a run, unless `run` is False. Never repeated.

        Raises ConversationMissing; CapacityReached with `message_saved` (only `run` is to be repeated); SendDoubtful
        when the request broke off, timed out or was answered with a 5xx; Unreachable only if no connection was made,
        so that the message certainly did not arrive. A message sent during a run is taken up by that run.
        """
        body = {"role": "user", "content": [part.to_json() for part in parts], "run": run}
        path = f"/api/conversations/{conversation_id}/events"
        try:
            await self._rest.call("POST", path, json=body, missing=ConversationMissing, timeout_seconds=timeout_seconds)
        except (Dropped, ServerFailed) as error:
            raise SendDoubtful(error.detail) from error
        except CapacityReached as error:
            # The server appends first and asks for a slot second, and says so. A proxy's 429 does not.
            raise CapacityReached(error.detail, message_saved="message saved" in error.detail.lower()) from error

    async def run(self, conversation_id: UUID, *, timeout_seconds: float) -> None:
        """Start a run without a new message, for one that stands unanswered. Does nothing if none does.

        Raises ConversationMissing, AlreadyRunning, CapacityReached.
        """
        path = f"/api/conversations/{conversation_id}/run"
        try:
            await self._rest.call("POST", path, missing=ConversationMissing, timeout_seconds=timeout_seconds)
        except Rejected as error:
            if error.status == 409:
                raise AlreadyRunning(error.detail) from error
            raise

    async def interrupt(self, conversation_id: UUID, *, timeout_seconds: float) -> None:
        """Stop the run at once, the LLM call in flight included; no effect if none goes on. Raises ConversationMissing.

        Returns when the server has stopped it, or after the 5 s that the server waits for that.
        """
        path = f"/api/conversations/{conversation_id}/interrupt"
        await self._rest.call_twice("POST", path, missing=ConversationMissing, timeout_seconds=timeout_seconds)

    async def reject_action(self, conversation_id: UUID, *, reason: str, timeout_seconds: float) -> None:
        """Refuse the action that a run in `waiting_for_confirmation` waits with; the run then ends as `idle`.

        A new message would allow it instead. Raises ConversationMissing.
        """
        path = f"/api/conversations/{conversation_id}/events/respond_to_confirmation"
        body = {"accept": False, "reason": reason}
        await self._rest.call_twice(
            "POST", path, json=body, missing=ConversationMissing, timeout_seconds=timeout_seconds
        )

    async def navigate(self, conversation_id: UUID, event_id: str, *, timeout_seconds: float) -> ConversationInfo:
        """Make `event_id` the event after which the conversation goes on; what followed it stays in the log unread.

        The agent-server also takes null, for the very beginning, which loses the system prompt: hence no None here.
        Raises ConversationMissing, and Rejected (404) for an unknown event.
        """
        path = f"/api/conversations/{conversation_id}/navigate"
        try:
            _, body = await self._rest.call_twice(
                "POST", path, json={"event_id": event_id}, timeout_seconds=timeout_seconds
            )
        except Rejected as error:
            raise _missing_conversation_or_event(error) from error
        return _conversation(body)

    async def switch_llm(self, conversation_id: UUID, llm: LlmSpec, *, timeout_seconds: float) -> None:
        """Replace the agent's LLM, key included, from the next call on. Raises ConversationMissing."""
        path = f"/api/conversations/{conversation_id}/switch_llm"
        await self._rest.call_twice(
            "POST",
            path,
            json={"llm": llm.to_json()},
            missing=ConversationMissing,
            hide=(llm.api_key,),
            timeout_seconds=timeout_seconds,
        )

    async def fork(
        self,
        conversation_id: UUID,
        *,
        new_id: UUID,
        from_event_id: str | None,
        tags: dict[str, str],
        timeout_seconds: float,
    ) -> ConversationInfo:
        """Copy a conversation up to and including `from_event_id` (None: all of it) under `new_id`.

        The copy keeps event ids and the workspace directory, counts its tokens from 0, and **has lost its provider
        key**. Its first turn therefore goes: `send_message(run=False)`, `switch_llm`, `run`. In another order it works
        too, but the agent-server then never counts the copy's tokens: the LLM has to be switched on an agent that is
        set up, and the first message is what sets it up.

        Raises ConversationMissing, Rejected (404) for an unknown event, Rejected (409) if `new_id` exists. A connection
        that breaks off is tried once more: a fork that had succeeded is then a 409 as well.
        """
        body: Json = {"id": str(new_id), "tags": tags}
        if from_event_id is not None:
            body["from_event_id"] = from_event_id
        path = f"/api/conversations/{conversation_id}/fork"
        try:
            _, answer = await self._rest.call_twice("POST", path, json=body, timeout_seconds=timeout_seconds)
        except Rejected as error:
            raise _missing_conversation_or_event(error) from error
        return _conversation(answer)

    async def delete(self, conversation_id: UUID, *, timeout_seconds: float) -> bool:
        """Delete the conversation, a run included; its workspace directory stays. False if there was none."""
        path = f"/api/conversations/{conversation_id}"
        try:
            await self._rest.call("DELETE", path, missing=ConversationMissing, timeout_seconds=timeout_seconds)
        except ConversationMissing:
            return False
        return True

    # --- events -----------------------------------------------------------------------------------------------------

    async def durable_events(
        self, conversation_id: UUID, *, after_seq: int, timeout_seconds: float
    ) -> list[DurableEvent]:
        """The events of the log after `after_seq` (-1: all), over a short connection to the event feed.

        REST would give them without their `seq`. Raises ConversationMissing.
        """
        async with open_feed(
            self,
            conversation_id,
            after_seq=after_seq,
            connect_timeout_seconds=timeout_seconds,
            reconnect_within_seconds=0,
        ) as feed:
            return feed.replayed

    async def event_at(
        self, conversation_id: UUID, *, seq: int, previous_id: str | None, timeout_seconds: float
    ) -> Json | None:
        """The raw event at `seq`, over REST; None if the log is shorter. For events that fit into no frame.

        `previous_id` is the id of the event before it, from which the server finds its way at once. Without it (None)
        the log is read from its beginning. Raises ConversationMissing.
        """
        path = f"/api/conversations/{conversation_id}/events/search"
        position, page_id = (0, None) if previous_id is None else (seq - 1, previous_id)
        budget = Budget(timeout_seconds)
        while True:
            query = f"?limit={min(100, seq - position + 1)}" + (f"&page_id={page_id}" if page_id else "")
            _, body = await self._rest.call(
                "GET", path + query, missing=ConversationMissing, timeout_seconds=budget.left
            )
            page = _object(body, "events/search")
            items = page.get("items") or []
            if position + len(items) > seq:
                event: Json = items[seq - position]
                return event
            page_id = page.get("next_page_id")
            if not page_id or not items:
                return None
            position += len(items)

    async def open_socket(
        self,
        conversation_id: UUID,
        *,
        after_seq: int | None,
        timeout_seconds: float,
        skipped: SkippedFrames | None = None,
    ) -> SessionSocket:
        """One connection to the event feed, past its replay; the caller closes it. See `session_socket.connect`."""
        return await session_socket.connect(
            self._http,
            base_url=self.base_url,
            session_api_key=self._session_api_key,
            conversation_id=conversation_id,
            after_seq=after_seq,
            timeout_seconds=timeout_seconds,
            heartbeat_seconds=self._heartbeat_seconds,
            skipped=skipped or SkippedFrames(),
        )


def _missing_conversation_or_event(error: Rejected) -> AgentServerError:
    """Both are 404; only the text about an event names it."""
    if error.status == 404 and "event" not in error.detail.partition(": ")[2].lower():
        return ConversationMissing(error.detail)
    return error


def _strings(value: Any) -> list[str]:
    """All strings within a JSON value: an MCP server's address, headers and environment may each hold a token."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _strings(child)]


def _object(body: Any, what: str) -> Json:
    if not isinstance(body, dict):
        raise Unreachable(f"{what}: the answer is not an object; is this an agent-server?")
    return body


def _conversation(body: Any) -> ConversationInfo:
    try:
        return ConversationInfo.from_json(_object(body, "conversation"))
    except (KeyError, ValueError) as error:
        raise Unreachable(f"the answer is no conversation: {type(error).__name__}") from error


def _exit_code(result: Json) -> int:
    code = result.get("exit_code")
    return code if isinstance(code, int) else -1


def _version(version: str) -> tuple[int, int]:
    """Major and minor; (0, 0) for what is no version number."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
