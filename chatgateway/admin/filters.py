"""What the lists of turns and conversations can be narrowed to, beside the columns themselves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.contrib.admin import SimpleListFilter
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.http import HttpRequest
from django.utils import timezone

from chatgateway.admin.selection import DAY_FROM, DAY_TO, UNPRICED
from chatgateway.models import Event, Turn
from profiles.admin_theme import Choice, ChoiceFilter


def _since(column: str, **ago: int) -> Callable[[], Q]:
    return lambda: Q(**{f"{column}__gte": timezone.now() - dt.timedelta(**ago)})


def _periods(column: str) -> tuple[Choice, ...]:
    return (
        Choice("1h", "Last hour", _since(column, hours=1)),
        Choice("24h", "Last 24 hours", _since(column, hours=24)),
        Choice("7d", "Last 7 days", _since(column, days=7)),
        Choice("30d", "Last 30 days", _since(column, days=30)),
    )


def _amounts(more_than: Callable[[str], Q]) -> tuple[Choice, ...]:
    return (
        Choice("0.01", "More than $0.01", lambda: more_than("0.01")),
        Choice("0.1", "More than $0.10", lambda: more_than("0.1")),
        Choice("1", "More than $1", lambda: more_than("1")),
        Choice("10", "More than $10", lambda: more_than("10")),
    )


def _longer_than(**time: int) -> Callable[[], Q]:
    """Turns that took, or are taking, longer."""
    limit = dt.timedelta(**time)
    return lambda: (
        Q(closed_at__gt=F("opened_at") + limit) | Q(closed_at__isnull=True, opened_at__lt=timezone.now() - limit)
    )


class PeriodFilter(ChoiceFilter):
    """The last hour, day, week or month, counted back from now."""

    title = "time"
    parameter_name = "within"
    offers = _periods("opened_at")


class DurationFilter(ChoiceFilter):
    title = "duration"
    parameter_name = "longer"
    offers = (
        Choice("10s", "More than 10 s", _longer_than(seconds=10)),
        Choice("1m", "More than 1 min", _longer_than(minutes=1)),
        Choice("10m", "More than 10 min", _longer_than(minutes=10)),
    )


class CostFilter(ChoiceFilter):
    title = "cost"
    parameter_name = "cost"
    offers = (
        *_amounts(lambda amount: Q(cost_usd__gt=Decimal(amount))),
        # Something was spent, and nobody knows how much.
        Choice(
            "unknown", "Unknown", lambda: Q(cost_usd__isnull=True) & (Q(input_tokens__gt=0) | Q(output_tokens__gt=0))
        ),
    )


class StartedFilter(ChoiceFilter):
    title = "started"
    parameter_name = "within"
    offers = _periods("created_at")


# Turns are filtered and grouped once, not asked for anew for each conversation: over a large record, the list's own
# columns took ten times as long.
_IN_CONVERSATIONS = Turn.objects.filter(conversation__isnull=False).order_by()


def _whose(turns: QuerySet[Turn, Any]) -> Q:
    """Conversations that one of these turns belongs to."""
    return Q(pk__in=turns.values("conversation"))


def _ended_with(outcome: str) -> Q:
    later = _IN_CONVERSATIONS.filter(conversation=OuterRef("conversation"), arrival__gt=OuterRef("arrival"))
    return _whose(_IN_CONVERSATIONS.filter(~Exists(later), outcome=outcome))


def _cost_more_than(amount: str) -> Q:
    sums = _IN_CONVERSATIONS.values("conversation").annotate(sum=Sum("cost_usd"))
    return _whose(sums.filter(sum__gt=Decimal(amount)))


class LastOutcomeFilter(ChoiceFilter):
    """By how the conversation's last turn ended."""

    title = "last outcome"
    parameter_name = "last"
    offers = tuple(
        Choice(outcome.value, outcome.label, lambda value=outcome.value: _ended_with(value))  # type: ignore[misc]
        for outcome in Turn.Outcome
    )


class SumFilter(ChoiceFilter):
    """By what the conversation's turns cost together."""

    title = "cost"
    parameter_name = "cost"
    offers = (
        *_amounts(_cost_more_than),
        Choice("unknown", "Partly unknown", lambda: _whose(_IN_CONVERSATIONS.filter(UNPRICED))),
    )


class _OpenFilter(SimpleListFilter):
    """A filter by what somebody enters."""

    help = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: Any) -> Any:
        return []


class DayFilter(_OpenFilter):
    """From one day to another, both included, in the viewer's time zone. A day that is none counts as not given."""

    title = "day"
    parameter_name = DAY_FROM
    template = "chatgateway/admin/filter_days.html"
    column = "opened_at"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        if DAY_TO in params:
            self.used_parameters[DAY_TO] = params.pop(DAY_TO)[-1]
        self.first, self.last = (_day(self.used_parameters.get(name)) for name in (DAY_FROM, DAY_TO))
        self.zone = timezone.get_current_timezone_name()

    def expected_parameters(self) -> list[str | None]:
        return [DAY_FROM, DAY_TO]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.first:
            queryset = queryset.filter(**{f"{self.column}__gte": begin_of(dt.date.fromisoformat(self.first))})
        if self.last:
            after = dt.date.fromisoformat(self.last) + dt.timedelta(days=1)
            queryset = queryset.filter(**{f"{self.column}__lt": begin_of(after)})
        return queryset


class StartDayFilter(DayFilter):
    column = "created_at"


def _day(text: Any) -> str:
    try:
        day = dt.date.fromisoformat(str(text or ""))
    except ValueError:
        return ""
    return day.isoformat() if 1970 <= day.year < 9999 else ""


def begin_of(day: dt.date) -> dt.datetime:
    """Return the moment a day begins in the viewer's time zone."""
    return timezone.make_aware(dt.datetime.combine(day, dt.time.min))


class EndUserFilter(_OpenFilter):
    title = "end user"
    parameter_name = "end_user"
    template = "chatgateway/admin/filter_text.html"
    help = "The whole id, as callers name the person."

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        # “Not empty” is what the index of turns is of: SQLite uses it for nothing else.
        return queryset.filter(end_user=value).exclude(end_user="") if value else queryset


class ClientFilter(_OpenFilter):
    title = "client"
    parameter_name = "client"
    template = "chatgateway/admin/filter_text.html"
    help = "How its name begins, such as OpenAI/Python."

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        return self.kept(queryset, Q(client__istartswith=value)) if value else queryset

    def kept(self, queryset: QuerySet[Any], turns: Q) -> QuerySet[Any]:
        return queryset.filter(turns)


class ToolFilter(_OpenFilter):
    """Turns in which the agent called a tool."""

    title = "tool"
    parameter_name = "tool"
    template = "chatgateway/admin/filter_text.html"
    help = "One the agent used, by its whole name, such as terminal."

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        called = Event.objects.filter(kind="ActionEvent", tool=value)
        return self.kept(queryset, Q(pk__in=called.order_by().values("turn")))

    def kept(self, queryset: QuerySet[Any], turns: Q) -> QuerySet[Any]:
        return queryset.filter(turns)


class _OfConversations:
    """Keeps the conversations with a turn that the filter of turns keeps."""

    def kept(self, queryset: QuerySet[Any], turns: Q) -> QuerySet[Any]:
        of = Turn.objects.filter(turns, conversation__isnull=False)
        return queryset.filter(pk__in=of.order_by().values("conversation"))


class FromClientFilter(_OfConversations, ClientFilter):
    pass


class UsedToolFilter(_OfConversations, ToolFilter):
    pass
