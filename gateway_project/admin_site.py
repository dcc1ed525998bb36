"""The admin as a place: its name, its navigation, its first page, and what happens at the first sign-in."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse

from profiles.admin_theme import AdminSite

logger = logging.getLogger(__name__)

# (group, [(title, icon of Material Symbols, app and model)]); a page nobody may see is not offered.
_SECTIONS = (
    (
        "Traffic",
        (
            ("Turns", "forum", "chatgateway.turn"),
            ("Conversations", "chat", "chatgateway.conversation"),
            ("Agent-servers", "dns", "chatgateway.agentserver"),
            ("Background tasks", "schedule", "chatgateway.taskrun"),
        ),
    ),
    (
        "Callers",
        (
            ("Tenants", "apartment", "profiles.tenant"),
            ("API keys", "key", "profiles.apikey"),
            ("Ceilings nearly used up", "warning", "chatgateway.alert"),
            ("Failed authentications", "gpp_bad", "profiles.failedauthentication"),
        ),
    ),
    ("Agents", (("Profiles", "smart_toy", "profiles.profile"),)),
    (
        "Accountability",
        (
            ("Changes", "history", "profiles.changerecord"),
            ("Readings", "visibility", "chatgateway.transcriptreading"),
            ("Deletions", "person_remove", "chatgateway.erasure"),
        ),
    ),
    ("People", (("Users", "person", "auth.user"), ("Groups", "group", "auth.group"))),
)


class GatewayAdminSite(AdminSite):
    index_title = "Overview"
    index_template = "chatgateway/admin/overview.html"

    login_template = "gateway_project/sign_in.html"

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        wanted = request.GET.get(REDIRECT_FIELD_NAME, "")
        offered = {
            "oidc_name": settings.GATEWAY_OIDC_NAME if settings.GATEWAY_OIDC_ISSUER else "",
            "oidc_query": f"?{urlencode({REDIRECT_FIELD_NAME: wanted})}" if wanted else "",
            "password_sign_in": settings.GATEWAY_PASSWORD_SIGN_IN,
        }
        return super().login(request, {**offered, **(extra_context or {})})

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        # The theme would write its colours as an inline style, which our Content-Security-Policy refuses; they
        # stand in chatgateway/admin.css instead.
        return super().each_context(request) | {"colors": {}}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        from chatgateway.admin import overview

        return super().index(request, {"overview": overview.read(request), **(extra_context or {})})

    def get_urls(self) -> list[Any]:
        return [path("overview/now/", self.admin_view(self.overview_now), name="overview_now"), *super().get_urls()]

    def overview_now(self, request: HttpRequest) -> HttpResponse:
        """The part of the overview that keeps itself up to date."""
        from chatgateway.admin import overview

        return overview.live(request)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar: the overview, then the sections above with what this person may see."""
    home = {"title": "Overview", "icon": "monitoring", "link": reverse("admin:index")}
    groups = [{"title": title, "separator": True, "items": _items(request, pages)} for title, pages in _SECTIONS]
    return [{"title": None, "items": [home]}, *(group for group in groups if group["items"])]


def _items(request: HttpRequest, pages: tuple[tuple[str, str, str], ...]) -> list[dict[str, Any]]:
    items = []
    for title, icon, label in pages:
        app, model = label.split(".")
        if request.user.has_perm(f"{app}.view_{model}") or request.user.has_perm(f"{app}.change_{model}"):
            items.append({"title": title, "icon": icon, "link": reverse(f"admin:{app}_{model}_changelist")})
    return items


def remove_first_login(*_: object, user: Any, **__: Any) -> None:
    """Delete the file with the first password and key once an administrator has signed in: it has done its work."""
    if not user.is_staff:
        return
    path = settings.DATA_DIR / "first-login.txt"
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s holds a password and could not be deleted: %s", path, error.strerror)
        return
    logger.info("%s was deleted: an administrator has signed in", path)
