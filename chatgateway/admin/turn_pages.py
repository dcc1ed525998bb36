"""Turns in the admin: the list, the page that tells one in reading order, and the raw record in frames."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone

from chatgateway import audit, readings
from chatgateway.admin import (
    exports,
    live_turn,
    selection,
    text_search,
    turn_files,
    turn_frames,
    turn_parts,
    turn_story,
    turn_told,
)
from chatgateway.admin.filters import (
    ClientFilter,
    CostFilter,
    DayFilter,
    DurationFilter,
    EndUserFilter,
    PeriodFilter,
    ToolFilter,
)
from chatgateway.admin.span_filter import SpanFilter
from chatgateway.admin.turn_told import OUTCOMES, cost_told, tokens_told, without_texts
from chatgateway.models import Turn
from profiles.admin_theme import ReadOnlyAdmin, RelatedFilter, column, duration, is_list, moment

_LIST_COLUMNS = (
    "opened_at", "closed_at", "outcome", "phase", "tenant_name", "model_id", "error_code", "input_tokens",
    "output_tokens", "cost_usd", "prices", "is_usage_estimated",
)  # fmt: skip


@admin.register(Turn)
class TurnAdmin(ReadOnlyAdmin[Turn]):
    """The record. A list holds words of what was asked or answered only where somebody who may read them searched."""

    empty_title = "Nobody has called yet"
    empty_text = "Every request with a key leaves a row here. Make a key and paste the command shown with it."
    empty_link = "admin:profiles_apikey_changelist"
    empty_link_title = "API keys"
    list_display = ("opened", "tenant_told", "model_told", "outcome_told", "code", "took", "tokens", "cost")
    list_before_template = "chatgateway/admin/selection.html"
    list_filter = (
        DayFilter,
        PeriodFilter,
        SpanFilter,
        "outcome",
        "kind",
        DurationFilter,
        CostFilter,
        ("tenant", RelatedFilter),
        ("profile", RelatedFilter),
        ("api_key", RelatedFilter),
        ("agent_server", RelatedFilter),
        EndUserFilter,
        ToolFilter,
        ClientFilter,
    )
    list_filter_submit = True
    search_fields = ("request_id",)  # that there is a box; `text_search` says what is found
    list_per_page = 50
    ordering = ("-opened_at",)
    actions = ("stop_chosen",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Turn]:
        rows = super().get_queryset(request)
        return rows.only(*_LIST_COLUMNS) if is_list(request) else rows

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Turn], search_term: str
    ) -> tuple[models.QuerySet[Turn], bool]:
        return queryset.filter(text_search.turns_found(request, search_term)) if search_term else queryset, False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[text_search.FoundTurns]:
        return text_search.FoundTurns

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changes = super().get_changelist_instance(request)
        changes.search_help_text = text_search.help_for(request)
        return changes

    def get_list_display(self, request: HttpRequest) -> Any:
        opened, *others = self.list_display
        is_search = text_search.query_of(request, request.GET.get("q", ""))
        return (opened, "found", *others) if is_search else self.list_display

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("totals/", view(self.totals), name="chatgateway_turn_totals"),
            path("by-request/<str:request_id>/", view(self.by_request), name="chatgateway_turn_by_request"),
            path("<uuid:turn_id>/stop/", view(self.stop), name="chatgateway_turn_stop"),
            path("<uuid:turn_id>/raw-request/", view(self.raw_request), name="chatgateway_turn_raw_request"),
            path("<uuid:turn_id>/steps/", view(self.steps), name="chatgateway_turn_steps"),
            path("<uuid:turn_id>/live/", view(self.live), name="chatgateway_turn_live"),
            path("<uuid:turn_id>/raw-response/", view(self.raw_response), name="chatgateway_turn_raw_response"),
            path("<uuid:turn_id>/raw-events/", view(self.raw_events), name="chatgateway_turn_raw_events"),
            *exports.urls(self, lambda request: selection.chosen_rows(self, request)),
            *super().get_urls(),
        ]

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("time", ordering="opened_at")
    def opened(self, turn: Turn) -> str:
        return moment(turn.opened_at, seconds=True)

    @column("found", empty="")
    def found(self, turn: Turn) -> str:
        return turn.found  # type: ignore[attr-defined, no-any-return]  # by `FoundTurns`

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

    # --- above the list ---------------------------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        above = {
            "selection": selection.above_list(request, "turn"),
            "search_told": text_search.told(request, "Turns that have"),
        }
        return text_search.noted(request, super().changelist_view(request, {**(extra_context or {}), **above}))

    def totals(self, request: HttpRequest) -> HttpResponse:
        """The sums of all turns that the list's filters keep."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return selection.totals_page(request, selection.chosen_rows(self, request))

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
        asked = turn_story.question(turn.last_message)
        story = turn_parts.steps_of(turn) if may_read else turn_parts.Steps(steps=[])
        sent = {name: value for name, value in turn.parameters.items() if name not in {"messages", "input"}}
        context = {
            **self.admin_site.each_context(request),
            "title": f"Turn of {moment(turn.opened_at, seconds=True)}",
            "opts": self.opts,
            "turn": turn,
            "may_read": may_read,
            "outcome_kind": OUTCOMES.get(turn.outcome, "default"),
            "question": asked,
            "question_told": turn_parts.question_told(asked, turn_story.MAXIMUM_CHARS),
            "answer_told": turn_parts.told(turn.answer, turn_story.MAXIMUM_CHARS),
            "story": story,
            "files": turn_files.of(turn, has_acted=story.has_acted) if may_read else None,
            "usage": list(turn_told.usage_lines(turn)) if turn.input_tokens or turn.output_tokens else [],
            "cost": cost_told(turn),
            "timings": list(turn_told.timings(turn)),
            "llm_model": turn_told.llm_told(turn),
            "match": turn_told.MATCHES.get(turn.match, turn.match),
            "attempts": list(turn.attempts.all()),
            "parameters": turn_frames.pretty(sent),
            "links": list(turn_told.links(turn)),
            "urls": turn_parts.urls_of(request, turn),
            "zone": timezone.get_current_timezone_name(),
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

    def steps(self, request: HttpRequest, turn_id: Any) -> HttpResponse:
        """The steps alone, for the page of a conversation."""
        turn = self._readable(request, turn_id)
        readings.note(request, readings.What.TURN, turn=turn)
        story = turn_parts.steps_of(turn)
        files = turn_files.of(turn, has_acted=story.has_acted)
        context = {"story": story, "files": files, "is_open": turn.outcome == Turn.Outcome.OPEN}
        response = TemplateResponse(request, "chatgateway/admin/steps.html", context)
        response["Cache-Control"] = "no-store, private"
        return response

    def live(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """What the turn does from now on, as server-sent events."""
        return live_turn.stream(request, self._visible(request, turn_id))

    def raw_request(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """The request's JSON, rebuilt: in a frame, or whole as a file."""
        turn = self._readable(request, turn_id)
        readings.note(request, readings.What.REQUEST, turn=turn)
        return turn_frames.raw_request(request, turn)

    def raw_response(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """The reply's JSON, as an unstreamed caller had it."""
        turn = self._readable(request, turn_id)
        readings.note(request, readings.What.RESPONSE, turn=turn)
        return turn_frames.raw_response(request, turn)

    def raw_events(self, request: HttpRequest, turn_id: Any) -> HttpResponseBase:
        """The agent-server's events as they were sent, a page at a time."""
        turn = self._readable(request, turn_id)
        readings.note(request, readings.What.EVENTS, turn=turn)
        return turn_frames.raw_events(request, turn)

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
        if "from_overview" in request.POST:
            return HttpResponseRedirect(reverse("admin:index"))
        if "from_conversation" in request.POST and turn.conversation_id is not None:
            return HttpResponseRedirect(reverse("admin:chatgateway_conversation_change", args=[turn.conversation_id]))
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
