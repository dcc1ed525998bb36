"""API keys in the admin: the list, the form, and the secret that is shown once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Prefetch, Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from profiles import ceilings, changes, issuing
from profiles.admin import ceiling_bars, key_usage, snippets
from profiles.admin.key_forms import KeyForm, RevokeForm, RotateForm
from profiles.admin.profile_pages import forget_everything
from profiles.admin.recorded import RecordedAdmin, who
from profiles.admin_theme import Choice, ChoiceFilter, RelatedFilter, column, detail_action, moment
from profiles.exceptions import InvalidKey
from profiles.models import ApiKey, ApiKeySecret, Profile

_NO_MODEL = "openhands_NAME"
_STATES = {"live": "success", "expired": "warning", "revoked": "danger"}


class StateFilter(admin.SimpleListFilter):
    """Live keys unless asked otherwise: the others only pile up."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("expired", "Expired"), ("revoked", "Revoked"), ("any", "Any")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {
            "selected": self.value() is None,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
            "display": "Live",
        }
        for value, title in self.lookup_choices:
            yield {
                "selected": self.value() == str(value),
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": title,
            }

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[ApiKey]) -> models.QuerySet[ApiKey]:
        now = timezone.now()
        match self.value():
            case "revoked":
                return queryset.filter(revoked_at__isnull=False)
            case "expired":
                return queryset.filter(revoked_at__isnull=True, expires_at__lte=now)
            case "any":
                return queryset
            case _:
                unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
                return queryset.filter(unexpired, revoked_at__isnull=True)


class LastUsedFilter(ChoiceFilter):
    title = "last used"
    parameter_name = "used"
    offers = (
        Choice("24h", "In the last 24 hours", lambda: Q(last_used_at__gte=timezone.now() - dt.timedelta(hours=24))),
        Choice(
            "unused",
            "Not in 30 days",
            lambda: Q(last_used_at__isnull=True) | Q(last_used_at__lt=timezone.now() - dt.timedelta(days=30)),
        ),
        Choice("never", "Never", lambda: Q(last_used_at__isnull=True)),
    )


class ExpiryFilter(ChoiceFilter):
    title = "expiry"
    parameter_name = "expires"
    offers = (
        Choice("7d", "Within 7 days", lambda: Q(expires_at__lte=timezone.now() + dt.timedelta(days=7))),
        Choice("30d", "Within 30 days", lambda: Q(expires_at__lte=timezone.now() + dt.timedelta(days=30))),
        Choice("never", "Never", lambda: Q(expires_at__isnull=True)),
    )


