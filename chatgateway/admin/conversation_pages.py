"""Conversations in the admin: the list, and a page with its turns in order."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models
from django.db.models import Count, OuterRef, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone

from chatgateway import readings
from chatgateway.admin import exports, reports, selection, text_search, turn_files, turn_parts, turn_story
from chatgateway.admin.filters import (
    EndUserFilter,
    FromClientFilter,
    LastOutcomeFilter,
    StartDayFilter,
    StartedFilter,
    SumFilter,
    UsedToolFilter,
)
from chatgateway.admin.turn_told import MATCHES, OUTCOMES, cost_told, tokens_told, without_texts
from chatgateway.models import Conversation, Event, Turn
from profiles.admin_theme import ReadOnlyAdmin, RelatedFilter, column, duration, is_list, moment, usd

TURNS_PER_PAGE = 25
# Of one text; the turn's own page shows more of it.
MAXIMUM_CHARS = 8_000
MAXIMUM_BRANCHES = 50

_STATES = {
    Conversation.State.NEW.value: "info",
    Conversation.State.LIVE.value: "success",
    Conversation.State.DELETED.value: "default",
    Conversation.State.LOST.value: "warning",
    Conversation.State.EXPIRED.value: "default",
}


@admin.register(Conversation)
class ConversationAdmin(ReadOnlyAdmin[Conversation]):
    """Whom it was with, how it went, and what it cost. What was said is on the conversation's own page."""

    empty_title = "No conversation yet"
    empty_text = "The first answered request starts one. Make a key and paste the command shown with it."
    empty_link = "admin:profiles_apikey_changelist"
    empty_link_title = "API keys"
    list_display = (
        "started",
        "tenant_told",
        "profile_told",
        "end_user",
        "turn_count",
        "last_outcome",
        "cost",
        "status",
    )
    list_before_template = "chatgateway/admin/selection.html"
    list_filter = (
        StartDayFilter,
        StartedFilter,
        LastOutcomeFilter,
        SumFilter,
        "state",
        ("tenant", RelatedFilter),
        ("profile", RelatedFilter),
        ("api_key", RelatedFilter),
        ("agent_server", RelatedFilter),
        EndUserFilter,
        UsedToolFilter,
        FromClientFilter,
    )
    list_filter_submit = True
    search_fields = ("profile_slug",)  # that there is a box; `text_search` says what is found
    list_per_page = 50
    ordering = ("-created_at",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Conversation]:
        rows = super().get_queryset(request)
        if not is_list(request):
            return rows.select_related("tenant")
        turns = Turn.objects.filter(conversation=OuterRef("pk")).order_by()
        of_one = turns.values("conversation")
        return rows.only("created_at", "tenant_name", "profile_slug", "end_user", "state").annotate(
            n_turns=Coalesce(Subquery(of_one.annotate(n=Count("pk")).values("n")), 0),
            n_unpriced=Coalesce(Subquery(of_one.annotate(n=Count("pk", filter=selection.UNPRICED)).values("n")), 0),
            cost=Subquery(of_one.annotate(n=Sum("cost_usd")).values("n")),
            outcome=Subquery(turns.order_by("-arrival").values("outcome")[:1]),
        )

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Conversation], search_term: str
    ) -> tuple[models.QuerySet[Conversation], bool]:
        return queryset.filter(
            text_search.conversations_found(request, search_term)
        ) if search_term else queryset, False

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changes = super().get_changelist_instance(request)
        changes.search_help_text = text_search.help_for(request)
        return changes

    def get_urls(self) -> list[Any]:
        totals = path("totals/", self.admin_site.admin_view(self.totals), name="chatgateway_conversation_totals")
        return [totals, *exports.urls(self, self._turns_of_chosen), *reports.urls(self), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        above = {
            "selection": selection.above_list(request, "conversation"),
            "search_told": text_search.told(request, "Conversations with a turn that has"),
        }
        return text_search.noted(request, super().changelist_view(request, {**(extra_context or {}), **above}))

    def totals(self, request: HttpRequest) -> HttpResponse:
        """The sums of all turns of the conversations that the list's filters keep."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return selection.totals_page(request, self._turns_of_chosen(request))

    def _turns_of_chosen(self, request: HttpRequest) -> models.QuerySet[Turn]:
        """All turns of the chosen conversations, these as they are by default, the turns of each as they were."""
        rows = selection.chosen_rows(self, request)
        turns = Turn.objects.filter(conversation__in=rows.order_by().values("pk"))
        return turns.order_by("-conversation__created_at", "conversation", "arrival")

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("started", ordering="created_at")
    def started(self, row: Conversation) -> str:
        return moment(row.created_at, seconds=True)

    @column("tenant", ordering="tenant_name")
    def tenant_told(self, row: Conversation) -> str:
        return row.tenant_name

    @column("profile", ordering="profile_slug")
    def profile_told(self, row: Conversation) -> str:
        return row.profile_slug

    @column("turns", ordering="n_turns")
    def turn_count(self, row: Conversation) -> int:
        return row.n_turns  # type: ignore[attr-defined, no-any-return]  # annotated above

    @column("last outcome", ordering="outcome", labels=OUTCOMES)
    def last_outcome(self, row: Conversation) -> tuple[str, str] | None:
        outcome: str | None = row.outcome  # type: ignore[attr-defined]  # annotated above
        return (outcome, Turn.Outcome(outcome).label) if outcome else None

    @column("cost", ordering="cost")
    def cost(self, row: Conversation) -> str:
        return _sum_told(row.cost, row.n_unpriced)  # type: ignore[attr-defined]  # annotated above

    @column("agent", ordering="state", labels=_STATES)
    def status(self, row: Conversation) -> tuple[str, str]:
        return row.state, row.state

    # --- the page of a conversation -----------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            messages.warning(request, "There is no such conversation.")
            return HttpResponseRedirect(reverse("admin:chatgateway_conversation_changelist"))
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        turns = row.turns.select_related("last_message", "file_changes").order_by("arrival")
        page = Paginator(turns.defer("parameters", "reasoning", "error_detail"), TURNS_PER_PAGE)
        shown = page.get_page(request.GET.get("page"))
        may_read = readings.may_read(request)
        if may_read:
            readings.note(request, readings.What.CONVERSATION, conversation=row, turns=len(shown))
        else:
            row.system_suffix = ""
            for turn in shown:
                without_texts(turn)
        total = row.turns.aggregate(cost=Sum("cost_usd"), unpriced=Count("pk", filter=selection.UNPRICED))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Conversation of {moment(row.created_at, seconds=True)}",
            "opts": self.opts,
            "row": row,
            "state_kind": _STATES.get(row.state, "default"),
            "page": shown,
            "may_read": may_read,
            "turns": _told_turns(request, list(shown), may_read=may_read),
            "cost": _sum_told(total["cost"], total["unpriced"]),
            "links": _links(row),
            "source": _source(row),
            "branches": _branches(row),
            "zone": timezone.get_current_timezone_name(),
            "report_url": selection.report_url(request, tenant=row.tenant_id, end_user=row.end_user),
        }
        return TemplateResponse(request, "chatgateway/admin/conversation.html", context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        raise Http404  # nobody changes a conversation here, so there is no history of changes


def _told_turns(request: HttpRequest, turns: list[Turn], *, may_read: bool) -> list[dict[str, Any]]:
    """Return the turns of a page as its template shows them. Two queries."""
    ids = [turn.pk for turn in turns]
    tools: dict[UUID, list[tuple[str, int]]] = {}
    called = Event.objects.filter(turn__in=ids, kind="ActionEvent").order_by().values_list("turn", "tool")
    for turn_id, tool, count in called.annotate(n=Count("pk")):
        tools.setdefault(turn_id, []).append((tool or "tool", count))
    branches: dict[UUID, list[str]] = {}
    for at, branch in Conversation.objects.filter(branched_at__in=ids).values_list("branched_at", "pk"):
        branches.setdefault(at, []).append(reverse("admin:chatgateway_conversation_change", args=[branch]))
    told = []
    for turn in turns:
        one = _turn(turn)
        one["urls"] = turn_parts.urls_of(request, turn)
        one["tools"] = _tools_told(tools.get(turn.pk, []))
        one["branches"] = branches.get(turn.pk, [])[:MAXIMUM_BRANCHES]
        if may_read and not turn.content_removed_at:
            one["asked"] = turn_story.question(turn.last_message)
            one["asked_told"] = turn_parts.question_told(one["asked"], MAXIMUM_CHARS)
            one["answer"] = turn_parts.told(turn.answer, MAXIMUM_CHARS)
            one["files"] = turn_files.of(turn, has_acted=turn.pk in tools)
        told.append(one)
    return told


def _tools_told(tools: list[tuple[str, int]]) -> str:
    """Return `5 steps: terminal 3, file_editor 2`; empty where no tool was called."""
    total = sum(count for _, count in tools)
    if not total:
        return ""
    each = ", ".join(f"{name[:30]} {count}" for name, count in sorted(tools, key=lambda pair: -pair[1])[:4])
    return f"{total} step{'s' * (total != 1)}: {each}"


def _turn(turn: Turn) -> dict[str, Any]:
    closed_at = turn.closed_at
    return {
        "at": moment(turn.opened_at, seconds=True),
        "outcome": turn.get_outcome_display(),
        "outcome_kind": OUTCOMES.get(turn.outcome, "default"),
        "error": turn.error_message,
        "removed": f"Removed on {moment(turn.content_removed_at)}. {turn.content_removed_by}"
        if turn.content_removed_at
        else "",
        "match": MATCHES.get(turn.match, turn.match),
        "took": duration((closed_at - turn.opened_at).total_seconds()) if closed_at else turn.get_phase_display(),
        "tokens": tokens_told(turn),
        "cost": cost_told(turn),
        "end_user": turn.end_user,
    }


def _source(row: Conversation) -> dict[str, Any] | None:
    """Return the conversation that this one branched off from, or whose history it was told, and where."""
    at = row.branched_at
    source = at.conversation if at is not None else row.told_from
    if source is None:
        return None
    return {
        "url": reverse("admin:chatgateway_conversation_change", args=[source.pk]),
        "id": str(source.pk),
        "turn_url": reverse("admin:chatgateway_turn_change", args=[at.pk]) if at is not None else "",
        "turn_at": moment(at.opened_at, seconds=True) if at is not None else "",
        "shares_directory": bool(row.working_dir) and row.working_dir == source.working_dir,
    }


def _branches(row: Conversation) -> list[dict[str, Any]]:
    found = Conversation.objects.filter(branched_at__conversation=row).select_related("branched_at")
    return [
        {
            "url": reverse("admin:chatgateway_conversation_change", args=[branch.pk]),
            "id": str(branch.pk),
            "at": moment(branch.created_at, seconds=True),
            "shares_directory": bool(branch.working_dir) and branch.working_dir == row.working_dir,
        }
        for branch in found.order_by("created_at")[:MAXIMUM_BRANCHES]
    ]


def _links(row: Conversation) -> list[tuple[str, str, str]]:
    """Return (what, name as it was then, URL of what there still is)."""
    found = []
    for what, name, model, key in (
        ("Tenant", row.tenant_name, "profiles_tenant", row.tenant_id),
        ("Profile", row.profile_slug, "profiles_profile", row.profile_id),
        ("Started by API key", str(row.api_key) if row.api_key_id else "", "profiles_apikey", row.api_key_id),
        ("Agent-server", row.server_url, "chatgateway_agentserver", row.agent_server_id),
    ):
        if name or key:
            found.append((what, name or "–", reverse(f"admin:{model}_change", args=[key]) if key else ""))
    return found


def _sum_told(cost: Decimal | None, unpriced: int) -> str:
    """Return what the turns with a price cost, and how many have none: an unknown cost is not 0."""
    if not unpriced:
        return usd(cost) or "–"
    unknown = f"{unpriced} of unknown price"
    return f"{usd(cost)} + {unknown}" if cost else unknown
