"""A report for people who have no login: what one tenant or one person asked, what the agents did for it, what it cost.

One HTML file that needs nothing else and runs nothing. It is made while it is sent, a batch of turns at a time, so
that it may be as long as the record is; readers' browsers set the limit.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Any
from uuid import UUID

from django import forms
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.text import slugify
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from chatgateway import readings
from chatgateway.admin import exported_turns, exports, report_turns, selection, viewer
from chatgateway.admin.chosen_turns import ChosenTurns, streamed
from chatgateway.admin.filters import begin_of
from chatgateway.models import Event, Turn
from profiles.admin_theme import moment
from profiles.models import Tenant

_DAYS = 7
_ABOUT = (
    "One HTML file, for people who have no login: what was asked, each command that was run, each file that was "
    "changed, how it ended and what it cost, with totals. It opens in any browser, prints, and loads nothing. Long "
    "reports are made too, but browsers become slow from some thousand turns on."
)


def _day(label: str, help_text: str = "") -> forms.DateField:
    return forms.DateField(label=label, widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}), help_text=help_text)


class ReportForm(forms.Form):
    tenant = forms.ModelChoiceField(
        queryset=Tenant.objects.order_by("name"),
        required=False,
        empty_label="any",
        widget=UnfoldAdminSelectWidget,
    )
    end_user = forms.CharField(
        label="End user",
        max_length=256,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="The whole id by which callers name the person; empty: everybody of the tenant.",
    )
    first = _day("First day")
    last = _day("Last day")

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or {}
        if not given.get("tenant") and not given.get("end_user"):
            raise forms.ValidationError("Choose a tenant, or name an end user.")
        first, last = given.get("first"), given.get("last")
        if first and last and last < first:
            self.add_error("last", "The last day is before the first.")
        return given


def urls(model_admin: Any) -> list[Any]:
    """Return the route of the page on which a report is asked for."""
    view = model_admin.admin_site.admin_view(partial(_page, model_admin=model_admin))
    return [path("report/", view, name="chatgateway_conversation_report")]


def _page(request: HttpRequest, *, model_admin: Any) -> HttpResponseBase:
    may_see = request.user.has_perm("chatgateway.view_turn")
    if not may_see or not request.user.has_perm(selection.EXPORT_PERMISSION):
        raise PermissionDenied
    form = ReportForm(request.POST) if request.method == "POST" else ReportForm(initial=_initial(request))
    if form.is_bound and form.is_valid():
        return _file(request, **form.cleaned_data)
    zone = timezone.get_current_timezone_name()
    context = {
        **model_admin.admin_site.each_context(request),
        "title": "Report",
        "opts": model_admin.opts,
        "form": form,
        "about": f"{_ABOUT} Days and times are those of {zone}.",
        "facts": []
        if readings.may_read(request)
        else [("Texts", "left out: reading them takes the permission of the role auditor")],
        "submit": "Make the report",
        "cancel_url": reverse("admin:chatgateway_conversation_changelist"),
    }
    return TemplateResponse(request, "profiles/admin/confirm.html", context)


def _initial(request: HttpRequest) -> dict[str, Any]:
    today = timezone.localdate()
    return {
        "tenant": request.GET.get("tenant"),
        "end_user": request.GET.get("end_user", ""),
        "first": (today - dt.timedelta(days=_DAYS - 1)).isoformat(),
        "last": today.isoformat(),
    }


def _file(
    request: HttpRequest, *, tenant: Tenant | None, end_user: str, first: dt.date, last: dt.date
) -> HttpResponseBase:
    may_read = readings.may_read(request)
    turns = _turns(tenant, end_user, first, last)
    chosen = ChosenTurns(turns.order_by("conversation__created_at", "conversation", "arrival", "opened_at"))
    who = [f"tenant {tenant.name}"] if tenant is not None else []
    told = [*who, f"end user {exports.end_user_told(end_user)}"] if end_user else who
    texts = "with texts" if may_read else "figures only"
    readings.note(
        request,
        readings.What.EXPORT,
        turns=chosen.count if may_read else 0,
        selection=f"report, {texts}: {', '.join(told)}, {first} to {last}",
    )
    parts = selection.by_tenant(turns)
    head = {
        "who": [*who, *([f"end user {end_user}"] if end_user else [])],
        "first": first.isoformat(),
        "last": last.isoformat(),
        "zone": timezone.get_current_timezone_name(),
        "made": moment(timezone.now()),
        "by": request.user.get_username(),
        "totals": selection.together(parts),
        "tenants": parts if len(parts) > 1 else [],
        "tool_calls": Event.objects.filter(turn__in=turns.order_by().values("pk"), kind="ActionEvent").count(),
        "note": "" if may_read else exported_turns.NOT_PERMITTED,
    }
    made_of = partial(_pieces, head=head, may_read=may_read)
    response = streamed(chosen, made_of, zone=viewer.zone_of(request), content_type="text/html; charset=utf-8")
    name = f"report-{slugify(tenant.name if tenant else 'end-user') or 'tenant'}-{first}-{last}.html"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _turns(tenant: Tenant | None, end_user: str, first: dt.date, last: dt.date) -> QuerySet[Turn]:
    """The turns that began on those days; of a person also unnamed ones of conversations that were begun for it."""
    turns = Turn.objects.filter(opened_at__gte=begin_of(first), opened_at__lt=begin_of(last + dt.timedelta(days=1)))
    if tenant is not None:
        turns = turns.filter(tenant=tenant)
    if end_user:
        turns = turns.filter(Q(end_user=end_user) | Q(end_user="", conversation__end_user=end_user))
    return turns


def _pieces(chosen: ChosenTurns, *, head: dict[str, Any], may_read: bool) -> Iterator[str]:
    style = _style()
    yield render_to_string(
        "chatgateway/report/head.html", {**head, "style": style, "style_hash": _hash_of(style), "count": chosen.count}
    )
    at: UUID | None = None
    number = 0
    for batch in chosen.batches(with_events=may_read):
        pieces = []
        for turn, events in batch:
            if turn.conversation_id != at or not number:
                number += 1
                at = turn.conversation_id
                pieces.append(render_to_string("chatgateway/report/conversation.html", {"turn": turn, "n": number}))
            told = report_turns.told(turn, events, may_read=may_read)
            pieces.append(render_to_string("chatgateway/report/turn.html", {"turn": told}))
        yield "".join(pieces)
    yield render_to_string("chatgateway/report/tail.html", {"count": chosen.count})


@cache
def _style() -> str:
    return render_to_string("chatgateway/report/style.css")


def _hash_of(text: str) -> str:
    """Return what a Content-Security-Policy calls a style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
