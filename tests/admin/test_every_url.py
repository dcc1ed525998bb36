"""Every URL of the admin, found by asking Django: it answers, and no secret is in what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin as django_admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.db import models
from django.test import Client
from django.urls import URLPattern, URLResolver, reverse

from profiles.models import ApiKey, ApiKeySecret, Profile
from tests import factories
from tests.admin.test_pages import history

pytestmark = pytest.mark.django_db

PLANTED = {
    "llm_api_key": "planted-provider-key",
    "mcp_config": '{"mcpServers": {"docs": {"url": "https://x.example", "headers": {"a": "planted-mcp-token"}}}}',
    "terminal_secrets": '{"TOKEN": "planted-terminal-secret"}',
}


def names_of(patterns: list[URLPattern | URLResolver]) -> Iterator[tuple[str, set[str]]]:
    """The name and the arguments of each pattern."""
    for pattern in patterns:
        if isinstance(pattern, URLPattern) and pattern.name:
            yield pattern.name, set(pattern.pattern.converters)


def urls_of(model_admin: django_admin.ModelAdmin[models.Model]) -> Iterator[str]:
    """The URLs of one model's pages, those of an object with the newest row."""
    row = model_admin.model._default_manager.order_by("pk").last()
    assert row is not None, f"no {model_admin.model._meta.label} was made"
    values = {"object_id": row.pk, "turn_id": row.pk, "request_id": "req_0", "id": row.pk}
    for name, arguments in names_of(model_admin.urls):
        yield reverse(f"admin:{name}", kwargs={argument: values[argument] for argument in arguments})


def site_urls() -> list[str]:
    # These need a query of their own or end the session.
    left_out = {"autocomplete", "logout", "view_on_site", "app_list"}
    own = {name for name, arguments in names_of(django_admin.site.get_urls()) if not arguments} - left_out
    found = [reverse(f"admin:{name}") for name in sorted(own)]
    for model_admin in django_admin.site._registry.values():
        found += urls_of(model_admin)
    return found


def text_of(answer: Any) -> str:
    """Empty for what is streamed: it has tests of its own."""
    return getattr(answer, "content", b"").decode()


def test_every_page_answers_without_a_secret(admin: Client) -> None:
    history(1)
    factories.profile(**PLANTED)
    factories.agent_server(session_api_key="planted-session-key")
    key = factories.api_key()
    LogEntry.objects.log_actions(User.objects.get().pk, Profile.objects.all(), 2, "changed")
    Group.objects.create(name="readers")
    secrets = {
        "planted-", key.text, ApiKeySecret.objects.get(api_key=key.row).digest, settings.SECRET_KEY,
        settings.GATEWAY_API_KEY_PEPPER, *settings.GATEWAY_ENCRYPTION_KEYS,
    }  # fmt: skip
    assert ApiKey.objects.count() == 2

    answers = {url: admin.get(url) for url in site_urls()}

    assert len(answers) > 60
    assert {url: answer.status_code for url, answer in answers.items() if answer.status_code >= 500} == {}
    leaks = [(url, s) for url, answer in answers.items() for s in secrets if s in text_of(answer)]
    assert leaks == []


def test_nobody_who_has_not_signed_in_sees_any_of_them(admin: Client) -> None:
    history(1)
    factories.profile()
    Group.objects.create(name="readers")
    open_to_all = {reverse("admin:login")}

    answers = {url: Client().get(url).status_code for url in site_urls()}

    assert {url for url, status in answers.items() if status == 200} == open_to_all
