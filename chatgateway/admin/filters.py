"""What the lists of turns and conversations can be narrowed to, beside the columns themselves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal

from django.db.models import F, Q
from django.utils import timezone

from chatgateway.models import Turn
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


def _more_than(column: str, amount: str) -> Callable[[], Q]:
    return lambda: Q(**{f"{column}__gt": Decimal(amount)})


def _amounts(column: str) -> tuple[Choice, ...]:
    return (
        Choice("0.01", "More than $0.01", _more_than(column, "0.01")),
        Choice("0.1", "More than $0.10", _more_than(column, "0.1")),
        Choice("1", "More than $1", _more_than(column, "1")),
        Choice("10", "More than $10", _more_than(column, "10")),
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
        *_amounts("cost_usd"),
        # Something was spent, and nobody knows how much.
        Choice(
            "unknown", "Unknown", lambda: Q(cost_usd__isnull=True) & (Q(input_tokens__gt=0) | Q(output_tokens__gt=0))
        ),
    )


class StartedFilter(ChoiceFilter):
    title = "started"
    parameter_name = "within"
    offers = _periods("created_at")


class LastOutcomeFilter(ChoiceFilter):
    """By how the conversation's last turn ended; the list has it as `outcome`."""

    title = "last outcome"
    parameter_name = "last"
    offers = tuple(
        Choice(outcome.value, outcome.label, lambda value=outcome.value: Q(outcome=value))  # type: ignore[misc]
        for outcome in Turn.Outcome
    )


class SumFilter(ChoiceFilter):
    """By what the conversation's turns cost together; the list has it as `cost`."""

    title = "cost"
    parameter_name = "cost"
    offers = (*_amounts("cost"), Choice("unknown", "Partly unknown", lambda: Q(n_unpriced__gt=0)))
