"""The turns that one bar of a chart counts: those that began between two moments."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import SimpleListFilter
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

PARAMETER = "span"


def query(start: dt.datetime, end: dt.datetime) -> str:
    """Return what selects the turns from `start` on and before `end`: an interval as ISO 8601 writes it."""
    return urlencode({PARAMETER: f"{_written(start)}/{_written(end)}"}, safe="/:")


def told(text: str) -> str:
    """Return an interval in the viewer's time zone, `Tue 24 Nov 14:00–15:00`; empty for what is none."""
    if (span := _read(text)) is None:
        return ""
    start, end = (timezone.localtime(moment) for moment in span)
    until = f"{end:%H:%M}" if end.date() == start.date() else f"{end:%a} {end.day} {end:%b} {end:%H:%M}"
    return f"{start:%a} {start.day} {start:%b} {start:%H:%M}–{until}"


class SpanFilter(SimpleListFilter):
    """Chosen by a chart, never offered: what has been chosen stands above the list, where it can be taken away. An
    interval that is none counts as not given."""

    title = "span"
    parameter_name = PARAMETER
    template = "chatgateway/admin/filter_span.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return bool(self.told)

    def choices(self, changelist: Any) -> Any:
        return []

    @property
    def told(self) -> str:
        return told(self.value() or "")

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if (span := _read(self.value() or "")) is None:
            return queryset
        start, end = span
        return queryset.filter(opened_at__gte=start, opened_at__lt=end)


def _written(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _read(text: str) -> tuple[dt.datetime, dt.datetime] | None:
    begin, _, end = text.partition("/")
    try:
        moments = dt.datetime.fromisoformat(begin), dt.datetime.fromisoformat(end)
    except ValueError:
        return None
    if any(moment.tzinfo is None or not 1970 <= moment.year < 9999 for moment in moments):
        return None
    return moments
