"""What a turn costs. Pure: no LiteLLM, no database."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

_MILLION = Decimal(1_000_000)
_PLACES = Decimal("0.00000001")  # as the column that keeps it


def cost_usd(
    prices: Mapping[str, str],
    *,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int = 0,
    cache_write_tokens: int = 0,
) -> Decimal | None:
    """Return the cost in USD, to 8 decimals, or None when the prices are unknown (`{}`).

    `prices` is what `Profile.prices()` returns: USD per million tokens as decimal texts. Tokens read from and
    written to the provider's cache are part of the input and have prices of their own; without one, the input's.
    """
    if not prices:
        return None
    input_price = Decimal(prices["input"])
    cached = min(cached_tokens, input_tokens)
    written = min(cache_write_tokens, input_tokens - cached)
    total = (
        input_price * (input_tokens - cached - written)
        + Decimal(prices.get("cached", input_price)) * cached
        + Decimal(prices.get("cache_write", input_price)) * written
        + Decimal(prices["output"]) * output_tokens
    )
    return (total / _MILLION).quantize(_PLACES)
