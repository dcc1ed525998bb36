"""What stands above a list: the totals of all that is selected, by whom it was, and the last days to choose from."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from chatgateway.admin import span_filter
from chatgateway.models import Turn
from profiles.admin_theme import ThemedChangeList, usd

# Something was spent, and nobody knows how much.
UNPRICED = Q(cost_usd__isnull=True) & (Q(input_tokens__gt=0) | Q(output_tokens__gt=0))
_FAILED = Q(outcome__in=("failed", "timed_out", "abandoned"))
DAYS_OFFERED = 8
TENANTS_SHOWN = 20
DAY_FROM, DAY_TO = "from", "to"
TENANT = "tenant__id__exact"
EXPORT_PERMISSION = "chatgateway.export_turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over turns. `cost_usd` is of those with a price; `unpriced` is how many have none."""

    turns: int = 0
    conversations: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    unpriced: int = 0

    @property
    def cost(self) -> str:
        return usd(self.cost_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTotals:
    name: str
    tenant_id: int | None
    totals: Totals


def by_tenant(turns: QuerySet[Turn]) -> list[TenantTotals]:
    """Return the totals of each tenant's turns, those with most turns first. One query over the whole selection."""
    rows = turns.order_by().values("tenant_id", "tenant_name")
    summed = rows.annotate(
        n_turns=Count("pk"),
        n_conversations=Count("conversation_id", distinct=True),
        n_failures=Count("pk", filter=_FAILED),
        n_input_tokens=Sum("input_tokens"),
        n_output_tokens=Sum("output_tokens"),
        n_cost=Sum("cost_usd"),
        n_unpriced=Count("pk", filter=UNPRICED),
    )
    found = [
        TenantTotals(
            name=row["tenant_name"] or "–",
            tenant_id=row["tenant_id"],
            totals=Totals(
                turns=row["n_turns"],
                conversations=row["n_conversations"],
                failures=row["n_failures"],
                input_tokens=row["n_input_tokens"],
                output_tokens=row["n_output_tokens"],
                cost_usd=row["n_cost"] or Decimal(0),
                unpriced=row["n_unpriced"],
            ),
        )
        for row in summed
    ]
    return sorted(found, key=lambda one: -one.totals.turns)


def together(parts: list[TenantTotals]) -> Totals:
    """Return the sum of all tenants' totals: no conversation belongs to two."""
    sums: dict[str, Any] = {
        name: sum(getattr(part.totals, name) for part in parts)
        for name in ("turns", "conversations", "failures", "input_tokens", "output_tokens", "unpriced")
    }
    return Totals(cost_usd=sum((part.totals.cost_usd for part in parts), Decimal(0)), **sums)


def chosen_rows(model_admin: Any, request: HttpRequest) -> QuerySet[Any]:
    """Return all rows that a list's filters, as the URL has them, keep."""
    changes: ThemedChangeList = model_admin.get_changelist_instance(request)
    rows: QuerySet[Any] = changes.queryset
    return rows


def totals_page(request: HttpRequest, turns: QuerySet[Turn]) -> HttpResponse:
    """Return the totals of a selection, as a piece of its list's page."""
    parts = by_tenant(turns)
    context = {
        "totals": together(parts),
        "tenants": [(part, _narrowed(request, TENANT, part.tenant_id)) for part in parts[:TENANTS_SHOWN]]
        if len(parts) > 1
        else [],
        "more_tenants": max(0, len(parts) - TENANTS_SHOWN),
        "zone": timezone.get_current_timezone_name(),
    }
    response = TemplateResponse(request, "chatgateway/admin/totals.html", context)
    response["Cache-Control"] = "no-store, private"
    return response


def above_list(request: HttpRequest, model_name: str) -> dict[str, Any]:
    """Return what the template above a list needs; the totals themselves are fetched when the list has been shown."""
    query = request.GET.urlencode()
    today = timezone.localdate()
    return {
        "totals_url": f"{reverse(f'admin:chatgateway_{model_name}_totals')}?{query}",
        "days": [_day(request, today, today - dt.timedelta(days=ago)) for ago in range(DAYS_OFFERED)],
        "span": span_filter.told(request.GET.get(span_filter.PARAMETER, "")),
        "without_span": f"?{_without(request, span_filter.PARAMETER).urlencode()}",
        "zone": timezone.get_current_timezone_name(),
        "report_url": report_url(request, tenant=request.GET.get(TENANT), end_user=request.GET.get("end_user", "")),
        "exports": _exports(request, model_name) if request.user.has_perm(EXPORT_PERMISSION) else [],
    }


def report_url(request: HttpRequest, *, tenant: Any, end_user: str) -> str:
    """Return where a report is asked for, with some of it filled in; empty for people who may not have reports."""
    if not request.user.has_perm(EXPORT_PERMISSION):
        return ""
    query = urlencode({name: value for name, value in (("tenant", tenant), ("end_user", end_user)) if value})
    return f"{reverse('admin:chatgateway_conversation_report')}?{query}"


def _exports(request: HttpRequest, model_name: str) -> list[tuple[str, str]]:
    """The files that the whole selection is to be had as: title and URL of each."""
    query = _without_page(request).urlencode()
    return [
        (title, f"{reverse(f'admin:chatgateway_{model_name}_export_{form}')}?{query}")
        for form, title in (("csv", "CSV"), ("jsonl", "JSONL"))
    ]


def _day(request: HttpRequest, today: dt.date, day: dt.date) -> tuple[str, str, bool]:
    """A day to choose: its name, the list narrowed to it, and whether it is."""
    name = {0: "Today", 1: "Yesterday"}.get((today - day).days, f"{day:%a} {day.day} {day:%b}")
    text = day.isoformat()
    is_chosen = request.GET.get(DAY_FROM) == request.GET.get(DAY_TO) == text
    query = _without_page(request)
    query[DAY_FROM] = query[DAY_TO] = text
    return name, f"?{query.urlencode()}", is_chosen


def _narrowed(request: HttpRequest, name: str, value: Any) -> str:
    if value is None:
        return ""
    query = _without_page(request)
    query[name] = str(value)
    return f"?{query.urlencode()}"


def _without_page(request: HttpRequest) -> QueryDict:
    return _without(request)


def _without(request: HttpRequest, *names: str) -> QueryDict:
    query = request.GET.copy()
    for name in ("p", "e", *names):
        query.pop(name, None)
    return query
