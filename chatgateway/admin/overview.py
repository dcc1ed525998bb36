"""The admin's first page: what is to be done, what is running, and how any time went, in a dozen queries.

Nothing on it is a text of a caller or an agent, so that nothing has to be recorded as read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from chatgateway import hourly
from chatgateway.admin import charts, overview_now, overview_range
from chatgateway.admin.charts import Axis, Chart, Series
from chatgateway.admin.overview_now import Now
from chatgateway.admin.overview_range import DaysForm, Offer, Range
from chatgateway.hourly import Figures, Sums
from chatgateway.models import Turn
from profiles.admin_theme import duration, moment, usd
from profiles.models import ApiKey, Profile, Tenant

_ROWS_SHOWN = 8
_FAILED = (Turn.Outcome.FAILED, Turn.Outcome.TIMED_OUT, Turn.Outcome.ABANDONED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of the chosen time; `url` leads to what was counted."""

    title: str
    value: str
    note: str = ""
    url: str = ""
    is_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one profile, tenant or key came to. `share`: of the largest in its table, in percent."""

    name: str
    url: str
    turns_url: str
    turns: str
    failed: int
    tokens: str
    cost: str
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    rows: list[Row]
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    now: Now
    range: Range
    offers: list[Offer]
    days: DaysForm
    has_turns: bool
    figures: list[Figure]
    charts: list[Chart]
    tables: list[Table]
    counted_since: str
    zone: str


def read(request: HttpRequest) -> Overview | None:
    """Return what the page shows, or None to somebody who may not see turns."""
    if not request.user.has_perm("chatgateway.view_turn"):
        return None
    range_, days = overview_range.chosen(request.GET, timezone.now())
    figures = hourly.read(range_.bounds)
    in_all = figures.in_all
    return Overview(
        now=overview_now.read(request),
        range=range_,
        offers=overview_range.offers(range_),
        days=days,
        has_turns=in_all.turns > 0,
        figures=_figures(range_, figures, in_all),
        charts=_charts(range_, figures) if in_all.turns else [],
        tables=list(_tables(request, range_, figures)) if in_all.turns else [],
        counted_since=moment(figures.counted_since),
        zone=timezone.get_current_timezone_name(),
    )


def live(request: HttpRequest) -> TemplateResponse:
    """The part that keeps itself up to date, by itself."""
    if not request.user.has_perm("chatgateway.view_turn"):
        raise PermissionDenied
    response = TemplateResponse(request, "chatgateway/admin/overview_now.html", {"now": overview_now.read(request)})
    response["Cache-Control"] = "no-store, private"
    return response


# --- figures --------------------------------------------------------------------------------------------------------


def _figures(range_: Range, figures: Figures, in_all: Sums) -> list[Figure]:
    times = figures.all_times
    ended = in_all.answered + in_all.failed
    share = f", {in_all.failed / ended:.1%} of those that ran" if in_all.failed and ended else ""
    price = usd(in_all.cost_usd) if in_all.cost_usd else "unknown" if in_all.unpriced else "$0"
    unpriced = f"and {in_all.unpriced:,} turn{'s' * (in_all.unpriced != 1)} of unknown price" if in_all.unpriced else ""
    return [
        Figure(
            title="Turns",
            value=f"{in_all.turns:,}",
            note=f"{in_all.answered:,} answered, {in_all.cancelled:,} cancelled",
            url=_turns_url(range_),
        ),
        Figure(
            title="Failed",
            value=f"{in_all.failed:,}",
            note=f"{in_all.refused:,} more refused{share}",
            url=_turns_url(range_, outcome__in=",".join(_FAILED)),
            is_bad=in_all.failed > 0,
        ),
        Figure(
            title="First text after",
            value=duration(hourly.percentile(times.first_text, 50)) or "–",
            note=_slowest(hourly.percentile(times.first_text, 95)),
        ),
        Figure(
            title="Tokens", value=f"{in_all.tokens:,}", note=f"{in_all.input_tokens:,} in, {in_all.output_tokens:,} out"
        ),
        Figure(title="Cost", value=price, note=unpriced),
        Figure(
            title="Agent runs saved",
            value=f"{in_all.saved:,}",
            note=f"housekeeping calls, {usd(in_all.saved_cost_usd) or '$0'}",
            url=_turns_url(range_, kind__exact=Turn.Kind.HOUSEKEEPING),
        ),
    ]


def _slowest(seconds: float | None) -> str:
    return "" if seconds is None else f"half of the turns; 95 % after {duration(seconds)}"


def _turns_url(range_: Range, **more: object) -> str:
    """The list of the turns that were counted."""
    return _listed(f"{range_.query}{'&' if more else ''}{urlencode(more)}")


def _listed(query: str) -> str:
    return f"{reverse('admin:chatgateway_turn_changelist')}?{query}"


# --- charts ---------------------------------------------------------------------------------------------------------


def _charts(range_: Range, figures: Figures) -> list[Chart]:
    places = range(len(figures.parts))
    axis = Axis(
        labels=[range_.label(place) for place in places],
        told=[range_.told(place) for place in places],
        urls=[_listed(range_.span(place)) if figures.parts[place].turns else "" for place in places],
    )

    def summed(title: str, kind: str, value: Callable[[Sums], float | Decimal]) -> Series:
        return Series(title=title, kind=kind, values=[float(value(part)) for part in figures.parts])

    def taken(which: str) -> list[Series]:
        return [
            Series(
                title=title,
                kind=kind,
                values=[hourly.percentile(getattr(times, which), percent) for times in figures.times],
            )
            for title, kind, percent in (("half within", "info", 50), ("95 % within", "warn", 95))
        ]

    def each(title: str) -> str:
        return f"{title} per {range_.part}"

    return [
        charts.bars(
            "turns",
            each("Turns"),
            [
                summed("answered", "good", lambda part: part.answered),
                summed("failed", "bad", lambda part: part.failed),
                summed("refused", "warn", lambda part: part.refused),
                summed("cancelled or open", "quiet", _others),
            ],
            written=_count,
            axis=axis,
        ),
        charts.bars(
            "cost", each("Cost"), [summed("USD", "info", lambda part: part.cost_usd)], written=_money, axis=axis
        ),
        charts.bars(
            "tokens",
            each("Tokens"),
            [
                summed("in", "info", lambda part: part.input_tokens),
                summed("out", "good", lambda part: part.output_tokens),
            ],
            written=_count,
            axis=axis,
        ),
        charts.lines(
            "queue",
            "Waiting for an agent-server",
            taken("queue"),
            written=duration,
            about="Until a place was free.",
            axis=axis,
        ),
        charts.lines(
            "first-text", "First text", taken("first_text"), written=duration, about="From the request on.", axis=axis
        ),
        charts.lines("total", "Whole turn", taken("total"), written=duration, about="From the request on.", axis=axis),
    ]


def _others(part: Sums) -> int:
    return part.turns - part.answered - part.failed - part.refused


def _count(number: float) -> str:
    for limit, unit in ((1e9, "bn"), (1e6, "m"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):,.1f} {unit}"
    return f"{number:,.0f}"


def _money(amount: float) -> str:
    return usd(Decimal(str(amount)))


# --- tables ---------------------------------------------------------------------------------------------------------

# (title, which of a turn's ids, model, permission to see it, page of one, filter of turns)
_GROUPS: tuple[tuple[str, int, type[Tenant | ApiKey | Profile], str, str, str], ...] = (
    ("By profile", 2, Profile, "profiles.view_profile", "profiles_profile_change", "profile__id__exact"),
    ("By tenant", 0, Tenant, "profiles.view_tenant", "profiles_tenant_change", "tenant__id__exact"),
    ("By key", 1, ApiKey, "profiles.view_apikey", "profiles_apikey_change", "api_key__id__exact"),
)


def _tables(request: HttpRequest, range_: Range, figures: Figures) -> Iterable[Table]:
    for title, place, model, permission, page, filter_name in _GROUPS:
        if not request.user.has_perm(permission):
            continue
        grouped: dict[int | None, Sums] = {}
        for whose, sums in figures.by_whose.items():
            grouped.setdefault(whose[place], Sums()).add(sums)
        ranked = sorted(grouped.items(), key=lambda one: (one[1].cost_usd, one[1].turns), reverse=True)
        shown = ranked[:_ROWS_SHOWN]
        names = hourly.names_of([pk for pk, _ in shown if pk is not None], model)
        living = set(model._default_manager.filter(pk__in=names).values_list("pk", flat=True))
        most = max((_weight(sums, ranked) for _, sums in shown), default=0)
        rows = [
            Row(
                name=names.get(pk or 0, "none, or deleted"),
                url=reverse(f"admin:{page}", args=[pk]) if pk in living else "",
                turns_url=_turns_url(range_, **{filter_name: pk}) if pk in living else "",
                turns=f"{sums.turns:,}",
                failed=sums.failed,
                tokens=_count(sums.tokens),
                cost=_cost(sums),
                share=round(100 * _weight(sums, ranked) / most) if most else 0,
            )
            for pk, sums in shown
        ]
        yield Table(title=title, rows=rows, more=len(ranked) - len(shown))


def _weight(sums: Sums, ranked: list[Any]) -> float:
    """What a bar shows: the cost, or the turns where nothing has cost anything."""
    return float(sums.cost_usd) if ranked[0][1].cost_usd else float(sums.turns)


def _cost(sums: Sums) -> str:
    if sums.cost_usd:
        return f"{usd(sums.cost_usd)}{' +' if sums.unpriced else ''}"
    return "unknown" if sums.unpriced else "$0"
