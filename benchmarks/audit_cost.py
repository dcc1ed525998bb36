"""What the record of a turn costs, without HTTP and without an agent: `chatgateway.audit` through the `Writer`.

`python -m benchmarks.audit_cost`, run by `suite` with a gateway's environment; `{"turns": …, "users": …}` on standard
input, figures on standard output. `rows` opens and closes the turn's row alone; `all` does whatever a turn asks of the
database: conversation, slot, notes of progress, events, the end.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

# How long an agent works on a short turn: with this much time in between, callers do not wait for one another.
THINKING_SECONDS = 0.3


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")
    import django

    django.setup()
    import uvloop

    asked = json.load(sys.stdin)
    json.dump(uvloop.run(_measure(asked["turns"], asked["users"])), sys.stdout)


async def _measure(turns: int, users: int) -> dict[str, Any]:
    from asgiref.sync import sync_to_async

    from chatgateway.writer import writer

    work = await sync_to_async(_Record)()
    figures: dict[str, Any] = {}
    for name, write in (("rows", work.rows), ("all", work.everything)):
        await _at_once(write, turns=users, users=users, thinking=0.0)  # warm-up
        figures[name] = await _at_once(write, turns=turns, users=users, thinking=0.0)
        spread = await _at_once(write, turns=min(turns, users * 6), users=users, thinking=THINKING_SECONDS)
        figures[f"{name}_spread"] = spread
    await sync_to_async(writer.close)(timeout_seconds=10)
    return figures


Write = Callable[[float], Awaitable[float]]


async def _at_once(write: Write, *, turns: int, users: int, thinking: float) -> dict[str, float]:
    """`users` at once, `turns` in all. Milliseconds spent waiting for the database and CPU milliseconds, per turn."""
    numbers = itertools.count()
    waits: list[float] = []

    async def user(index: int) -> None:
        await asyncio.sleep(thinking * index / users)  # people do not come in step
        while next(numbers) < turns:
            waits.append(await write(thinking))

    cpu, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(user(index) for index in range(users)))
    seconds = time.perf_counter() - started
    return {
        "wait_ms": statistics.median(waits) * 1000,
        "cpu_ms": (time.process_time() - cpu) * 1000 / turns,
        "per_second": turns / seconds,
    }


class _Record:
    """Does to the database what a turn does, by the functions that a turn calls."""

    def __init__(self) -> None:
        from chatgateway import audit
        from chatgateway.agentserver.schemas import DurableEvent
        from chatgateway.models import AgentServer
        from chatgateway.openai_api.transcript import TextPart, Transcript
        from chatgateway.turn_events import TokenCounts, TurnAnswered
        from profiles import access, issuing
        from profiles.models import Profile, Tenant

        name = f"audit-{os.getpid()}"
        tenant = Tenant.objects.create(name=name)
        _, text = issuing.create_key(tenant=tenant, name=name)
        self.caller = access.caller_for(text, now=dt.datetime.now(dt.UTC))
        made = Profile.objects.create(
            slug=name, llm_model="openai/scripted", llm_api_key="sk-bench", input_price="1", output_price="2"
        )
        self.profile = Profile.objects.get(pk=made.pk)
        AgentServer.objects.create(
            name=name, url=f"http://127.0.0.1:9/{name}", session_api_key="x", workspace_root="/srv", capacity=5000
        )
        self.body = {"model": "openhands_audit", "messages": [{"role": "user", "content": "Say something."}]}
        self.transcript = Transcript(
            system_suffix="", earlier=(), user_parts=(TextPart(text="Say something."),), messages=(), new_from=0
        )
        answered = TurnAnswered(
            text="word " * 10, reasoning="", finish_reason="stop", usage=TokenCounts(input=100, output=10)
        )
        self.ending = audit.Ending(
            outcome=audit.Turn.Outcome.ANSWERED, answered=answered, answer=answered.text, usage=answered.usage
        )
        self.events = [
            DurableEvent(
                seq=seq, event={"id": str(seq), "kind": "ConversationStateUpdateEvent", "source": "environment"}
            )
            for seq in range(6)
        ]
        self.numbers = itertools.count()
        self.conversation = self._conversation()

    async def rows(self, thinking: float) -> float:
        from chatgateway import audit
        from chatgateway.writer import writer

        request_id = f"req-{os.getpid()}-{next(self.numbers)}"
        started = time.perf_counter()
        turn = await writer.run(lambda: self._open(request_id, self.conversation, server=None, at=audit.new_arrival()))
        waited = time.perf_counter() - started
        await asyncio.sleep(thinking)
        started = time.perf_counter()
        await writer.run(lambda: audit.close_turn(turn, self.ending))
        return waited + time.perf_counter() - started

    async def everything(self, thinking: float) -> float:
        from chatgateway import audit, conversations, servers
        from chatgateway.models import Conversation, Turn
        from chatgateway.writer import writer

        request_id = f"req-{os.getpid()}-{next(self.numbers)}"

        def open_row() -> Any:
            conversation = self._conversation()
            at = audit.new_arrival()
            server = servers.pick(conversation=conversation, profile_id=self.profile.pk, is_new=True, arrival=at)
            return self._open(request_id, conversation, server=server, at=at), conversation

        def begin() -> None:
            audit.advance(turn, phase=Turn.Phase.RUNNING)
            conversations.update(conversation, state=Conversation.State.LIVE, agent_server=turn.agent_server)

        def close() -> None:
            audit.close_turn(turn, self.ending)
            conversations.settle(conversation, turn=turn, profile=self.profile, cursor=5, good_leaf_event_id="5")

        started = time.perf_counter()
        turn, conversation = await writer.run(open_row)
        await writer.run(begin)
        waited = time.perf_counter() - started
        accepted = writer.post(lambda: audit.advance(turn, user_event_seq=1))
        await asyncio.sleep(thinking)
        started = time.perf_counter()
        accepted.withdraw()
        await writer.run(close)
        waited += time.perf_counter() - started
        writer.gather(audit.append_events, (turn, self.events))
        writer.gather(audit.delivered, (request_id, dt.datetime.now(dt.UTC)))
        return waited

    def _conversation(self) -> Any:
        from chatgateway import finding

        return finding.find_for(
            caller=self.caller, profile=self.profile, named=finding.Named(), transcript=self.transcript
        ).conversation

    def _open(self, request_id: str, conversation: Any, *, server: Any, at: int) -> Any:
        from chatgateway import audit

        arrival = audit.Arrival(
            request_id=request_id,
            endpoint="chat.completions",
            address="127.0.0.1",
            client="OpenAI/Python 2.54.0",
            retry_count=0,
            caller=self.caller,
        )
        return audit.open_turn(
            arrival=arrival,
            asked=audit.Asked(body=self.body, model_id="openhands_audit"),
            profile=self.profile,
            conversation=conversation,
            match="new",
            server=server,
            at=at,
            lease_owner="benchmark",
            deadline_at=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30),
        )


if __name__ == "__main__":
    main()
