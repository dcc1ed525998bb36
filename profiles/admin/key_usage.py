"""What a key has used in the last 30 days, from the ledger's sums by day: figures, two charts, and the days behind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString

from profiles.admin.charts import Value, bar_chart
from profiles.admin_theme import usd
from profiles.models import ApiKey

DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    day: dt.date
    turns: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)

    @property
    def tokens_told(self) -> str:
        return f"{self.input_tokens:,} in, {self.output_tokens:,} out"

    @property
    def cost_told(self) -> str:
        """An unknown price is not a price of nothing."""
        if not self.turns:
            return ""
        if self.unpriced == self.turns:
            return "unknown"
        return usd(self.cost) + (f", and {self.unpriced:,} without a known price" if self.unpriced else "")


def days_of(key: ApiKey) -> list[Day]:
    """Return the last 30 days (UTC), oldest first, those without a turn too. One query of at most 30 rows."""
    today = timezone.now().astimezone(dt.UTC).date()
    first = today - dt.timedelta(days=DAYS - 1)
    found = {row.day: row for row in key.daily_usage.filter(day__gte=first)}
    days = (first + dt.timedelta(days=number) for number in range(DAYS))
    return [_day(day, found.get(day)) for day in days]


def rendered(key: ApiKey) -> SafeString | str:
    """Return all of it as HTML, or a sentence when there is nothing to show."""
    days = days_of(key)
    if not any(day.turns for day in days):
        return f"Nothing in the last {DAYS} days."
    total = Day(
        day=days[0].day,
        turns=sum(day.turns for day in days),
        unpriced=sum(day.unpriced for day in days),
        input_tokens=sum(day.input_tokens for day in days),
        output_tokens=sum(day.output_tokens for day in days),
        cost=sum((day.cost for day in days), Decimal(0)),
    )
    context = {
        "told": f"{total.turns:,} turns in {DAYS} days; tokens: {total.tokens_told}; cost: {total.cost_told}.",
        "used_days": [day for day in reversed(days) if day.turns],
        "charts": [
            _chart("Turns", days, lambda day: day.turns, lambda day: f"{day.turns:,}"),
            _chart("Cost, USD", days, lambda day: day.cost, lambda day: day.cost_told or "$0"),
        ],
    }
    return render_to_string("profiles/admin/key_usage.html", context)


def _day(day: dt.date, row: Any) -> Day:
    if row is None:
        return Day(day=day)
    return Day(
        day=day,
        turns=row.turns,
        unpriced=row.unpriced_turns,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost=row.cost_usd,
    )


def _chart(
    title: str, days: Sequence[Day], value: Callable[[Day], Decimal | int], told: Callable[[Day], str]
) -> SafeString:
    values = [Value(label=day.day.isoformat(), value=value(day), told=told(day)) for day in days]
    return bar_chart(title, values, highest=told(max(days, key=value)))
