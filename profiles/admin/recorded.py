"""Pages whose changes are written down in `ChangeRecord` rows, and the page on which those are read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from profiles import changes
from profiles.admin_theme import ModelAdmin, ReadOnlyAdmin, column, moment
from profiles.authentication import address_of
from profiles.models import ChangeRecord

M = TypeVar("M", bound=models.Model)

_ACTIONS = {
    ChangeRecord.Action.ADDED.value: "success",
    ChangeRecord.Action.CHANGED.value: "info",
    ChangeRecord.Action.DELETED.value: "danger",
}
_KINDS = {
    "profiles.tenant": "tenant",
    "profiles.apikey": "API key",
    "profiles.profile": "profile",
    "chatgateway.agentserver": "agent-server",
    "auth.user": "user",
    "auth.group": "group",
}
_NAMES_SHOWN = 4


def who(request: HttpRequest) -> changes.Actor:
    """The person behind a request to the admin, for the record."""
    user = request.user
    assert user.is_authenticated
    return changes.person(user, address=address_of(request))


class RecordedAdmin(ModelAdmin[M]):
    """A page whose every addition, change and deletion is recorded with what was before and after.

    Takes the place of Django's own log, which knows neither. Django calls these methods in the transaction that
    writes; a button that writes by itself does so within `changes.recorded`.
    """

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> M | None:
        row = super().get_object(request, object_id, from_field)
        if row is not None and request.method == "POST":
            request._gw_before = changes.stored_state(row)  # type: ignore[attr-defined]  # for log_change
        return row

    def log_addition(self, request: HttpRequest, obj: M, message: Any) -> Any:
        changes.added(obj, by=who(request))

    def log_change(self, request: HttpRequest, obj: M, message: Any) -> Any:
        before: changes.State = request._gw_before  # type: ignore[attr-defined]  # set by get_object
        changes.changed(obj, by=who(request), before=before)

    def log_deletions(self, request: HttpRequest, queryset: Iterable[M]) -> Any:
        for row in queryset:
            changes.deleted(row, by=who(request))

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not request.user.has_perm("profiles.view_changerecord"):
            raise PermissionDenied
        query = {"kind__exact": self.opts.label_lower, "object_pk__exact": unquote(object_id)}
        return HttpResponseRedirect(f"{reverse('admin:profiles_changerecord_changelist')}?{urlencode(query)}")


class KindFilter(admin.SimpleListFilter):
    title = "of what"
    parameter_name = "kind__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(_KINDS.items())

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[ChangeRecord]) -> models.QuerySet[ChangeRecord]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(ChangeRecord)
class ChangeAdmin(ReadOnlyAdmin[ChangeRecord]):
    """What was changed, by whom, with before and after."""

    empty_title = "Nothing was changed yet"
    empty_text = (
        "Every change of a tenant, API key, profile, agent-server, user or group, in the admin, over REST or by a "
        "command, leaves a row here with what was before and after. Secrets are masked."
    )
    list_display = ("when", "actor_told", "action_told", "kind_told", "name", "what", "note")
    list_filter = (KindFilter, "action", "by", "at")
    list_filter_submit = True
    search_fields = ("actor", "name", "=object_pk")
    search_help_text = "Name of who changed it, or of what was changed"
    list_per_page = 50
    ordering = ("-at",)

    @column("time", ordering="at")
    def when(self, row: ChangeRecord) -> str:
        return moment(row.at, seconds=True)

    @column("by", ordering="actor")
    def actor_told(self, row: ChangeRecord) -> str:
        return row.actor

    @column("did", ordering="action", labels=_ACTIONS)
    def action_told(self, row: ChangeRecord) -> tuple[str, str]:
        return row.action, row.action

    @column("what", ordering="kind")
    def kind_told(self, row: ChangeRecord) -> str:
        return _KINDS.get(row.kind, row.kind)

    @column("fields", empty="")
    def what(self, row: ChangeRecord) -> str:
        if row.action != ChangeRecord.Action.CHANGED:
            return ""
        names = [name.replace("_", " ") for name in row.fields]
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return ", ".join(names[:_NAMES_SHOWN]) + more

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return HttpResponseRedirect(reverse("admin:profiles_changerecord_changelist"))
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        kind = _KINDS.get(row.kind, row.kind)
        context = {
            **self.admin_site.each_context(request),
            "title": f"{kind[0].upper()}{kind[1:]} “{row.name}” was {row.action}",
            "opts": self.opts,
            "row": row,
            "at": moment(row.at, seconds=True),
            "fields": [(name, _told(pair[0]), _told(pair[1])) for name, pair in row.fields.items()],
            "history_url": f"?kind__exact={row.kind}&object_pk__exact={row.object_pk}",
        }
        return TemplateResponse(request, "profiles/admin/change.html", context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        raise Http404  # nobody changes a record, so there is no history of changes


def _told(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
