"""Tenants and failed authentications in the admin."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db import models
from django.db.models import Count, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from profiles import ceilings
from profiles.admin import ceiling_bars
from profiles.admin.profile_pages import forget_everything
from profiles.admin.recorded import RecordedAdmin
from profiles.admin_theme import ReadOnlyAdmin, column, detail_action, moment
from profiles.models import ApiKey, ApiKeySecret, FailedAuthentication, Profile, Tenant


@admin.register(Tenant)
class TenantAdmin(RecordedAdmin[Tenant]):
    """Whom traffic is for. One with keys or conversations stays: they are its record."""

    empty_title = "No tenant yet"
    empty_text = "A tenant is whom traffic is for: a customer, a team, a person. Keys and conversations belong to one."
    list_display = ("name", "keys", "own_profiles", "conversations_count", "made")
    search_fields = ("name",)
    readonly_fields = ("used_of_ceilings",)
    actions = None
    actions_detail = ["report"]
    add_fieldsets = (
        (None, {"fields": ("name", "notes")}),
        ("Ceilings of all its keys together", {"fields": ceilings.COLUMNS}),
    )
    fieldsets = (
        (None, {"fields": ("name", "notes")}),
        ("Ceilings of all its keys together", {"fields": ("used_of_ceilings", *ceilings.COLUMNS)}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.add_fieldsets if obj is None else self.fieldsets

    @column("Used")
    def used_of_ceilings(self, tenant: Tenant) -> str:
        return ceiling_bars.rendered(tenant)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Tenant]:
        conversations: Any = Tenant._meta.get_field("conversations").related_model
        return (
            super()
            .get_queryset(request)
            .annotate(
                n_keys=_count(ApiKey.objects.filter(revoked_at__isnull=True), "tenant"),
                n_profiles=_count(Profile.objects.all(), "owner"),
                n_conversations=_count(conversations.objects.all(), "tenant"),
            )
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_in_use = isinstance(obj, Tenant) and (obj.api_keys.exists() or obj.conversations.exists())
        return super().has_delete_permission(request, obj) and not is_in_use

    def has_report_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("chatgateway.export_turn")

    @detail_action("Report", path="report", icon="summarize", permissions=("report",))
    def report(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """What agents did for the tenant, as a file."""
        query = urlencode({"tenant": unquote(object_id)})
        return HttpResponseRedirect(f"{reverse('admin:chatgateway_conversation_report')}?{query}")

    @column("keys", ordering="n_keys")
    def keys(self, tenant: Tenant) -> int:
        return tenant.n_keys  # type: ignore[attr-defined, no-any-return]  # annotated above

    @column("profiles of its own", ordering="n_profiles")
    def own_profiles(self, tenant: Tenant) -> int:
        return tenant.n_profiles  # type: ignore[attr-defined, no-any-return]

    @column("conversations", ordering="n_conversations")
    def conversations_count(self, tenant: Tenant) -> int:
        return tenant.n_conversations  # type: ignore[attr-defined, no-any-return]

    @column("since", ordering="created_at")
    def made(self, tenant: Tenant) -> str:
        return moment(tenant.created_at)

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        forget_everything()  # callers are remembered with their tenant's name

    def delete_model(self, request: HttpRequest, obj: Tenant) -> None:
        super().delete_model(request, obj)
        forget_everything()


@admin.register(FailedAuthentication)
class FailedAuthenticationAdmin(ReadOnlyAdmin[FailedAuthentication]):
    """Who tried keys that are none: counted per minute, address and prefix."""

    empty_title = "Nobody was turned away"
    empty_text = "Requests with a wrong, revoked or unknown key are counted here, per minute, address and key prefix."
    list_display = ("at", "address", "sent_prefix", "of_key", "count")
    list_display_links = None
    list_filter = ("minute",)
    search_fields = ("address", "prefix")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[FailedAuthentication]:
        of_prefix = ApiKeySecret.objects.filter(prefix=OuterRef("prefix"))
        return super().get_queryset(request).annotate(key_name=Subquery(of_prefix.values("api_key__name")[:1]))

    @column("minute", ordering="minute")
    def at(self, row: FailedAuthentication) -> str:
        return moment(row.minute)

    @column("prefix sent", ordering="prefix", empty="no key of ours")
    def sent_prefix(self, row: FailedAuthentication) -> str | None:
        return row.prefix or None

    @column("of the key", empty="unknown")
    def of_key(self, row: FailedAuthentication) -> str | None:
        return row.key_name or None  # type: ignore[attr-defined]  # annotated above


def _count(rows: models.QuerySet[Any], name: str) -> Coalesce:
    """Count the rows of a relation in a query of its own: joining two relations would multiply them."""
    counted = rows.filter(**{name: OuterRef("pk")}).order_by().values(name).annotate(n=Count("pk"))
    return Coalesce(Subquery(counted.values("n")), 0)
