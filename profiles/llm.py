"""The only importer of LiteLLM, inside functions: importing it takes about 5 s of CPU and 185 MB.

Runs in the llm process and nowhere else; the rest of the gateway asks through `llm_client`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from types import ModuleType
from typing import Any

from profiles.exceptions import LlmCallFailed, UnknownProvider
from profiles.fields import MASK
from profiles.model_facts import Completion, ModelFacts, ModelOffer

# What can answer a chat. The catalogue also has embeddings, images, speech and more.
_CHAT_MODES = {"chat", "responses", "completion"}
# Models one runs oneself: their price of 0 is true. Elsewhere two zeros stand for "nobody filled this in".
_FREE_PROVIDERS = {"ollama", "ollama_chat", "lemonade"}


def load() -> None:
    """Import LiteLLM now, so that nobody waits for it later."""
    _litellm()


def describe_model(model: str, base_url: str = "") -> ModelFacts:
    """Return what LiteLLM knows of `model`. Raises UnknownProvider when it cannot tell whom to call.

    Prices are the plain ones: LiteLLM's tiers for very long contexts and its batch prices are left out.
    """
    litellm = _litellm()
    provider = _provider(litellm, model, base_url)
    facts = _facts(litellm, model, provider)
    entry = litellm.model_cost.get(facts.get("key"), {})
    is_known = entry.get("mode") in _CHAT_MODES
    prices = _prices(entry, provider) if is_known else {}
    return ModelFacts(
        provider=provider,
        is_known=is_known,
        **prices,
        context_window=facts.get("max_input_tokens"),
        max_output_tokens=facts.get("max_output_tokens"),
        supports_vision=facts.get("supports_vision"),
        supports_reasoning=facts.get("supports_reasoning"),
    )


def complete(
    *,
    model: str,
    api_key: str,
    base_url: str,
    messages: Sequence[dict[str, str]],
    max_output_tokens: int | None,
    timeout_seconds: float,
    response_format: dict[str, Any] | None = None,
) -> Completion:
    """Make one LLM call, without retries. Raises LlmCallFailed with the provider's words, the key masked in them."""
    litellm = _litellm()
    started = time.monotonic()
    try:
        reply: Any = litellm.completion(
            model=model,
            messages=list(messages),
            # Without a key LiteLLM would take one from this process's environment and send it to `base_url`.
            api_key=api_key or "none",
            api_base=base_url or None,
            max_tokens=max_output_tokens,
            timeout=timeout_seconds,
            **({} if response_format is None else {"response_format": response_format}),
            num_retries=0,
            max_retries=0,
            drop_params=True,
        )
    except Exception as error:  # each provider has its own exceptions; their text is all there is to tell  # noqa: BLE001
        text = str(error).replace(api_key, MASK) if api_key else str(error)
        raise LlmCallFailed(text[:2000], kind=type(error).__name__) from None
    choice = reply.choices[0]
    read, written = reply.usage.prompt_tokens_details, reply.usage.completion_tokens_details
    return Completion(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "",
        input_tokens=reply.usage.prompt_tokens,
        output_tokens=reply.usage.completion_tokens,
        cached_tokens=getattr(read, "cached_tokens", None) or 0,
        cache_write_tokens=getattr(reply.usage, "cache_creation_input_tokens", None) or 0,
        reasoning_tokens=getattr(written, "reasoning_tokens", None) or 0,
        seconds=round(time.monotonic() - started, 3),
    )


def provider_names() -> list[str]:
    """Return every provider LiteLLM has, as it is written before the slash of a model string."""
    return sorted(str(getattr(provider, "value", provider)) for provider in _litellm().provider_list)


def search_models(search: str, limit: int) -> list[ModelOffer]:
    """Return at most `limit` chat models whose name contains every word of `search`: those that begin with it first,
    short names before long ones."""
    litellm = _litellm()
    words = search.lower().split()
    providers = set(provider_names())
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for key, entry in litellm.model_cost.items():
        if entry.get("mode") not in _CHAT_MODES:
            continue
        provider = entry.get("litellm_provider", "")
        name = f"{provider}/{key}" if "/" not in key and provider in providers else key
        if all(word in name.lower() for word in words):
            found[name] = (entry, provider)
    wanted = search.lower().strip()
    best = sorted(found, key=lambda name: (not name.lower().startswith(wanted), len(name), name))[:limit]
    return [_offer(name, *found[name]) for name in best]


def _litellm() -> ModuleType:
    import litellm

    litellm.suppress_debug_info = True  # it prints a coloured notice for every model it does not know
    litellm.telemetry = False
    return litellm


def _provider(litellm: ModuleType, model: str, base_url: str) -> str:
    prefix, _, rest = model.partition("/")
    if prefix in provider_names() and rest:
        return prefix  # LiteLLM itself would log in to some of them (github_copilot, chatgpt) in order to say so
    if rest == "" and prefix != model:
        raise UnknownProvider(model)
    try:
        _, provider, _, _ = litellm.get_llm_provider(model=model, api_base=base_url or None, api_key="none")
    except Exception as error:  # LiteLLM raises whatever the provider's own code does
        raise UnknownProvider(model) from error
    return str(provider)


def _facts(litellm: ModuleType, model: str, provider: str) -> dict[str, Any]:
    try:
        return dict(litellm.get_model_info(model=model, custom_llm_provider=provider))
    except Exception:  # "not mapped yet" comes as a plain Exception in some versions  # noqa: BLE001
        return {}


def _prices(entry: dict[str, Any], provider: str) -> dict[str, str]:
    """The catalogue's own entry, because `get_model_info` turns a missing price into 0."""
    if entry.get("input_cost_per_token") is None or entry.get("output_cost_per_token") is None:
        return {}
    is_free = not entry["input_cost_per_token"] and not entry["output_cost_per_token"]
    if is_free and provider not in _FREE_PROVIDERS:
        return {}
    columns = {
        "input_price": "input_cost_per_token",
        "output_price": "output_cost_per_token",
        "cached_input_price": "cache_read_input_token_cost",
        "cache_write_input_price": "cache_creation_input_token_cost",
    }
    return {name: _per_million(entry[column]) for name, column in columns.items() if entry.get(column) is not None}


def _offer(name: str, entry: dict[str, Any], provider: str) -> ModelOffer:
    prices = _prices(entry, provider)
    return ModelOffer(
        name=name,
        input_price=prices.get("input_price"),
        output_price=prices.get("output_price"),
        context_window=entry.get("max_input_tokens"),
        supports_vision=entry.get("supports_vision"),
    )


def _per_million(per_token: float | str) -> str:
    price = Decimal(str(per_token)) * 1_000_000
    return f"{price.normalize():f}"
