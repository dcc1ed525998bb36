"""What turns came to, hour by hour: the only writer of `HourlyTraffic` and `HourlyTimes`, and the sums over any time.

Hours that are over are summed once, by a background task. What is not summed yet, and the parts of hours at the ends
of a time, is counted from the turns themselves; so figures are never old, and right without a worker as well.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.db.models import Case, IntegerField, Sum, When

from chatgateway.models import HourlyTimes, HourlyTraffic, Turn
from profiles.models import ApiKey, Profile, Tenant

HOUR = dt.timedelta(hours=1)
# A turn's time is taken before its transaction: an hour is summed when those that were under way are through.
GRACE = dt.timedelta(minutes=5)
# An hour waits this long for turns of it that are still open; then it is summed without their ends.
PATIENCE = dt.timedelta(hours=24)
# At most so much of a time is counted turn by turn. More is left only while the hours of an old database are summed.
MOST_COUNTED = dt.timedelta(hours=26)
KEPT = dt.timedelta(days=400)
# How long one run of the background task goes on.
RUN_SECONDS = 50.0

_FAILED = {Turn.Outcome.FAILED, Turn.Outcome.TIMED_OUT, Turn.Outcome.ABANDONED}
_STEP = math.log(1.1)
# Ids of tenant, key and profile; None where there was none, or where it was deleted.
Whose = tuple[int | None, int | None, int | None]


class _Counted(NamedTuple):
    """What is read of a turn that is counted."""

    opened_at: dt.datetime
    started_at: dt.datetime | None
    first_text_at: dt.datetime | None
    closed_at: dt.datetime | None
    tenant_id: int | None
    api_key_id: int | None
    profile_id: int | None
    outcome: str
    kind: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None

    @property
    def whose(self) -> Whose:
        return self.tenant_id, self.api_key_id, self.profile_id


@dataclass(slots=True, kw_only=True)
class Sums:
    """Turns added up. `failed` includes timed out and abandoned ones; what is in none of the counts is still open."""

    turns: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    saved: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    saved_cost_usd: Decimal = Decimal(0)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def add(self, other: Sums) -> None:
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def count(self, turn: _Counted) -> None:
        """Add one turn."""
        self.turns += 1
        if turn.outcome == Turn.Outcome.ANSWERED:
            self.answered += 1
            if turn.kind == Turn.Kind.HOUSEKEEPING:
                self.saved += 1
                self.saved_cost_usd += turn.cost_usd or 0
        elif turn.outcome in _FAILED:
            self.failed += 1
        elif turn.outcome == Turn.Outcome.REFUSED:
            self.refused += 1
        elif turn.outcome == Turn.Outcome.CANCELLED:
            self.cancelled += 1
        self.input_tokens += turn.input_tokens
        self.output_tokens += turn.output_tokens
        if turn.cost_usd is not None:
            self.cost_usd += turn.cost_usd
        elif turn.input_tokens or turn.output_tokens:
            self.unpriced += 1


_NAMES = tuple(one.name for one in fields(Sums))


@dataclass(slots=True, kw_only=True)
class Times:
    """How long turns took: how many of them, by steps of 10 % of a second."""

    queue: Counter[int] = field(default_factory=Counter)
    first_text: Counter[int] = field(default_factory=Counter)
    total: Counter[int] = field(default_factory=Counter)

    def add(self, other: Times) -> None:
        self.queue.update(other.queue)
        self.first_text.update(other.first_text)
        self.total.update(other.total)

    def count(self, turn: _Counted) -> None:
        """Add one turn, if an agent was asked."""
        if turn.kind != Turn.Kind.AGENT or turn.outcome == Turn.Outcome.REFUSED:
            return
        ends = ((self.queue, turn.started_at), (self.first_text, turn.first_text_at), (self.total, turn.closed_at))
        for steps, moment in ends:
            if moment is not None:
                steps[_step((moment - turn.opened_at).total_seconds())] += 1


def percentile(times: Counter[int], percent: int) -> float | None:
    """Return the seconds that so many percent of the turns took at most, to 5 %; None if there were none."""
    wanted = math.ceil(times.total() * percent / 100)
    for step in sorted(times):
        wanted -= times[step]
        if wanted <= 0:
            return float(math.exp((step + 0.5) * _STEP))
    return None


@dataclass(slots=True, kw_only=True)
class Figures:
    """The sums of a time: of each part of it, and by whose the turns were. `counted_since`: what was before is missing,
    because it has not been summed yet."""

    parts: list[Sums]
    times: list[Times]
    by_whose: dict[Whose, Sums]
    counted_since: dt.datetime | None = None

    @property
    def in_all(self) -> Sums:
        whole = Sums()
        for part in self.parts:
            whole.add(part)
        return whole

    @property
    def all_times(self) -> Times:
        whole = Times()
        for part in self.times:
            whole.add(part)
        return whole


# --- reading ----------------------------------------------------------------------------------------------------------


def read(bounds: Sequence[dt.datetime]) -> Figures:
    """Return the figures of the time from the first of `bounds` to the last; those between them divide it into parts.

    Whole hours are taken from their sums where the parts are no shorter; a handful of queries, however long the time.
    """
    figures = Figures(parts=[Sums() for _ in bounds[1:]], times=[Times() for _ in bounds[1:]], by_whose={})
    start, end = bounds[0], bounds[-1]
    last = start
    if max(later - earlier for earlier, later in pairwise(bounds)) >= HOUR:
        first = start if start == floor(start) else floor(start) + HOUR
        until = min(floor(end), _summed_until() or first)
        if until > first:
            _add_counted(figures, bounds, start, first)
            _add_summed(figures, bounds, first, until)
            last = until
    counted_from = max(last, end - MOST_COUNTED)
    if counted_from > last and Turn.objects.filter(opened_at__gte=last, opened_at__lt=counted_from).exists():
        figures.counted_since = counted_from
    _add_counted(figures, bounds, counted_from, end)
    return figures


def _add_summed(figures: Figures, bounds: Sequence[dt.datetime], start: dt.datetime, end: dt.datetime) -> None:
    """Add the hours from `start` to `end`, whole ones that were all summed."""
    if start >= end:
        return
    rows = HourlyTraffic.objects.filter(hour__gte=start, hour__lt=end).order_by()
    sums = {name: Sum(name) for name in _NAMES}
    parts = [When(hour__lt=bound, then=place) for place, bound in enumerate(bounds[1:])]
    grouped = rows.annotate(part=Case(*parts, output_field=IntegerField())).values_list("part").annotate(**sums)
    for part, *values in grouped.values_list("part", *_NAMES):
        figures.parts[part].add(Sums(**dict(zip(_NAMES, values, strict=True))))
    whose = ("tenant_id", "api_key_id", "profile_id")
    for tenant, key, profile, *values in rows.values_list(*whose).annotate(**sums).values_list(*whose, *_NAMES):
        summed = Sums(**dict(zip(_NAMES, values, strict=True)))
        figures.by_whose.setdefault((tenant, key, profile), Sums()).add(summed)
    taken = HourlyTimes.objects.filter(hour__gte=start, hour__lt=end).order_by()
    for hour, queue, first_text, total in taken.values_list("hour", "queue", "first_text", "total"):
        times = figures.times[_part(bounds, hour)]
        _add_steps(times.queue, queue)
        _add_steps(times.first_text, first_text)
        _add_steps(times.total, total)


def _add_counted(figures: Figures, bounds: Sequence[dt.datetime], start: dt.datetime, end: dt.datetime) -> None:
    """Add the turns that were opened from `start` to `end`, one by one."""
    if start >= end:
        return
    for turn in _turns(start, end):
        part = _part(bounds, turn.opened_at)
        figures.parts[part].count(turn)
        figures.times[part].count(turn)
        figures.by_whose.setdefault(turn.whose, Sums()).count(turn)


def _part(bounds: Sequence[dt.datetime], moment: dt.datetime) -> int:
    """Which part a moment lies in. A whole hour belongs where it begins."""
    low, high = 0, len(bounds) - 2
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bounds[middle] <= moment else (low, middle - 1)
    return low


def names_of(ids: Iterable[int], model: type[Tenant | ApiKey | Profile]) -> dict[int, str]:
    """Return what tenants, keys or profiles are called; deleted ones as they were called when their turns were summed.

    A key is told with its tenant.
    """
    wanted = set(ids)
    column, name, past = {
        Tenant: ("tenant_id", ("name",), ("tenant_name",)),
        ApiKey: ("api_key_id", ("tenant__name", "name"), ("tenant_name", "key_name")),
        Profile: ("profile_id", ("slug",), ("profile_slug",)),
    }[model]
    rows: Any = model._default_manager.filter(pk__in=wanted).values_list("pk", *name)
    found = {pk: ": ".join(parts) for pk, *parts in rows}
    if missing := wanted - set(found):
        gone = HourlyTraffic.objects.filter(**{f"{column}__in": missing}).order_by().distinct()
        found |= {pk: f"{': '.join(parts)} (deleted)" for pk, *parts in gone.values_list(column, *past)}
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    hours: int
    is_complete: bool


def sum_up(now: dt.datetime, *, seconds: float = RUN_SECONDS) -> Done:
    """Sum the hours that are over and not summed yet, oldest first, for at most so long; forget those long past."""
    until = time.monotonic() + seconds
    HourlyTraffic.objects.filter(hour__lt=now - KEPT).delete()
    HourlyTimes.objects.filter(hour__lt=now - KEPT).delete()
    done = 0
    while (hour := _next_hour(now)) is not None:
        if time.monotonic() > until:
            return Done(done, is_complete=False)
        if not _write(hour):
            break  # another worker is at it
        done += 1
    return Done(done, is_complete=True)


def forget(*, since: dt.datetime) -> None:
    """Have the hours from that of a moment on summed again: turns of the past were written."""
    with transaction.atomic():
        HourlyTraffic.objects.filter(hour__gte=floor(since)).delete()
        HourlyTimes.objects.filter(hour__gte=floor(since)).delete()


def floor(moment: dt.datetime) -> dt.datetime:
    """Return the beginning of the hour (UTC)."""
    return moment.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)


def _summed_until() -> dt.datetime | None:
    last = HourlyTimes.objects.order_by("-hour").values_list("hour", flat=True).first()
    return None if last is None else last + HOUR


def _next_hour(now: dt.datetime) -> dt.datetime | None:
    """Return the earliest hour with turns that can be summed and has not been; None if there is none."""
    since = max(_summed_until() or now - KEPT, now - KEPT)
    first = Turn.objects.filter(opened_at__gte=since).order_by("opened_at").values_list("opened_at", flat=True).first()
    if first is None:
        return None
    hour = floor(first)
    if hour + HOUR + GRACE > now:
        return None
    is_waited_for = hour + HOUR + PATIENCE > now
    if is_waited_for and Turn.objects.open().filter(opened_at__gte=hour, opened_at__lt=hour + HOUR).exists():
        return None
    return hour


def _write(hour: dt.datetime) -> bool:
    """Sum one hour. False if somebody else has done so meanwhile."""
    by_whose: dict[Whose, Sums] = {}
    times = Times()
    for turn in _turns(hour, hour + HOUR):
        by_whose.setdefault(turn.whose, Sums()).count(turn)
        times.count(turn)
    tenants = names_of({tenant for tenant, _, _ in by_whose if tenant is not None}, Tenant)
    keys = dict(ApiKey.objects.filter(pk__in={key for _, key, _ in by_whose}).values_list("pk", "name"))
    profiles = names_of({profile for _, _, profile in by_whose if profile is not None}, Profile)
    rows = [
        HourlyTraffic(
            hour=hour,
            tenant_id=tenant,
            api_key_id=key,
            profile_id=profile,
            tenant_name=tenants.get(tenant or 0, ""),
            key_name=keys.get(key or 0, ""),
            profile_slug=profiles.get(profile or 0, ""),
            **{name: getattr(sums, name) for name in _NAMES},
        )
        for (tenant, key, profile), sums in by_whose.items()
    ]
    try:
        with transaction.atomic():
            HourlyTimes.objects.create(
                hour=hour,
                queue=_steps(times.queue),
                first_text=_steps(times.first_text),
                total=_steps(times.total),
            )
            HourlyTraffic.objects.bulk_create(rows)
    except IntegrityError:
        return False
    return True


# --- turns ------------------------------------------------------------------------------------------------------------


def _turns(start: dt.datetime, end: dt.datetime) -> Iterator[_Counted]:
    rows = Turn.objects.filter(opened_at__gte=start, opened_at__lt=end).order_by().values_list(*_Counted._fields)
    yield from map(_Counted._make, rows.iterator())


def _step(seconds: float) -> int:
    return math.floor(math.log(max(seconds, 0.001)) / _STEP)


def _steps(times: Counter[int]) -> dict[str, int]:
    return {str(step): count for step, count in sorted(times.items())}


def _add_steps(times: Counter[int], stored: dict[str, int]) -> None:
    for step, count in stored.items():
        times[int(step)] += count
