"""Profiles in the admin: the list, the form, and the page that tries one out."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponseRedirect, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import path, reverse
from django.utils import timezone

from profiles import access
from profiles.admin import model_checks
from profiles.admin.profile_doctor import doctor_page
from profiles.admin.profile_form import ProfileForm
from profiles.admin.profile_trial import trial_page
from profiles.admin.recorded import RecordedAdmin
from profiles.admin.secret_fields import secret_formfield
from profiles.admin_theme import (
    Choice,
    ChoiceFilter,
    RelatedFilter,
    column,
    detail_action,
    is_list,
    moment,
    usd,
)
from profiles.fields import EncryptedTextField
from profiles.models import Profile

_FAILED = ("failed", "timed_out", "abandoned")
_ORIGINS = {
    Profile.Source.ADMIN.value: "by hand",
    Profile.Source.API.value: "over REST",
    Profile.Source.ENVIRONMENT.value: "LLM_MODEL",
    Profile.Source.DEMO.value: "demo, no real model",
}
_SOURCES = {
    Profile.Source.ADMIN.value: "default",
    Profile.Source.API.value: "info",
    Profile.Source.ENVIRONMENT.value: "info",
    Profile.Source.DEMO.value: "warning",
}


class FailuresFilter(ChoiceFilter):
    title = "failures in 24 h"
    parameter_name = "failures"
    offers = (Choice("some", "Some", lambda: Q(failures_today__gt=0)),)


class LastTurnFilter(ChoiceFilter):
    title = "last turn"
    parameter_name = "last_turn"
    offers = (
        Choice("24h", "In the last 24 hours", lambda: Q(last_turn_at__gte=timezone.now() - dt.timedelta(hours=24))),
        Choice(
            "unused",
            "None in 30 days",
            lambda: Q(last_turn_at__isnull=True) | Q(last_turn_at__lt=timezone.now() - dt.timedelta(days=30)),
        ),
        Choice("never", "Never", lambda: Q(last_turn_at__isnull=True)),
    )


@admin.register(Profile)
class ProfileAdmin(RecordedAdmin[Profile]):
    """Where an administrator says what callers get."""

    empty_title = "No profile yet"
    empty_text = "A profile is an LLM with its key, tools and limits. Callers name it as their model."
    form = ProfileForm
    list_display = ("model_name", "llm_model", "is_enabled", "made_by", "owner", "agent", "last_turn", "failures")
    list_filter = ("is_enabled", FailuresFilter, LastTurnFilter, "llm_model", "source", ("owner", RelatedFilter))
    list_filter_submit = True
    search_fields = ("slug", "llm_model", "description")
    list_select_related = ("owner",)
    autocomplete_fields = ("owner",)
    readonly_fields = ("known_of_model", "known_of_utility_model")
    actions_detail = ("try_out", "doctor", "turns_of", "retention")
    change_form_before_template = "profiles/admin/profile_notices.html"
    fieldsets = (
        (None, {"fields": ("slug", "description", "is_enabled", "owner")}),
        (
            "The LLM",
            {
                "description": "Whom the agent asks, at every step. Only the model is required, and a key for most "
                "providers. “Test” above tries what was saved with one call and one turn.",
                "fields": ("llm_model", "llm_base_url", "llm_api_key", "known_of_model"),
            },
        ),
        (
            "The agent",
            {
                "description": "What it can do and for how long. An agent's tools and prompts are fixed when its "
                "conversation starts: change them, and a conversation that goes on gets a new agent, which is told "
                "what was said before.",
                "fields": ("tools", "system_prompt", "system_suffix", "max_iterations", "time_limit_seconds"),
            },
        ),
        (
            "Where it works",
            {
                "description": "Only of interest to agents with tools: which machine runs them, and in which "
                "directory on it.",
                "fields": ("allowed_servers", "workspace", "workspace_path", "workspace_template"),
            },
        ),
        (
            "What callers see and may do",
            {
                "description": "The defaults suit chat UIs and SDKs alike. An API key may say otherwise about callers "
                "that go away.",
                "fields": (
                    "thoughts",
                    "activity",
                    "allows_overrides",
                    "client_tools",
                    ("on_disconnect", "disconnect_grace_seconds"),
                    "continues_by_history",
                    "when_busy",
                    "resume_after_server_restart",
                    "accepts_images",
                    "accepts_remote_images",
                ),
            },
        ),
        (
            "Housekeeping calls of chat UIs",
            {
                "description": "Titles, tags, suggestions: small requests that a chat UI makes by itself.",
                "fields": (("answers_housekeeping", "utility_llm_model"), "known_of_utility_model"),
            },
        ),
        (
            "How long it is kept",
            {
                "description": "The record has two clocks: one for texts and steps, one for the turns with their "
                "figures. “Retention” above says how many are due.",
                "fields": (
                    ("conversation_idle_hours", "workspace_keep_days"),
                    ("keep_content_days", "keep_usage_days"),
                ),
            },
        ),
        (
            "Sampling, reasoning and time-outs of the LLM",
            {
                "classes": ("collapse",),
                "description": "Sent with every call of the LLM. Empty fields are left to the provider.",
                "fields": (
                    ("temperature", "top_p"),
                    ("max_output_tokens", "context_window"),
                    "reasoning_effort",
                    ("llm_timeout_seconds", "llm_idle_timeout_seconds"),
                    "llm_retries",
                    "llm_streams",
                    "answer_holdback_chars",
                ),
            },
        ),
        (
            "Prices",
            {
                "classes": ("collapse",),
                "description": "In USD per million tokens. Empty: what LiteLLM's catalogue says. A model without a "
                "price has an unknown cost, never a cost of 0.",
                "fields": (("input_price", "output_price", "cached_input_price"),),
            },
        ),
        (
            "MCP servers and secrets",
            {
                "classes": ("collapse",),
                "description": "For agents with tools: servers that give them more tools, and variables of their "
                "terminal. Stored encrypted; this form never shows them again.",
                "fields": ("mcp_config", "terminal_secrets"),
            },
        ),
    )

    class Media:
        js = ("chatgateway/profile_form.js",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Profile]:
        # The turns belong to the other application; only the relation it made is known here.
        turns: Any = Profile._meta.get_field("turns").related_model
        of_profile = turns.objects.filter(profile=OuterRef("pk")).order_by()
        day = timezone.now() - dt.timedelta(hours=24)
        failed = of_profile.filter(opened_at__gte=day, outcome__in=_FAILED).values("profile")
        rows = super().get_queryset(request)
        if is_list(request):
            rows = rows.defer("llm_api_key", "mcp_config", "terminal_secrets", "system_prompt", "system_suffix")
        return rows.annotate(
            last_turn_at=Subquery(of_profile.order_by("-opened_at").values("opened_at")[:1]),
            failures_today=Coalesce(Subquery(failed.annotate(n=Count("pk")).values("n")), 0),
        )

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("models/", view(self.model_offers), name="profiles_profile_model_offers"),
            path("check/", view(self.live_check), name="profiles_profile_live_check"),
            *super().get_urls(),
        ]

    def model_offers(self, request: HttpRequest) -> JsonResponse:
        self._refuse_who_edits_none(request)
        return model_checks.offers(request)

    def live_check(self, request: HttpRequest) -> JsonResponse:
        self._refuse_who_edits_none(request)
        return model_checks.check(request)

    def _refuse_who_edits_none(self, request: HttpRequest) -> None:
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, EncryptedTextField):
            return secret_formfield(db_field)
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def has_try_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("profiles.try_profile")

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("model id", ordering="slug")
    def model_name(self, profile: Profile) -> str:
        return profile.model_id

    @column("origin", ordering="source", labels=_SOURCES)
    def made_by(self, profile: Profile) -> tuple[str, str]:
        return profile.source, _ORIGINS[profile.source]

    @column("agent")
    def agent(self, profile: Profile) -> str:
        return "has tools" if profile.has_tools else "only answers"

    @column("last turn", ordering="last_turn_at", empty="never")
    def last_turn(self, profile: Profile) -> str | None:
        return moment(profile.last_turn_at) or None  # type: ignore[attr-defined]  # annotated above

    @column("failures, 24 h", ordering="failures_today", labels={"none": "default", "some": "danger"})
    def failures(self, profile: Profile) -> tuple[str, str]:
        count: int = profile.failures_today  # type: ignore[attr-defined]  # annotated above
        return ("some" if count else "none"), str(count)

    @column("What LiteLLM knows of it")
    def known_of_model(self, profile: Profile) -> str:
        return _facts(profile) if profile.pk else "Shown once the profile is saved."

    @column("What LiteLLM knows of it")
    def known_of_utility_model(self, profile: Profile) -> str:
        return _utility_facts(profile)

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: Profile, form: Any, change: bool) -> None:
        checked = form.checked
        if checked is not None:
            obj.catalogue = checked.catalogue or {}
        if not obj.utility_llm_model:
            obj.utility_catalogue = {}
        elif form.checked_utility is not None:
            obj.utility_catalogue = form.checked_utility.catalogue or {}
        super().save_model(request, obj, form, change)
        forget_everything()
        for notice in form.notices:
            messages.warning(request, notice)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if "allowed_servers" in form.cleaned_data:
            form.instance.allowed_servers.set(form.cleaned_data["allowed_servers"])

    def delete_model(self, request: HttpRequest, obj: Profile) -> None:
        super().delete_model(request, obj)
        forget_everything()

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Profile]) -> None:
        super().delete_queryset(request, queryset)
        forget_everything()

    # --- buttons ----------------------------------------------------------------------------------------------------

    @detail_action("Test", path="test", icon="play_arrow", permissions=("try",))
    def try_out(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return trial_page(self, request, object_id)

    @detail_action("Doctor", path="doctor", icon="stethoscope", permissions=("try",))
    def doctor(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return doctor_page(self, request, object_id)

    @detail_action("Its turns", path="turns", icon="forum", permissions=("view",))
    def turns_of(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return HttpResponseRedirect(f"{reverse('admin:chatgateway_turn_changelist')}?profile__id__exact={object_id}")

    @detail_action("Retention", path="retention", icon="auto_delete", permissions=("view",))
    def retention(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return HttpResponseRedirect(reverse("admin:chatgateway_erasure_retention"))


def forget_everything() -> None:
    """Let this process see what an administrator changed: now, and after the commit of the request's transaction."""
    access.forget_all()
    transaction.on_commit(partial(access.forget_all))


