"""API keys in the admin: shown once, rotated with an overlap, revoked for good."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from profiles import access, issuing
from profiles.exceptions import UnknownKey
from profiles.models import ApiKey
from tests import factories
from tests.admin.forms import Response

pytestmark = pytest.mark.django_db


def add(admin: Client, **changed: Any) -> Response:
    sent = {"name": "laptop", "can_chat": "on", "allows_all_profiles": "on", "notes": ""} | changed
    sent.setdefault("tenant", factories.tenant().pk)
    return admin.post(
        reverse("admin:profiles_apikey_add"), {name: value for name, value in sent.items() if value is not None}
    )


def page(name: str, key: ApiKey) -> str:
    return reverse(f"admin:profiles_apikey_{name}", args=[key.pk])


def shown_secret(response: Response) -> str:
    """The one secret that a page shows."""
    found = re.findall(r"data-secret>(gw-[^<]+)<", response.content.decode())
    assert len(found) == 1
    return str(found[0])


def works(text: str) -> bool:
    try:
        return bool(access.caller_for(text, now=timezone.now()))
    except UnknownKey:
        return False


# --- new ------------------------------------------------------------------------------------------------------------


def test_a_new_secret_is_on_the_answer_to_the_form_and_nowhere_else(admin: Client) -> None:
    response = add(admin)

    text = shown_secret(response)
    assert works(text)
    assert response.status_code == 200  # no redirect: the secret is in no URL
    assert "no-store" in response.headers["Cache-Control"]
    assert text not in str([session.get_decoded() for session in Session.objects.all()])
    assert text not in str(list(LogEntry.objects.values()))
    assert text not in str(list(ApiKey.objects.values()))
    assert text not in admin.get(reverse("admin:profiles_apikey_changelist")).content.decode()


def test_the_snippets_name_a_profile_that_the_key_may_use(admin: Client) -> None:
    factories.profile(slug="a-forbidden-one")
    allowed = factories.profile(slug="the-allowed-one")

    response = add(admin, allows_all_profiles=None, allowed_profiles=[allowed.pk])

    html = response.content.decode()
    assert "openhands_the-allowed-one" in html
    assert "openhands_a-forbidden-one" not in html
    assert list(ApiKey.objects.get().allowed_profiles.all()) == [allowed]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"can_chat": None}, "can_chat"),
        ({"is_global": "on"}, "is_global"),
        ({"allows_all_profiles": None}, "allowed_profiles"),
        ({"name": ""}, "name"),
        ({"tenant": ""}, "tenant"),
    ],
)
def test_a_key_that_could_not_work_is_refused_by_the_fields_name(
    admin: Client, changed: dict[str, Any], field: str
) -> None:
    response = add(admin, **changed)

    assert list(response.context["adminform"].form.errors) == [field]
    assert not ApiKey.objects.exists()


def test_another_tenants_profile_cannot_be_allowed(admin: Client) -> None:
    foreign = factories.profile(owner=factories.tenant())

    response = add(admin, allows_all_profiles=None, allowed_profiles=[foreign.pk])

    assert "belongs to another tenant" in str(response.context["adminform"].form.errors)


def test_limiting_a_key_counts_at_once(admin: Client, django_capture_on_commit_callbacks: Any) -> None:
    key, profile = factories.api_key(), factories.profile()
    assert works(key.text)

    with django_capture_on_commit_callbacks(execute=True):
        admin.post(
            page("change", key.row),
            {"tenant": key.row.tenant_id, "name": "x", "can_chat": "on", "allowed_profiles": [profile.pk], "notes": ""},
        )

    assert access.caller_for(key.text, now=timezone.now()).allowed_profile_ids == frozenset({profile.pk})


# --- rotate ---------------------------------------------------------------------------------------------------------


def test_a_rotated_key_has_two_secrets_until_the_old_one_ends(admin: Client) -> None:
    key = factories.api_key()

    response = admin.post(page("rotate", key.row), {"hours": "24"})

    new = shown_secret(response)
    old = key.row.secrets.order_by("created_at")[0]
    assert works(new)
    assert works(key.text)
    assert dt.timedelta(hours=23) < old.expires_at - timezone.now() < dt.timedelta(hours=25)
    assert "no-store" in response.headers["Cache-Control"]
    assert new not in str(list(LogEntry.objects.values()))


def test_a_key_can_be_rotated_without_an_overlap(admin: Client) -> None:
    key = factories.api_key()

    new = shown_secret(admin.post(page("rotate", key.row), {"hours": "0"}))

    assert works(new)
    assert not works(key.text)


def test_a_third_secret_needs_the_oldest_to_be_ended(admin: Client) -> None:
    key = factories.api_key()
    second = issuing.add_secret(key.row, old_expire_at=None)

    refused = admin.post(page("rotate", key.row), {"hours": "24"})
    made = admin.post(page("rotate", key.row), {"hours": "24", "end_oldest": "on"})

    assert "end_oldest" in refused.context["form"].errors
    assert [works(text) for text in (key.text, second, shown_secret(made))] == [False, True, True]


# --- revoke ---------------------------------------------------------------------------------------------------------


def test_a_key_is_revoked_with_a_reason_and_refused_at_once(admin: Client) -> None:
    key = factories.api_key()
    assert works(key.text)

    admin.post(page("revoke", key.row), {"reason": "laptop stolen"})

    key.row.refresh_from_db()
    assert key.row.revoked_reason == "laptop stolen"
    assert not works(key.text)


def test_without_a_reason_a_key_is_not_revoked(admin: Client) -> None:
    key = factories.api_key()

    response = admin.post(page("revoke", key.row), {"reason": ""})

    assert "reason" in response.context["form"].errors
    assert works(key.text)


def test_a_revoked_key_can_be_read_and_deleted_and_nothing_else(admin: Client) -> None:
    key = factories.api_key()
    issuing.revoke(key.row, reason="over")

    page_of_it = admin.get(page("change", key.row)).content.decode()
    rotated = admin.post(page("rotate", key.row), {"hours": "24"})

    assert "Revoked" in page_of_it
    assert 'name="_save"' not in page_of_it
    assert rotated.status_code == 403
    assert admin.post(page("delete", key.row), {"post": "yes"}).status_code == 302


def test_a_live_key_cannot_be_deleted(admin: Client) -> None:
    key = factories.api_key()

    assert admin.post(page("delete", key.row), {"post": "yes"}).status_code == 403
    assert works(key.text)


def test_the_list_shows_live_keys_unless_asked_otherwise(admin: Client) -> None:
    factories.api_key(name="live-one")
    issuing.revoke(factories.api_key(name="revoked-one").row, reason="over")
    factories.api_key(name="expired-one", expires_at=timezone.now() - dt.timedelta(hours=1))
    url = reverse("admin:profiles_apikey_changelist")

    def names(query: str) -> list[str]:
        html = admin.get(f"{url}{query}").content.decode()
        return [name for name in ("live-one", "revoked-one", "expired-one") if f">{name}<" in html]

    assert names("") == ["live-one"]
    assert names("?state=revoked") == ["revoked-one"]
    assert names("?state=expired") == ["expired-one"]
    assert names("?state=any") == ["live-one", "revoked-one", "expired-one"]


def test_a_key_is_found_by_its_prefix(admin: Client) -> None:
    key = factories.api_key(name="wanted")
    factories.api_key(name="other")

    html = admin.get(reverse("admin:profiles_apikey_changelist"), {"q": key.row.secrets.get().prefix}).content.decode()

    assert ">wanted<" in html
    assert ">other<" not in html


def test_a_tenant_with_keys_cannot_be_deleted(admin: Client) -> None:
    used, unused = factories.api_key().row.tenant, factories.tenant()

    deleted = [
        admin.post(reverse("admin:profiles_tenant_delete", args=[row.pk]), {"post": "yes"}).status_code
        for row in (used, unused)
    ]

    assert deleted == [403, 302]


def test_whether_one_person_uses_a_key_is_on_its_form_with_the_reason(admin: Client) -> None:
    form = admin.get(reverse("admin:profiles_apikey_add")).content.decode()

    assert 'name="used_by_one_person"' in form
    assert "one person could reach another" in form
