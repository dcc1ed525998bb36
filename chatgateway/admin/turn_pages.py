"""Turns in the admin: the list, the page that tells one in reading order, and the raw record in frames."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone

from chatgateway import audit, readings, removal
from chatgateway.admin import frames, turn_story
from chatgateway.admin.filters import CostFilter, DurationFilter, PeriodFilter
from chatgateway.models import Event, Turn
from profiles.admin_theme import ReadOnlyAdmin, RelatedFilter, as_uuid, column, duration, is_list, moment, usd

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
EVENTS_PER_PAGE = 100
# What a browser shows without trouble; the whole request can be downloaded.
MAXIMUM_FRAME_CHARS = 1_000_000

_LIST_COLUMNS = (
    "opened_at", "closed_at", "outcome", "phase", "tenant_name", "model_id", "error_code", "input_tokens",
    "output_tokens", "cost_usd", "prices", "is_usage_estimated",
)  # fmt: skip


@admin.register(Turn)
class TurnAdmin(ReadOnlyAdmin[Turn]):
    """The record. No list, search field or title holds a word of what was asked or answered."""

    empty_title = "Nobody has called yet"
    empty_text = "Every request with a key leaves a row here. Make a key and paste the command shown with it."
    empty_link = "admin:profiles_apikey_changelist"
    empty_link_title = "API keys"
    list_display = ("opened", "tenant_told", "model_told", "outcome_told", "code", "took", "tokens", "cost")
    list_filter = (
        PeriodFilter,
        "outcome",
        "kind",
        DurationFilter,
        CostFilter,
        ("tenant", RelatedFilter),
        ("profile", RelatedFilter),
        ("api_key", RelatedFilter),
        ("agent_server", RelatedFilter),
    )
    list_filter_submit = True
    search_fields = ("=request_id", "=reply_id", "=end_user")
    search_help_text = "Id of a request, completion or conversation; or an end user"
    list_per_page = 50
    ordering = ("-opened_at",)
    actions = ("stop_chosen",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Turn]:
        rows = super().get_queryset(request)
        return rows.only(*_LIST_COLUMNS) if is_list(request) else rows

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Turn], search_term: str
    ) -> tuple[models.QuerySet[Turn], bool]:
        if (wanted := as_uuid(search_term)) is not None:
            return queryset.filter(Q(pk=wanted) | Q(conversation_id=wanted)), False
        return super().get_search_results(request, queryset, search_term)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("by-request/<str:request_id>/", view(self.by_request), name="chatgateway_turn_by_request"),
            path("<uuid:turn_id>/stop/", view(self.stop), name="chatgateway_turn_stop"),
            path("<uuid:turn_id>/raw-request/", view(self.raw_request), name="chatgateway_turn_raw_request"),
            path("<uuid:turn_id>/raw-events/", view(self.raw_events), name="chatgateway_turn_raw_events"),
            *super().get_urls(),
        ]

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("time", ordering="opened_at")
    def opened(self, turn: Turn) -> str:
        return moment(turn.opened_at, seconds=True)

    @column("tenant", ordering="tenant_name", empty="")
    def tenant_told(self, turn: Turn) -> str:
        return turn.tenant_name

    @column("model", ordering="model_id", empty="none named")
    def model_told(self, turn: Turn) -> str | None:
        return (turn.model_id if len(turn.model_id) <= 40 else f"{turn.model_id[:39]}…") or None

    @column("outcome", ordering="outcome", labels=OUTCOMES)
    def outcome_told(self, turn: Turn) -> tuple[str, str]:
        return turn.outcome, turn.get_outcome_display()

    @column("code", ordering="error_code", empty="")
    def code(self, turn: Turn) -> str:
        return turn.error_code

    @column("took")
    def took(self, turn: Turn) -> str:
        if turn.closed_at is None:
            return f"{duration((timezone.now() - turn.opened_at).total_seconds())} so far"
        return duration((turn.closed_at - turn.opened_at).total_seconds())

    @column("tokens in → out", ordering="input_tokens")
    def tokens(self, turn: Turn) -> str:
        return tokens_told(turn)

    @column("cost", ordering="cost_usd")
    def cost(self, turn: Turn) -> str:
        return cost_told(turn)

    # --- the page of a turn -------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        turn = self.get_object(request, unquote(object_id))
        if turn is None:
            messages.warning(request, "There is no such turn.")
            return HttpResponseRedirect(reverse("admin:chatgateway_turn_changelist"))
        if not self.has_view_permission(request, turn):
            raise PermissionDenied
        may_read = readings.may_read(request)
        if may_read:
            readings.note(request, readings.What.TURN, turn=turn)
        else:
            without_texts(turn)
        rows = turn.events.order_by("seq") if may_read else turn.events.none()
        events = list(rows[: turn_story.MAXIMUM_EVENTS + 1])
        context = {
            **self.admin_site.each_context(request),
            "title": f"Turn of {moment(turn.opened_at, seconds=True)}",
            "opts": self.opts,
            "turn": turn,
            "may_read": may_read,
            "outcome_kind": OUTCOMES.get(turn.outcome, "default"),
            "question": turn_story.question(turn.last_message),
            "steps": turn_story.steps(events[: turn_story.MAXIMUM_EVENTS]),
            "has_more_events": len(events) > turn_story.MAXIMUM_EVENTS,
            "has_events": bool(events),
            "usage": list(usage_lines(turn)) if turn.input_tokens or turn.output_tokens else [],
            "cost": cost_told(turn),
            "timings": list(_timings(turn)),
            "llm_model": _llm_told(turn),
            "match": MATCHES.get(turn.match, turn.match),
            "attempts": list(turn.attempts.all()),
            "parameters": _pretty({name: value for name, value in turn.parameters.items() if name != "messages"}),
            "links": list(_links(turn)),
            "can_be_stopped": turn.outcome == Turn.Outcome.OPEN and self.has_stop_permission(request),
            "is_being_stopped": turn.outcome == Turn.Outcome.OPEN and turn.cancel_requested_at is not None,
        }
        return TemplateResponse(request, "chatgateway/admin/turn.html", context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        raise Http404  # nobody changes a turn, so there is no history of changes

    def by_request(self, request: HttpRequest, request_id: str) -> HttpResponseBase:
        """Go to the turn that a request id, of its first or of a joined request, belongs to."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        named = Turn.objects.filter(Q(request_id=request_id) | Q(attempts__request_id=request_id)).only("pk").first()
        if named is None:
            messages.warning(request, "No turn was recorded under that request id.")
            return HttpResponseRedirect(reverse("admin:chatgateway_turn_changelist"))
        return HttpResponseRedirect(reverse("admin:chatgateway_turn_change", args=[named.pk]))

    def raw_request(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """The request's JSON, rebuilt: in a frame, or whole as a file."""
        turn = self._readable(request, turn_id)
        readings.note(request, readings.What.REQUEST, turn=turn)
        text = json.dumps(audit.rebuild_request(turn), indent=2, ensure_ascii=False)
        if "download" in request.GET:
            response = HttpResponse(text, content_type="application/json; charset=utf-8")
            response["Content-Disposition"] = f'attachment; filename="request-{turn.pk}.json"'
            response["Cache-Control"] = "no-store, private"
            return response
        note = ""
        if len(text) > MAXIMUM_FRAME_CHARS:
            note = f"The first {MAXIMUM_FRAME_CHARS:,} of {len(text):,} characters. Download it to see the rest."
        return frames.document(request, text=text[:MAXIMUM_FRAME_CHARS], note=note)

    def raw_events(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """The agent-server's events as they were sent, a page at a time."""
        turn = self._readable(request, turn_id)
        readings.note(request, readings.What.EVENTS, turn=turn)
        page = Paginator(turn.events.order_by("seq"), EVENTS_PER_PAGE).get_page(request.GET.get("page"))
        text = "\n\n".join(_raw(event) for event in page)
        links = []
        if page.has_previous():
            links.append(("earlier", f"?page={page.previous_page_number()}"))
        if page.has_next():
            links.append(("later", f"?page={page.next_page_number()}"))
        note = f"Events {page.start_index():,} to {page.end_index():,} of {page.paginator.count:,}."
        return frames.document(request, text=text[:MAXIMUM_FRAME_CHARS], note=note, links=links)

    # --- stopping ---------------------------------------------------------------------------------------------------

    def has_stop_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("chatgateway.stop_turn")

    def stop(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """Stop one turn. Its caller gets an error; what was written so far is kept."""
        turn = self._visible(request, turn_id)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_stop_permission(request):
            raise PermissionDenied
        self._stop(request, [turn.pk])
        if "from-overview" in request.POST:
            return HttpResponseRedirect(reverse("admin:index"))
        return HttpResponseRedirect(reverse("admin:chatgateway_turn_change", args=[turn.pk]))

    @admin.action(description="Stop the agents of the chosen turns", permissions=["stop"])
    def stop_chosen(self, request: HttpRequest, chosen: models.QuerySet[Turn]) -> None:
        self._stop(request, list(chosen.values_list("pk", flat=True)))

    def _stop(self, request: HttpRequest, turn_ids: list[Any]) -> None:
        stopped = audit.request_cancel(turn_ids, reason="admin")
        others = len(turn_ids) - stopped
        if stopped:
            messages.success(request, f"{stopped} turn{'s' * (stopped != 1)} will have stopped within 2 seconds.")
        if others:
            messages.info(request, f"{others} had ended, or {'was' if others == 1 else 'were'} being stopped already.")

    def _visible(self, request: HttpRequest, turn_id: Any) -> Turn:
        turn = Turn.objects.filter(pk=turn_id).first()
        if turn is None:
            raise Http404
        if not self.has_view_permission(request, turn):
            raise PermissionDenied
        return turn

    def _readable(self, request: HttpRequest, turn_id: Any) -> Turn:
        """A turn of which the person may see texts too."""
        turn = self._visible(request, turn_id)
        if not readings.may_read(request):
            raise PermissionDenied
        return turn


# --- how a turn is told, here and on a conversation's page ------------------------------------------------------------


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


def _timings(turn: Turn) -> Iterable[tuple[str, str, str]]:
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


def _links(turn: Turn) -> Iterable[tuple[str, str, str]]:
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


def _llm_told(turn: Turn) -> str:
    """Return the model that wrote the answer, as far as one did."""
    by = {Turn.AnsweredBy.UTILITY_LLM.value: "utility_llm_model", Turn.AnsweredBy.TEMPLATE.value: ""}
    return str(turn.profile_snapshot.get(by.get(turn.answered_by, "llm_model"), ""))


def _key_told(turn: Turn) -> str:
    return f"{turn.key_name} (gw-{turn.key_prefix}-…)" if turn.key_prefix else turn.key_name


def _raw(event: Event) -> str:
    return f"#{event.seq} {event.kind} {moment(event.received_at, seconds=True)}\n{_pretty(event.raw)}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else ""
