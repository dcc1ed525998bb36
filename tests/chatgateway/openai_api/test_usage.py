from __future__ import annotations

import pytest
from openai.types import CompletionUsage

from chatgateway.openai_api.usage import usage_object
from chatgateway.turn_events import TokenCounts


@pytest.mark.parametrize(
    "counts", [TokenCounts(), TokenCounts(input=10, output=5, cached=4, cache_write=2, reasoning=3)]
)
def test_usage_is_what_the_sdk_expects_to_the_last_key(counts: TokenCounts) -> None:
    usage = usage_object(counts)
    assert CompletionUsage.model_validate(usage, strict=True).model_dump() == usage


def test_cached_and_reasoning_tokens_are_inside_the_totals() -> None:
    usage = usage_object(TokenCounts(input=10, output=5, cached=4, cache_write=2, reasoning=3))
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 5, 15)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 2, "audio_tokens": 0}
    assert usage["completion_tokens_details"] == {
        "reasoning_tokens": 3,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
