"""What LiteLLM says of a model and of a call, in words that do not need LiteLLM. Goes over the llm process's socket."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model string whose provider LiteLLM can resolve.

    Prices are USD per million tokens as decimal texts; None: LiteLLM does not say (which is not the same as "0").
    `is_known` is False for a model that is not in LiteLLM's catalogue, as everything behind one's own base URL is.
    """

    provider: str
    is_known: bool
    input_price: str | None = None
    output_price: str | None = None
    cached_input_price: str | None = None
    cache_write_input_price: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    supports_vision: bool | None = None
    supports_reasoning: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """As kept in `Profile.catalogue`: what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOffer:
    """A model of LiteLLM's catalogue as a search shows it; None is what the catalogue does not say."""

    name: str
    input_price: str | None = None
    output_price: str | None = None
    context_window: int | None = None
    supports_vision: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The answer of one plain LLM call. `seconds` is how long it took. The tokens of the provider's cache are part of
    the input, those of reasoning part of the output."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    seconds: float
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
