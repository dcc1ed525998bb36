"""How much of its ceilings a key or a tenant has used, as bars."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Q, Sum
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString

from profiles.admin_theme import usd
from profiles.models import ApiKey, Tenant

# From here on a bar warns.
WARN_PERCENT = 80
# By when a turn was opened there is an index, by when it ended there is none.
LONGEST_TURN = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    told: str  # such as “$0.84 of $1”
    percent: int  # of the ceiling, 100 at most

    @property
    def state(self) -> str:
        if self.percent >= 100:
            return "danger"
        return "warning" if self.percent >= WARN_PERCENT else "success"


def bars(subject: ApiKey | Tenant) -> list[Bar]:
    """Return a bar for each ceiling that is set and whose use can be told. At most five short queries."""
    ceilings = subject.ceilings()
    if ceilings is None:
        return []
    found = []
    now = timezone.now()
    if ceilings.usd_per_day is not None or ceilings.usd_per_month is not None:
        today = now.astimezone(dt.UTC).date()
        days = subject.daily_usage.filter(day__gte=today.replace(day=1))
        sums = days.aggregate(day=Sum("cost_usd", filter=Q(day=today)), month=Sum("cost_usd"))
        held = subject.turns.filter(outcome="open").aggregate(held=Sum("held_usd"))["held"] or 0
        for label, limit, spent in (
            ("Today", ceilings.usd_per_day, sums["day"]),
            ("This month", ceilings.usd_per_month, sums["month"]),
        ):
            if limit is not None:
                found.append(_money(label, Decimal(spent or 0), Decimal(held), limit))
    if ceilings.requests_per_minute is not None:
        begun = subject.turns.filter(opened_at__gt=now - dt.timedelta(seconds=60)).exclude(outcome="refused").count()
        found.append(_count("Requests in the last minute", begun, ceilings.requests_per_minute))
    if ceilings.tokens_per_minute is not None:
        ended = subject.turns.filter(opened_at__gt=now - LONGEST_TURN, closed_at__gt=now - dt.timedelta(seconds=60))
        sums = ended.aggregate(used=Sum("input_tokens") + Sum("output_tokens"))
        found.append(_count("Tokens in the last minute", sums["used"] or 0, ceilings.tokens_per_minute))
    if ceilings.open_turns is not None:
        found.append(_count("Turns at once", subject.turns.filter(outcome="open").count(), ceilings.open_turns))
    return found


def rendered(subject: ApiKey | Tenant) -> SafeString | str:
    """Return the bars as HTML, or a sentence when there are none."""
    shown = bars(subject)
    return render_to_string("profiles/admin/ceiling_bars.html", {"bars": shown}) if shown else "No ceiling is set."


def _money(label: str, spent: Decimal, held: Decimal, limit: Decimal) -> Bar:
    told = f"{usd(spent)} of {usd(limit)}" + (f", and {usd(held)} set aside for open turns" if held else "")
    return Bar(label, told, _percent(spent, limit))


def _count(label: str, used: int, limit: int) -> Bar:
    return Bar(label, f"{used} of {limit}", _percent(Decimal(used), Decimal(limit)))


def _percent(used: Decimal, limit: Decimal) -> int:
    return min(100, int(used * 100 / limit))
