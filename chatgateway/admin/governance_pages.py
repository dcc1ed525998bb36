"""Who read what, how long the record is kept, and the deletion of one end user's data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from chatgateway import erasures, retention
from chatgateway.models import Erasure, TranscriptReading
from profiles.admin_theme import ReadOnlyAdmin, column, moment
from profiles.models import Profile, Tenant


@admin.register(TranscriptReading)
class TranscriptReadingAdmin(ReadOnlyAdmin[TranscriptReading]):
    """Every time somebody read texts of callers and agents."""

    empty_title = "Nobody has read a transcript yet"
    empty_text = "Opening a turn, a conversation or a raw record, and exporting any, leaves a row here."
    list_display = ("when", "username", "what_told", "tenant_told", "of", "turns", "address")
    list_display_links = None
    list_filter = ("what", "at")
    list_filter_submit = True
    search_fields = ("=username", "=tenant_name")
    search_help_text = "Name of who read, or tenant"
    list_per_page = 50
    ordering = ("-at",)
    fields = ("when", "username", "address", "what_told", "tenant_told", "of", "turns", "selection")

    @column("time", ordering="at")
    def when(self, row: TranscriptReading) -> str:
        return moment(row.at, seconds=True)

    @column("read", ordering="what")
    def what_told(self, row: TranscriptReading) -> str:
        return row.get_what_display()

    @column("tenant", ordering="tenant_name", empty="several")
    def tenant_told(self, row: TranscriptReading) -> str | None:
        return row.tenant_name or None

    @column("of")
    def of(self, row: TranscriptReading) -> str:
        """What was read, with a link to it where it is still there."""
        if row.turn_id is not None:
            return _linked("turn", row.turn_id)
        if row.conversation_id is not None:
            return _linked("conversation", row.conversation_id)
        return row.selection or "what has been deleted since"

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[TranscriptReading]:
        return super().get_queryset(request)


def _linked(what: str, pk: object) -> SafeString:
    url = reverse(f"admin:chatgateway_{what}_change", args=[pk])
    return format_html('<a class="gw-link" href="{}">{} {}</a>', url, what, pk)


class ErasureForm(forms.Form):
    tenant = forms.ModelChoiceField(queryset=Tenant.objects.order_by("name"), widget=UnfoldAdminSelectWidget)
    end_user = forms.CharField(
        label="End user",
        max_length=256,
        strip=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="The id by which callers name the person, exactly: the request's “user”, or what their client sends.",
    )


@admin.register(Erasure)
class ErasureAdmin(ReadOnlyAdmin[Erasure]):
    """Deletions that were asked for, and the pages on which they are asked for and retention is looked at."""

    empty_title = "No deletion was asked for"
    empty_text = (
        "When a person asks for it, everything that they said and were told can be removed from the record and from "
        "the agent-servers. Figures stay, without the person."
    )
    list_display = ("asked", "tenant_name", "who_told", "asked_by", "state", "turns", "conversations")
    list_display_links = None
    search_fields = ("=tenant_name",)
    search_help_text = "The id of an end user, or a tenant"
    ordering = ("-asked_at",)
    fields = ("asked", "tenant_name", "who_told", "asked_by", "state_told", "turns", "conversations")

    # --- who may do what --------------------------------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("chatgateway.add_erasure")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [path("retention/", view(self.retention), name="chatgateway_erasure_retention"), *super().get_urls()]

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Erasure], search_term: str
    ) -> tuple[models.QuerySet[Erasure], bool]:
        of_person = queryset.filter(end_user_digest=erasures.digest_of(search_term))
        if search_term and of_person.exists():
            return of_person, False
        return super().get_search_results(request, queryset, search_term)

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("asked for", ordering="asked_at")
    def asked(self, row: Erasure) -> str:
        return moment(row.asked_at, seconds=True)

    @column("end user")
    def who_told(self, row: Erasure) -> str:
        return row.end_user or f"erased (digest {row.end_user_digest[:12]}…)"

    @column("state", labels={"done": "success", "waiting": "info"})
    def state(self, row: Erasure) -> tuple[str, str]:
        if row.done_at is None:
            return "waiting", "under way"
        return "done", f"done {moment(row.done_at)}"

    @column("state")
    def state_told(self, row: Erasure) -> str:
        return self.state(row)[1]

    # --- asking for one ---------------------------------------------------------------------------------------------

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Ask for whom; then say how much that is, and ask again; then write it down for the worker."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = ErasureForm(request.POST or None)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": "Delete an end user's data",
            "opts": self.opts,
            "form": form,
            "about": "Removes from the record everything that one person said and was told, with the steps of the "
            "agents, and has the agent-servers delete the conversations and their directories. Turns keep their times, "
            "tokens and cost, without the person.",
            "submit": "Show what there is",
            "cancel_url": reverse("admin:chatgateway_erasure_changelist"),
        }
        if request.method == "POST" and form.is_valid():
            tenant, end_user = form.cleaned_data["tenant"], form.cleaned_data["end_user"]
            if "confirmed" in request.POST:
                return self._ask(request, tenant, end_user)
            found = erasures.found(tenant, end_user)
            if found.turns or found.conversations:
                context |= {
                    "title": f"Delete the data of “{end_user}” of {tenant.name}?",
                    "about": "This cannot be undone. Open turns are stopped. It takes about a minute.",
                    "facts": [
                        ("Turns whose texts and steps go", f"{found.turns:,}"),
                        ("Of them open at the moment", f"{found.open_turns:,}"),
                        ("Conversations that end, on their agent-servers too", f"{found.conversations:,}"),
                    ],
                    "submit": "Delete it all",
                    "is_danger": True,
                    "confirms": True,
                }
            else:
                form.add_error("end_user", f"There is nothing of “{end_user}” in the record of {tenant.name}.")
        return TemplateResponse(request, "profiles/admin/confirm.html", context)

    def _ask(self, request: HttpRequest, tenant: Tenant, end_user: str) -> HttpResponse:
        erasures.ask(tenant=tenant, end_user=end_user, by=request.user.get_username())
        messages.success(request, "A background task deletes it now; this list says when it is done.")
        return HttpResponseRedirect(reverse("admin:chatgateway_erasure_changelist"))

    # --- retention --------------------------------------------------------------------------------------------------

    def retention(self, request: HttpRequest) -> HttpResponse:
        """How long each profile's turns are kept, and how many are due: counted, not removed."""
        if not request.user.has_perm("chatgateway.view_turn"):
            raise PermissionDenied
        form = TrialOfRetention(request.GET or None)
        tried = None
        if form.is_bound and form.is_valid():
            asked = form.cleaned_data
            policy = replace(
                retention.policy_of(asked["profile"]),
                content_days=asked["texts"] or None,
                usage_days=asked["turns"] or None,
            )
            tried = (asked["profile"], retention.due(asked["profile"], policy))
        rows = []
        for profile in [*Profile.objects.order_by("slug"), None]:
            policy = retention.policy_of(profile)
            url = reverse("admin:profiles_profile_change", args=[profile.pk]) if profile is not None else ""
            rows.append((profile, url, policy, retention.due(profile, policy)))
        context = {
            **self.admin_site.each_context(request),
            "title": "Retention",
            "opts": self.opts,
            "rows": rows,
            "form": form,
            "tried": tried,
        }
        return TemplateResponse(request, "chatgateway/admin/retention.html", context)


class TrialOfRetention(forms.Form):
    profile = forms.ModelChoiceField(
        queryset=Profile.objects.order_by("slug"), required=False, empty_label="turns without a profile",
        widget=UnfoldAdminSelectWidget,
    )  # fmt: skip
    texts = forms.IntegerField(
        label="Days texts are kept", min_value=0, max_value=36_500, initial=30, widget=UnfoldAdminTextInputWidget,
        help_text="0: for ever.",
    )  # fmt: skip
    turns = forms.IntegerField(
        label="Days turns are kept", min_value=0, max_value=36_500, initial=365, widget=UnfoldAdminTextInputWidget,
        help_text="0: for ever.",
    )  # fmt: skip