@admin.register(ApiKey)
class ApiKeyAdmin(RecordedAdmin[ApiKey]):
    """Keys are written through `issuing` only; a revoked one can be read and deleted, not changed."""

    empty_title = "No live key"
    empty_text = "Callers need one. Its secret is shown once, with a curl command to try it."
    form = KeyForm
    list_display = ("name", "prefixes", "tenant", "scopes", "profiles_allowed", "last_used", "expires", "state")
    list_filter = (
        StateFilter,
        LastUsedFilter,
        ExpiryFilter,
        ("tenant", RelatedFilter),
        "can_chat",
        "can_manage",
        "is_global",
    )
    list_filter_submit = True
    search_fields = ("name", "secrets__prefix", "tenant__name")
    search_help_text = "Name, tenant, or the prefix of a key: the 8 characters after gw-."
    list_select_related = ("tenant",)
    autocomplete_fields = ("tenant", "allowed_profiles")
    readonly_fields = ("its_secrets", "used", "state_told", "used_of_ceilings", "usage")
    actions = None
    actions_detail = ("how_to_use", "rotate", "revoke", "turns_of")
    _limits = (
        ("What it may do", {"fields": ("can_chat", "can_manage", "is_global")}),
        ("Which profiles", {"fields": ("allows_all_profiles", "allowed_profiles")}),
        ("Conversations", {"fields": ("used_by_one_person", "only_own_conversations", "on_disconnect")}),
        ("Requests", {"fields": ("refuses_ignored",)}),
    )
    add_fieldsets = (
        (None, {"fields": ("tenant", "name", "expires_at", "notes")}),
        *_limits,
        ("Ceilings", {"fields": ceilings.COLUMNS}),
    )
    fieldsets = (  # type: ignore[assignment]  # a tuple of more shapes than the stubs foresee
        (None, {"fields": ("tenant", "name", "state_told", "its_secrets", "used", "expires_at", "notes")}),
        ("Use and cost", {"fields": ("usage",)}),
        *_limits,
        ("Ceilings", {"fields": ("used_of_ceilings", *ceilings.COLUMNS)}),
    )

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ApiKey]:
        allowed = Prefetch("allowed_profiles", Profile.objects.only("slug"))
        return super().get_queryset(request).prefetch_related("secrets", allowed)

    # --- who may do what --------------------------------------------------------------------------------------------

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_revoked = isinstance(obj, ApiKey) and obj.revoked_at is not None
        return super().has_change_permission(request) and not is_revoked

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A live key is revoked, not deleted: who uses it gets told, and its name stays with its turns."""
        is_dead = isinstance(obj, ApiKey) and obj.revoked_at is not None
        return super().has_delete_permission(request) and is_dead

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("key", empty="no live secret")
    def prefixes(self, key: ApiKey) -> str | None:
        return ", ".join(str(secret) for secret in _live(key)) or None

    @column("may")
    def scopes(self, key: ApiKey) -> str:
        manages = "manage every tenant" if key.is_global else "manage"
        return ", ".join(filter(None, ["chat" if key.can_chat else "", manages if key.can_manage else ""]))

    @column("profiles")
    def profiles_allowed(self, key: ApiKey) -> str:
        if key.allows_all_profiles:
            return "all"
        names = [profile.slug for profile in key.allowed_profiles.all()]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"

    @column("last used", ordering="last_used_at", empty="never")
    def last_used(self, key: ApiKey) -> str | None:
        return moment(key.last_used_at) or None

    @column("expires", ordering="expires_at", empty="never")
    def expires(self, key: ApiKey) -> str | None:
        return moment(key.expires_at) or None

    @column("state", labels=_STATES)
    def state(self, key: ApiKey) -> tuple[str, str]:
        state = _state(key)
        return state, state

    @column("State")
    def state_told(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return f"Revoked {moment(key.revoked_at)}: {key.revoked_reason}"
        return _state(key).capitalize()

    @column("Secrets")
    def its_secrets(self, key: ApiKey) -> str:
        told = [
            f"{secret}, made {moment(secret.created_at)}"
            + (f", ends {moment(secret.expires_at)}" if secret.expires_at else "")
            for secret in _live(key)
        ]
        return "\n".join(told) or "None that works. Rotate the key to make one."

    @column("Last used")
    def used(self, key: ApiKey) -> str:
        if key.last_used_at is None:
            return "Never"
        by = f" by {key.last_used_client}" if key.last_used_client else ""
        return f"{moment(key.last_used_at)}{by}"

    @column("Used")
    def used_of_ceilings(self, key: ApiKey) -> str:
        return ceiling_bars.rendered(key)

    @column("The last 30 days")
    def usage(self, key: ApiKey) -> str:
        return key_usage.rendered(key)

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            issuing.save_key(obj)
            return
        columns = ["tenant", "name", "can_chat", "can_manage", "is_global", "only_own_conversations"]
        columns += ["used_by_one_person", "on_disconnect", "refuses_ignored", "expires_at", "notes", *ceilings.COLUMNS]
        made, text = issuing.create_key(
            **{name: form.cleaned_data[name] for name in columns}, profiles=form.chosen_profiles
        )
        obj.pk = made.pk
        obj._state.adding = False
        request._gw_made_secret = text  # type: ignore[attr-defined]  # for response_add, of this very request

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        if change:
            issuing.allow_profiles(form.instance, form.chosen_profiles)
        forget_everything()

    def delete_model(self, request: HttpRequest, obj: ApiKey) -> None:
        super().delete_model(request, obj)
        forget_everything()

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        # After a new key comes the page with its secret, whichever button was pressed; so there is one.
        only_save = {"show_save_and_add_another": False, "show_save_and_continue": object_id is not None}
        return super().changeform_view(request, object_id, form_url, {**only_save, **(extra_context or {})})

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        text: str = request._gw_made_secret  # type: ignore[attr-defined]  # set by save_model
        return self._reveal(request, obj, text, f"The key “{obj.name}” was made")

    # --- buttons ----------------------------------------------------------------------------------------------------

    @detail_action("How to use it", path="use", icon="code", permissions=("view",))
    def how_to_use(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        key = self.get_object(request, unquote(object_id))
        if key is None:
            raise Http404
        models_of_key = [profile.model_id for profile in snippets.usable_profiles(key)] if key.can_chat else []
        asked = request.GET.get("model")
        model_id = asked if asked in models_of_key else next(iter(models_of_key), _NO_MODEL)
        context = {
            **self.admin_site.each_context(request),
            "title": f"How to use “{key.name}”",
            "opts": self.opts,
            "key": key,
            "prefixes": ", ".join(str(secret) for secret in _live(key)),
            "base_url": snippets.base_url(),
            "models": models_of_key,
            "model_id": model_id,
            "variable": snippets.VARIABLE,
            "snippets": snippets.snippets(key, model_id=model_id),
        }
        return TemplateResponse(request, "profiles/admin/key_snippets.html", context)

    @detail_action("Rotate", path="rotate", icon="autorenew")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        key = self._key_to_change(request, object_id)
        live = _live(key)
        oldest = live[0] if len(live) >= issuing.LIVE_SECRETS else None
        form = RotateForm(request.POST or None, oldest=oldest)
        if request.method == "POST" and form.is_valid():
            now = timezone.now()
            try:
                with changes.recorded(key, by=who(request), note="Rotated"):
                    if oldest is not None:
                        issuing.expire_secret(oldest, at=now)
                    text = issuing.add_secret(key, old_expire_at=now + dt.timedelta(hours=form.cleaned_data["hours"]))
            except InvalidKey as error:
                form.add_error(None, error.message)
            else:
                return self._reveal(request, key, text, f"The key “{key.name}” has a new secret")
        return self._form_page(
            request,
            key,
            form,
            title=f"Rotate “{key.name}”",
            about="Makes a second secret for the same key. Its history, limits and figures stay; whoever uses it "
            "changes over while the present secret still works.",
            submit="Make a new secret",
        )

    @detail_action("Revoke", path="revoke", icon="block")
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        key = self._key_to_change(request, object_id)
        form = RevokeForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            with changes.recorded(key, by=who(request), note="Revoked"):
                issuing.revoke(key, reason=form.cleaned_data["reason"])
            messages.success(
                request, f"“{key.name}” is revoked. Every process refuses it and stops its turns within 5 seconds."
            )
            return HttpResponseRedirect(reverse("admin:profiles_apikey_changelist"))
        running = key.turns.filter(outcome="open").count()
        return self._form_page(
            request,
            key,
            form,
            title=f"Revoke “{key.name}”",
            about=f"Whoever uses it is refused from now on, and its open turns ({running} at the moment) are stopped "
            "within seconds. This cannot be undone: to let them in again, make a new key. The record of its turns and "
            "conversations stays.",
            submit="Revoke the key",
            is_danger=True,
        )

    @detail_action("Its turns", path="turns", icon="forum", permissions=("view",))
    def turns_of(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return HttpResponseRedirect(f"{reverse('admin:chatgateway_turn_changelist')}?api_key__id__exact={object_id}")

    # --- pages ------------------------------------------------------------------------------------------------------

    def _key_to_change(self, request: HttpRequest, object_id: str) -> ApiKey:
        key = self.get_object(request, unquote(object_id))
        if key is None:
            raise Http404
        if not self.has_change_permission(request, key):
            raise PermissionDenied("The key was revoked.")
        return key

    def _reveal(self, request: HttpRequest, key: ApiKey, text: str, title: str) -> HttpResponse:
        """The one page that holds a secret: never in a URL, a message, a session or a cache."""
        profile = snippets.usable_profiles(key).first()
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "key": key,
            "secret": text,
            "has_profile": profile is not None,
            "snippets": snippets.snippets(key, model_id=profile.model_id if profile else _NO_MODEL, secret=text),
        }
        response = TemplateResponse(request, "profiles/admin/key_secret.html", context)
        response["Cache-Control"] = "no-store, private"
        response["Referrer-Policy"] = "no-referrer"
        return response

    def _form_page(
        self, request: HttpRequest, key: ApiKey, form: Any, *, title: str, about: str, submit: str, **more: Any
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "key": key,
            "form": form,
            "about": about,
            "submit": submit,
            "cancel_url": reverse("admin:profiles_apikey_change", args=[key.pk]),
            **more,
        }
        return TemplateResponse(request, "profiles/admin/confirm.html", context)


def _live(key: ApiKey) -> list[ApiKeySecret]:
    """Return the key's live secrets, oldest first, from what was prefetched."""
    now = timezone.now()
    return [secret for secret in key.secrets.all() if secret.expires_at is None or secret.expires_at > now]


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= timezone.now() else "live"
