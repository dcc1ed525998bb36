"""Files of all turns that a list's filters keep: JSON lines with everything, or CSV for spreadsheets.

They take a permission of their own. Texts are in them for people only who may read texts, and then the export is a
reading like any other, recorded before it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import path, reverse
from django.utils import timezone

from chatgateway import erasures, readings
from chatgateway.admin import exported_turns, selection, viewer
from chatgateway.admin.chosen_turns import ChosenTurns, streamed
from chatgateway.models import Event, Turn

# What a form is called in URLs, and what its file is.
_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
# Of a list, not of what it selects; `q` may be a text.
_NOT_A_FILTER = {"p", "o", "e", "all", "q"}


def urls(model_admin: Any, turns_of: Callable[[HttpRequest], QuerySet[Turn]]) -> list[Any]:
    """Return the routes under which a list's selection is exported; `turns_of` says which turns that is."""
    name = model_admin.opts.model_name
    return [
        path(
            f"export/turns.{form}",
            model_admin.admin_site.admin_view(partial(_export, model_name=name, form=form, turns_of=turns_of)),
            name=f"chatgateway_{name}_export_{form}",
        )
        for form in _TYPES
    ]


def _export(
    request: HttpRequest, *, model_name: str, form: str, turns_of: Callable[[HttpRequest], QuerySet[Turn]]
) -> HttpResponseBase:
    may_see = request.user.has_perm(f"chatgateway.view_{model_name}")
    if not may_see or not request.user.has_perm(selection.EXPORT_PERMISSION):
        raise PermissionDenied
    try:
        chosen = ChosenTurns(turns_of(request))
    except IncorrectLookupParameters:
        messages.warning(request, "Nothing was exported: the list knows no such filter.")
        return HttpResponseRedirect(reverse(f"admin:chatgateway_{model_name}_changelist"))
    may_read = readings.may_read(request)
    what = f"{form}, {'with texts' if may_read else 'figures only'}: {selected(request)}"
    readings.note(request, readings.What.EXPORT, turns=chosen.count if may_read else 0, selection=what)
    made_of = partial(_json_lines if form == "jsonl" else _csv, may_read=may_read)
    response = streamed(chosen, made_of, zone=viewer.zone_of(request), content_type=_TYPES[form])
    name = f"turns-{timezone.localtime():%Y-%m-%d-%H%M}.{form}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def selected(request: HttpRequest) -> str:
    """Say what a list's URL selects, without searched texts, and without ids that an erasure would have to remove."""
    parts = ["a search"] if request.GET.get("q") else []
    for name, value in request.GET.items():
        if name not in _NOT_A_FILTER and value:
            parts.append(f"{name} {end_user_told(str(value)) if 'end_user' in name else value}")
    return ", ".join(parts) or "everything"


def end_user_told(end_user: str) -> str:
    """Name a person as the rows of erasures do."""
    return f"#{erasures.digest_of(end_user.strip())[:12]}"


def _json_lines(chosen: ChosenTurns, *, may_read: bool) -> Iterator[str]:
    for batch in chosen.batches(with_events=may_read):
        yield "".join(exported_turns.line(turn, events, may_read=may_read) for turn, events in batch)


def _csv(chosen: ChosenTurns, *, may_read: bool) -> Iterator[str]:
    yield exported_turns.heading()
    for batch in chosen.batches(with_events=False):
        tools = _tools_of(turn.pk for turn, _ in batch)
        yield "".join(exported_turns.row(turn, tools=tools.get(turn.pk, ""), may_read=may_read) for turn, _ in batch)


def _tools_of(turn_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return which tools each turn called, and how often: `terminal 3, file_editor 2`."""
    calls = Event.objects.filter(turn__in=list(turn_ids), kind="ActionEvent").order_by()
    told: dict[UUID, list[str]] = {}
    for turn_id, tool, count in calls.values_list("turn", "tool").annotate(n=Count("pk")):
        told.setdefault(turn_id, []).append(f"{tool or 'tool'} {count}")
    return {turn_id: ", ".join(sorted(each)) for turn_id, each in told.items()}
