"""The end of a closed turn, read back from its row: what a repeated request, a follower and `GET` are given."""

from __future__ import annotations

from typing import Literal, cast

from chatgateway.models import Turn
from chatgateway.turn_events import TokenCounts, TurnAnswered, TurnFailed


def ending_of(turn: Turn) -> TurnAnswered | TurnFailed:
    """Return the same end that the turn's first subscribers saw. The turn must be closed."""
    assert turn.outcome != Turn.Outcome.OPEN
    if turn.outcome == Turn.Outcome.ANSWERED:
        return TurnAnswered(
            text=turn.answer,
            reasoning=turn.reasoning,
            finish_reason=cast("Literal['stop', 'length']", turn.finish_reason),
            usage=TokenCounts(
                input=turn.input_tokens,
                output=turn.output_tokens,
                cached=turn.cached_tokens,
                cache_write=turn.cache_write_tokens,
                reasoning=turn.reasoning_tokens,
            ),
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
    )
