"""The situations that are measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`job` are fields of `load.Job`; `requests` is for a run that counts, `quick` for one that only shows it works.

    `slow` names targets that get a share of the requests only, because each takes seconds there.
    """

    name: str
    title: str
    job: dict[str, Any]
    requests: int
    quick: int
    slow: tuple[str, ...] = ()

    def requests_for(self, target: str, *, is_quick: bool) -> int:
        if is_quick:
            return self.quick
        return max(3, self.requests // 4) if target in self.slow else self.requests


_STREAM = {"stream": True, "tokens": 50, "delay_ms": 40}
_POLLS = ("built-in gateway",)
_HEAVY = ("LiteLLM proxy",)

# One user, a real agent behind every target: how long does a person wait?
AGENT_CASES = (
    Case(
        name="agent-new-sync",
        title="new conversation, collected",
        job={"tokens": 10, "warm_up": 1},
        requests=8,
        quick=2,
    ),
    Case(
        name="agent-reused-sync",
        title="same conversation, collected",
        job={"tokens": 10, "keeps_conversation": True},
        requests=12,
        quick=3,
        slow=_POLLS,
    ),
    Case(
        name="agent-new-stream",
        title="new conversation, streamed for 2 s",
        job=_STREAM,
        requests=4,
        quick=1,
        slow=_POLLS,
    ),
    Case(
        name="agent-reused-stream",
        title="same conversation, streamed for 2 s",
        job={**_STREAM, "keeps_conversation": True},
        requests=4,
        quick=1,
        slow=_POLLS,
    ),
)

# An imitation behind every target, the target alone on one core: what does it cost, how much can it do?
STUB_CASES = (
    Case(
        name="new-sync",
        title="new conversation, collected, 16 users",
        job={"tokens": 10, "users": 16, "warm_up": 3},
        requests=480,
        quick=48,
        slow=_HEAVY,
    ),
    Case(
        name="reused-sync",
        title="same conversation, collected, 16 users",
        job={"tokens": 10, "users": 16, "warm_up": 3, "keeps_conversation": True},
        requests=640,
        quick=48,
        slow=_HEAVY,
    ),
    Case(
        name="stream",
        title="50 tokens in 2 s, 50 users",
        job={**_STREAM, "users": 50, "warm_up": 1, "ramp_seconds": 2.0},
        requests=100,
        quick=50,
    ),
    Case(
        name="burst",
        title="50 tokens at once, same conversation, 10 users",
        job={"stream": True, "tokens": 50, "users": 10, "warm_up": 2, "keeps_conversation": True},
        requests=200,
        quick=20,
        slow=_HEAVY,
    ),
    Case(
        name="parallel-50",
        title="50 tokens in 2 s, 50 users at once",
        job={**_STREAM, "users": 50, "warm_up": 1},
        requests=50,
        quick=50,
    ),
)

# Agent-servers with few slots behind the gateway, turns of half a second: they are what limits the rate.
SLOTS = 8
QUEUED = 8
QUEUE = Case(
    name="queue",
    title=f"turns of half a second, 32 users, {SLOTS} slots on each agent-server",
    job={"tokens": 10, "delay_ms": 55, "users": 32},
    requests=240,
    quick=64,
)
REFUSED = Case(
    name="refused",
    title=f"calls while {SLOTS} turns run and {QUEUED} wait, which is as many as may",
    job={"tokens": 10, "occupants": SLOTS + QUEUED},
    requests=60,
    quick=20,
)


def open_streams(count: int) -> Case:
    """So many streams open at once, a word a second: what does each hold in memory?"""
    return Case(
        name=f"open-{count}",
        title=f"{count} open streams",
        job={
            "stream": True,
            "tokens": 20,
            "delay_ms": 1000,
            "users": count,
            "warm_up": 3,
            "ramp_seconds": max(1.0, count / 125),
            "holds": True,
        },
        requests=count,
        quick=count,
    )
