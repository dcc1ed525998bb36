"""A turn's request and its end, read back from its row: what whoever takes a turn over begins with, and what a repeated
request, a follower and `GET` are given."""

from __future__ import annotations

from typing import Literal, cast

from chatgateway import audit
from chatgateway.models import Turn
from chatgateway.openai_api import chat_request
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.turn_events import TokenCounts, TurnAnswered, TurnFailed
from profiles.models import Profile


def request_of(turn: Turn, profile: Profile) -> ChatRequest:
    """Return a turn's request as it was understood; it was checked when it came. Queries."""
    return chat_request.parse(
        audit.rebuild_request(turn),
        client_tools="ignore",
        accepts_images=True,
        accepts_remote_images=True,
        honours_overrides=profile.allows_overrides,
    )


def ending_of(turn: Turn) -> TurnAnswered | TurnFailed:
    """Return the same end that the turn's first subscribers saw. The turn must be closed."""
    assert turn.outcome != Turn.Outcome.OPEN
    usage = TokenCounts(
        input=turn.input_tokens,
        output=turn.output_tokens,
        cached=turn.cached_tokens,
        cache_write=turn.cache_write_tokens,
        reasoning=turn.reasoning_tokens,
    )
    if turn.outcome == Turn.Outcome.ANSWERED:
        return TurnAnswered(
            text=turn.answer,
            reasoning=turn.reasoning,
            finish_reason=cast("Literal['stop', 'length']", turn.finish_reason),
            usage=usage,
            is_usage_estimated=turn.is_usage_estimated,
        )
    is_final = turn.outcome != Turn.Outcome.REFUSED
    return TurnFailed(
        status=turn.http_status or 500,
        type=turn.error_type,
        code=turn.error_code,
        message=turn.error_message,
        param=turn.error_param or None,
        headers={"x-should-retry": "false"} if is_final else {"Retry-After": "5"},
        usage=usage,
    )
