"""What each call of the LLM within a turn used, from what its agent-server counted in between.

After each call the agent-server writes the sum of all calls of the conversation into its log. The first call of a turn
is what the turn used and the later ones did not; so the parts add up to the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from chatgateway.models import Event, Turn
from profiles.pricing import cost_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class CallUsage:
    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    cost_usd: Decimal | None = None


@dataclass(slots=True)
class _Counts:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def minus(self, other: _Counts) -> _Counts:
        return _Counts(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))

    @property
    def is_plausible(self) -> bool:
        return all(getattr(self, field.name) >= 0 for field in fields(self))


def of_calls(turn: Turn, events: Sequence[Event]) -> dict[str, CallUsage]:
    """Return what each call used, by `llm_response_id`; empty where the log does not tell the calls apart."""
    calls = list(dict.fromkeys(name for row in events if (name := response_id(row))))
    sums = list(_sums(events))
    if turn.outcome == Turn.Outcome.OPEN or not calls or len(sums) != len(calls):
        return {}
    whole = _Counts(turn.input_tokens, turn.output_tokens, turn.cached_tokens, turn.cache_write_tokens)
    used = [whole.minus(sums[-1].minus(sums[0]))]
    used += [later.minus(earlier) for earlier, later in itertools.pairwise(sums)]
    if not all(counts.is_plausible for counts in used):
        return {}
    return {name: _priced(turn, counts) for name, counts in zip(calls, used, strict=True)}


def response_id(row: Event) -> str:
    """Return by which call of the LLM an event was made; empty for those that none made."""
    if row.kind not in {"ActionEvent", "MessageEvent"}:
        return ""
    name = row.raw.get("llm_response_id")
    return name if isinstance(name, str) else ""


def _sums(events: Iterable[Event]) -> Iterable[_Counts]:
    for row in events:
        if row.kind == "ConversationStateUpdateEvent" and row.raw.get("key") == "stats":
            yield _counts(row.raw.get("value"))


def _counts(stats: Any) -> _Counts:
    total = _Counts()
    by_usage = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
    for metrics in by_usage.values() if isinstance(by_usage, dict) else ():
        usage = metrics.get("accumulated_token_usage") if isinstance(metrics, dict) else None
        for field in fields(total):
            value = usage.get(field.name) if isinstance(usage, dict) else None
            if isinstance(value, int):
                setattr(total, field.name, getattr(total, field.name) + value)
    return total


def _priced(turn: Turn, counts: _Counts) -> CallUsage:
    cost = cost_usd(
        turn.prices,
        input_tokens=counts.prompt_tokens,
        output_tokens=counts.completion_tokens,
        cached_tokens=counts.cache_read_tokens,
        cache_write_tokens=counts.cache_write_tokens,
    )
    return CallUsage(
        input=counts.prompt_tokens,
        output=counts.completion_tokens,
        cached=counts.cache_read_tokens,
        cache_write=counts.cache_write_tokens,
        cost_usd=cost,
    )
