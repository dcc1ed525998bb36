"""Our token counts as OpenAI's usage object."""

from __future__ import annotations

from typing import Any

from chatgateway.turn_events import TokenCounts


def usage_object(counts: TokenCounts) -> dict[str, Any]:
    """The `usage` of a chat completion, every key present, integers only.

    Inclusion follows OpenAI: `cached_tokens` and `cache_write_tokens` are part of `prompt_tokens`,
    `reasoning_tokens` is part of `completion_tokens`, and the total is the sum of those two. Kinds that an agent
    never has (audio, predictions) are 0 rather than absent: pydantic-ai and LangChain validate what they find, and a
    float or a partial object makes them raise.
    """
    return {
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