def _facts(profile: Profile) -> str:
    """One paragraph: whether the catalogue has the model, what it can, what it costs and who says so."""
    catalogue = profile.catalogue
    if not catalogue:
        return "Nothing yet: LiteLLM could not be asked when the profile was saved. Save it again to ask."
    facts = [f"Provider: {catalogue.get('provider', 'unknown')}."]
    if not catalogue.get("is_known"):
        facts.append("Not in LiteLLM's catalogue, which is normal behind a base URL of your own.")
    if window := profile.window_tokens:
        facts.append(f"Context window: {window:,} tokens.")
    facts.append("Sees images." if profile.sees_images else "Does not see images.")
    facts.append(_price(profile))
    return " ".join(facts)


def _utility_facts(profile: Profile) -> str:
    if not profile.utility_llm_model:
        return "None is set: the profile's own LLM answers them."
    prices = profile.housekeeping_prices()
    if not prices:
        return "Price: unknown, so housekeeping calls are recorded without a cost."
    return f"USD per million tokens, by LiteLLM's catalogue: {_listed(prices)}."


def _price(profile: Profile) -> str:
    prices = profile.prices()
    if not prices:
        return "Price: unknown, so turns are recorded without a cost. Enter one under Prices."
    by = "LiteLLM's catalogue"
    if profile.input_price is not None and profile.output_price is not None:
        by = "this form"
    elif profile.input_price is not None or profile.output_price is not None:
        by = "this form and LiteLLM's catalogue"
    return f"USD per million tokens, by {by}: {_listed(prices)}."


def _listed(prices: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {usd(Decimal(price))}" for name, price in prices.items())
