"""How a turn is told, on its own page, on a conversation's and in files: outcomes, times, tokens and money in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.urls import reverse

from chatgateway import removal
from chatgateway.models import Turn
from profiles.admin_theme import duration, moment, usd

OUTCOMES = {
    Turn.Outcome.OPEN.value: "info",
    Turn.Outcome.ANSWERED.value: "success",
    Turn.Outcome.FAILED.value: "danger",
    Turn.Outcome.REFUSED.value: "warning",
    Turn.Outcome.CANCELLED.value: "default",
    Turn.Outcome.TIMED_OUT.value: "danger",
    Turn.Outcome.ABANDONED.value: "danger",
}
# How a conversation was found, as the response header says it, in a sentence.
MATCHES = {
    "header": "continued: the caller named the conversation",
    "header; history=ignored": "continued: the caller named the conversation; the history sent with it is not its own",
    "client-id": "continued: by the client's own chat id",
    "history": "continued: the history that was sent is this conversation's",
    "fork": "forked: the history that was sent leaves this conversation at an earlier turn",
    "replay": "new, told from the history that was sent",
    "new": "new",
}


def without_texts(turn: Turn) -> None:
    """Empty what was said in this object, which is not saved: for people who may see figures and no texts."""
    for name, empty in removal.CONTENT.items():
        setattr(turn, name, empty)


def cost_told(turn: Turn) -> str:
    """Return `$0.0123`, `unknown` for a model without a price, or a dash where nothing was spent. ≈: estimated."""
    if turn.cost_usd is not None:
        return f"{'≈ ' if turn.is_usage_estimated else ''}{usd(turn.cost_usd)}"
    return "unknown" if turn.input_tokens or turn.output_tokens else "–"


def tokens_told(turn: Turn) -> str:
    if not turn.input_tokens and not turn.output_tokens:
        return "–"
    return f"{'≈ ' if turn.is_usage_estimated else ''}{turn.input_tokens:,} → {turn.output_tokens:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """One line of the bill. `price` and `amount` are empty where the price is unknown."""

    what: str
    tokens: str
    price: str = ""
    amount: str = ""
    is_part: bool = False  # of the line before it


def usage_lines(turn: Turn) -> Iterable[UsageLine]:
    """Yield what was used and what it cost, line by line, so that the lines with an amount add up to the cost."""
    prices = {name: Decimal(price) for name, price in turn.prices.items()}
    cached = min(turn.cached_tokens, turn.input_tokens)
    written = min(turn.cache_write_tokens, turn.input_tokens - cached)
    input_price, output_price = prices.get("input"), prices.get("output")
    yield _usage_line("Input", turn.input_tokens - cached - written, input_price)
    if cached:
        yield _usage_line("Input from the cache", cached, prices.get("cached", input_price))
    if written:
        yield _usage_line("Input put into the cache", written, prices.get("cache_write", input_price))
    yield _usage_line("Output", turn.output_tokens, output_price)
    if turn.reasoning_tokens:
        yield UsageLine(what="of which reasoning", tokens=f"{turn.reasoning_tokens:,}", is_part=True)


def _usage_line(what: str, tokens: int, price: Decimal | None) -> UsageLine:
    if price is None:
        return UsageLine(what=what, tokens=f"{tokens:,}")
    amount = usd(price * tokens / 1_000_000)
    return UsageLine(what=what, tokens=f"{tokens:,}", price=f"{_price_told(price)} / M", amount=amount)


def _price_told(price: Decimal) -> str:
    """Return a price with all its digits and at least cents: `$3.00`, `$0.075`."""
    whole, _, digits = f"{price:f}".partition(".")
    return f"${whole}.{digits.rstrip('0').ljust(2, '0')}"


def timings(turn: Turn) -> Iterable[tuple[str, str, str]]:
    """Yield (what, when, how long after it was opened)."""
    moments = (
        ("Request arrived", turn.opened_at),
        ("Got a place on an agent-server", turn.started_at),
        ("Agent-server took the message", turn.accepted_at),
        ("First text of the answer", turn.first_text_at),
        ("Closed", turn.closed_at),
    )
    for what, at in moments:
        if at is not None:
            yield what, moment(at, seconds=True), f"+{duration((at - turn.opened_at).total_seconds())}"
    if turn.closed_at is not None and turn.agent_server_id is not None and turn.run_ended_at is None:
        yield "Run", "not seen to end", "still holds a place on its agent-server"


def links(turn: Turn) -> Iterable[tuple[str, str, str]]:
    """Yield (what, name as it was then, URL of what there still is)."""
    slug = turn.profile_snapshot.get("slug", "")  # none: the request was refused before a profile was found
    for what, name, model, key in (
        ("Conversation", str(turn.conversation_id or ""), "chatgateway_conversation", turn.conversation_id),
        ("Goes on after", str(turn.parent or ""), "chatgateway_turn", turn.parent_id),
        ("Tenant", turn.tenant_name, "profiles_tenant", turn.tenant_id),
        ("API key", _key_told(turn), "profiles_apikey", turn.api_key_id),
        ("Profile", slug, "profiles_profile", turn.profile_id),
        ("Agent-server", turn.server_url, "chatgateway_agentserver", turn.agent_server_id),
    ):
        if name or key:
            yield what, name or "–", reverse(f"admin:{model}_change", args=[key]) if key else ""


def llm_told(turn: Turn) -> str:
    """Return the model that wrote the answer, as far as one did."""
    by = {Turn.AnsweredBy.UTILITY_LLM.value: "utility_llm_model", Turn.AnsweredBy.TEMPLATE.value: ""}
    return str(turn.profile_snapshot.get(by.get(turn.answered_by, "llm_model"), ""))


def _key_told(turn: Turn) -> str:
    return f"{turn.key_name} (gw-{turn.key_prefix}-…)" if turn.key_prefix else turn.key_name
