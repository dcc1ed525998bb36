"""Which time the overview speaks of, and into which parts its charts divide it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from django import forms
from django.http import QueryDict
from django.utils import timezone

from chatgateway.admin import span_filter
from chatgateway.admin.selection import DAY_FROM, DAY_TO

LONGEST_DAYS = 400
_HOUR = dt.timedelta(hours=1)
_DAY = dt.timedelta(days=1)
# (as in the URL and in the filter of turns, title, how long, of what parts)
_OFFERED = (
    ("1h", "Last hour", _HOUR, dt.timedelta(minutes=2)),
    ("24h", "Last 24 hours", _DAY, _HOUR),
    ("7d", "Last 7 days", 7 * _DAY, 3 * _HOUR),
    ("30d", "Last 30 days", 30 * _DAY, _DAY),
)
_DEFAULT = "24h"


class DaysForm(forms.Form):
    """A time of one's own, in whole days of the page's time zone."""

    since = forms.DateField(label="From", widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="to", widget=forms.DateInput(attrs={"type": "date"}))

    def clean(self) -> dict[str, dt.date]:
        days: dict[str, dt.date] = super().clean() or self.cleaned_data
        if "since" in days and "until" in days:
            if days["until"] < days["since"]:
                raise forms.ValidationError("The last day is before the first.")
            if (days["until"] - days["since"]).days >= LONGEST_DAYS:
                raise forms.ValidationError(f"At most {LONGEST_DAYS} days: figures are kept no longer.")
        return days


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """`bounds` begin with the start and end with the end; `query` selects the same turns in their list; `part` says
    what one bar stands for."""

    key: str
    title: str
    bounds: list[dt.datetime]
    query: str
    part: str

    def label(self, place: int) -> str:
        """How a part is called on the axis."""
        start = timezone.localtime(self.bounds[place])
        if self.bounds[-1] - self.bounds[0] <= 2 * _DAY:
            return start.strftime("%H:%M")
        return f"{start.day} {start:%b}"

    def told(self, place: int) -> str:
        """How a part is called when it is pointed at."""
        start, end = timezone.localtime(self.bounds[place]), timezone.localtime(self.bounds[place + 1])
        if end - start >= 23 * _HOUR:
            return f"{start:%a} {start.day} {start:%b}"
        return f"{start:%a} {start.day} {start:%b} {start:%H:%M}–{end:%H:%M}"

    def span(self, place: int) -> str:
        """What selects the turns of a part in their list."""
        return span_filter.query(self.bounds[place], self.bounds[place + 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    key: str
    title: str
    url: str
    is_chosen: bool


def chosen(sent: QueryDict, now: dt.datetime) -> tuple[Range, DaysForm]:
    """Return the range that was asked for, the last day if none or nonsense was, and the form for days of one's own."""
    if "since" in sent or "until" in sent:
        form = DaysForm(sent)
        if form.is_valid():
            return _of_days(form.cleaned_data["since"], form.cleaned_data["until"], now), form
        return _offered(_DEFAULT, now), form
    today = timezone.localtime(now).date()
    form = DaysForm(initial={"since": today - 6 * _DAY, "until": today})
    wanted = sent.get("range", _DEFAULT)
    return _offered(wanted if wanted in {key for key, *_ in _OFFERED} else _DEFAULT, now), form


def offers(range_: Range) -> list[Offer]:
    """Return the ranges that a click chooses."""
    return [
        Offer(key=key, title=title, url=f"?{urlencode({'range': key})}", is_chosen=key == range_.key)
        for key, title, _, _ in _OFFERED
    ]


def _offered(wanted: str, now: dt.datetime) -> Range:
    key, title, length, step = next(one for one in _OFFERED if one[0] == wanted)
    start = now - length
    bounds = [start, *(at for at in _marks(start, now, step) if start < at < now), now]
    return Range(key=key, title=title, bounds=bounds, query=f"within={key}", part=_part(step))


def _of_days(since: dt.date, until: dt.date, now: dt.datetime) -> Range:
    start, end = _midnight(since), min(_midnight(until + _DAY), now)
    days = (until - since).days + 1
    step = _HOUR if days <= 2 else 3 * _HOUR if days <= 8 else _DAY if days <= 92 else 7 * _DAY
    title = f"{since:%Y-%m-%d}" if since == until else f"{since:%Y-%m-%d} to {until:%Y-%m-%d}"
    query = urlencode({DAY_FROM: since.isoformat(), DAY_TO: until.isoformat()})
    end = max(end, start + _HOUR)  # a time that has not begun yet holds nothing
    bounds = [start, *(at for at in _marks(start, end, step) if start < at < end), end]
    return Range(key="days", title=title, bounds=bounds, query=query, part=_part(step))


def _marks(start: dt.datetime, end: dt.datetime, step: dt.timedelta) -> Iterator[dt.datetime]:
    """Yield moments that are a `step` apart on the clock of the page's time zone, from the day of `start` on."""
    day, last = timezone.localtime(start).date(), timezone.localtime(end).date()
    if step > _DAY:
        while day <= last:
            yield _midnight(day)
            day += step
        return
    while day <= last:
        midnight = _midnight(day)
        length = _midnight(day + _DAY) - midnight  # 23 or 25 hours when the clocks are changed
        for number in range(int(length / step) or 1):
            yield midnight + number * step
        day += _DAY


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), timezone.get_current_timezone())


def _part(step: dt.timedelta) -> str:
    return {
        dt.timedelta(minutes=2): "2 minutes",
        _HOUR: "hour",
        3 * _HOUR: "3 hours",
        _DAY: "day",
        7 * _DAY: "7 days",
    }[step]
