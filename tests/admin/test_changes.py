"""Who changed what, with before and after: in the admin, over REST, by a command."""

from __future__ import annotations

import datetime as dt
from io import StringIO
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from profiles import changes, issuing
from profiles.models import ApiKey, ChangeRecord, Profile, Tenant
from tests import factories
from tests.admin.forms import save_profile, save_server
from tests.gateway_process import LiveGateway

pytestmark = pytest.mark.django_db


def newest() -> ChangeRecord:
    return ChangeRecord.objects.order_by("-pk")[0]


def page(name: str, row: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{name}", args=[row.pk])


def test_a_changed_profile_says_who_and_what_with_before_and_after(admin: Client) -> None:
    profile = factories.profile(temperature=0.5)

    save_profile(admin, profile, temperature="0.7", description="better")

    row = newest()
    assert (row.by, row.actor, row.user, row.address) == ("person", "root", User.objects.get(), "127.0.0.1")
    assert (row.action, row.kind, row.object_pk, row.name) == (
        "changed", "profiles.profile", str(profile.pk), profile.slug,
    )  # fmt: skip
    assert row.fields["temperature"] == [0.5, 0.7]
    assert row.fields["description"] == ["", "better"]
    assert "llm_api_key" not in row.fields


def test_a_form_saved_without_a_change_leaves_no_row(admin: Client) -> None:
    profile = factories.profile(input_price=None, output_price=None, llm_retries=2)
    save_profile(admin, profile)
    ChangeRecord.objects.all().delete()

    save_profile(admin, profile)

    assert not ChangeRecord.objects.exists()


@pytest.mark.parametrize(
    ("stored", "sent", "told"),
    [
        ("sk-old", {"llm_api_key": "sk-new"}, ["••••••••", "•••••••• (another one)"]),
        ("", {"llm_api_key": "sk-new"}, ["", "••••••••"]),
        ("sk-old", {"llm_api_key-clear": "on"}, ["••••••••", ""]),
    ],
)
def test_that_a_secret_changed_is_recorded_and_no_secret_is(
    admin: Client, stored: str, sent: dict[str, str], told: list[str]
) -> None:
    save_profile(admin, factories.profile(llm_api_key=stored), **sent)

    assert newest().fields["llm_api_key"] == told
    assert "sk-" not in str(list(ChangeRecord.objects.values()))


def test_servers_a_profile_is_bound_to_are_part_of_its_history(admin: Client) -> None:
    profile, server = factories.profile(), factories.agent_server(name="big one")

    save_profile(admin, profile, allowed_servers=[server.pk])

    assert newest().fields["allowed_servers"] == [[], ["big one"]]


def test_tenants_and_servers_are_recorded_from_addition_to_deletion(admin: Client) -> None:
    admin.post(reverse("admin:profiles_tenant_add"), {"name": "acme", "notes": ""})
    tenant = Tenant.objects.get(name="acme")
    admin.post(page("change", tenant), {"name": "acme inc", "notes": ""})
    admin.post(page("delete", tenant), {"post": "yes"})
    server = factories.agent_server(session_api_key="session-secret")
    save_server(admin, server, capacity=3, session_api_key="another-session-secret")

    told = [(row.action, row.name, row.fields) for row in ChangeRecord.objects.order_by("pk")]
    assert told[:3] == [
        ("added", "acme", {"name": [None, "acme"]}),
        ("changed", "acme inc", {"name": ["acme", "acme inc"]}),
        ("deleted", "acme inc", {"name": ["acme inc", None]}),
    ]
    assert told[3][2]["capacity"] == [10, 3]
    assert "session-secret" not in str(told)


def test_a_keys_life_is_recorded_without_its_secrets(admin: Client) -> None:
    tenant, profile = factories.tenant(), factories.profile(slug="only-this")
    admin.post(
        reverse("admin:profiles_apikey_add"),
        {"tenant": tenant.pk, "name": "laptop", "can_chat": "on", "allowed_profiles": [profile.pk], "notes": ""},
    )
    key = ApiKey.objects.get()
    first = f"{key.secrets.get()}"
    admin.post(page("rotate", key), {"hours": "24"})
    admin.post(page("revoke", key), {"reason": "laptop stolen"})

    added, rotated, revoked = ChangeRecord.objects.order_by("pk")
    assert added.fields["allowed_profiles"] == [None, ["only-this"]]
    assert added.fields["secrets"] == [None, [first]]
    before, after = rotated.fields["secrets"]
    assert (before, len(after), rotated.note) == ([first], 2, "Rotated")
    assert revoked.fields["revoked_reason"] == ["", "laptop stolen"]
    digests = [secret.digest for secret in key.secrets.all()]
    assert [digest for digest in digests if digest in str(list(ChangeRecord.objects.values()))] == []


def test_what_the_form_of_a_new_key_says_is_what_is_stored(admin: Client) -> None:
    form = {
        "tenant": factories.tenant().pk, "name": "laptop", "can_chat": "on", "allows_all_profiles": "on", "notes": "",
        "used_by_one_person": "on", "only_own_conversations": "on", "on_disconnect": "detach",
    }  # fmt: skip

    admin.post(reverse("admin:profiles_apikey_add"), form)

    key = ApiKey.objects.get()
    assert (key.used_by_one_person, key.only_own_conversations, key.on_disconnect) == (True, True, "detach")


def test_who_was_given_a_role_is_recorded_and_no_password(admin: Client) -> None:
    user = factories.person()
    auditors = Group.objects.get_or_create(name="auditor")[0]
    before = User.objects.get(pk=user.pk).password

    form = {
        "username": user.username, "is_active": "on", "is_staff": "on", "groups": [auditors.pk],
        "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00",
    }  # fmt: skip

    saved = admin.post(page("change", user), form)
    changed = admin.post(
        reverse("admin:auth_user_password_change", args=[user.pk]),
        {"password1": "quite another 1", "password2": "quite another 1", "usable_password": "true"},
    )

    assert (saved.status_code, changed.status_code) == (302, 302)

    roles, password = ChangeRecord.objects.order_by("pk")
    assert roles.fields["groups"] == [[], ["auditor"]]
    assert password.fields["password"] == ["••••••••", "•••••••• (another one)"]
    assert before not in str(password.fields)


def test_a_change_that_is_not_made_leaves_no_row() -> None:
    key = factories.api_key().row

    def break_off() -> None:
        with changes.recorded(key, by=changes.program("test")):
            issuing.revoke(key, reason="over")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()

    key.refresh_from_db()
    assert (key.revoked_at, ChangeRecord.objects.count()) == (None, 0)


def test_the_history_of_a_row_is_its_changes_alone(admin: Client) -> None:
    one, other = factories.profile(slug="one"), factories.profile(slug="other")
    save_profile(admin, one, description="changed here")
    save_profile(admin, other, description="changed there")

    admin.get(reverse("admin:index"))  # shows what was said of the saving
    html = admin.get(page("history", one), follow=True).content.decode()
    detail = admin.get(page("change", ChangeRecord.objects.get(name="one"))).content.decode()

    assert ">one<" in html
    assert ">other<" not in html
    assert "changed here" in detail


def test_minted_keys_are_recorded_as_the_commands() -> None:
    call_command("mint_key", tenant="acme", new_tenant=True, name="nightly", stdout=StringIO(), stderr=StringIO())

    assert [(row.by, row.actor, row.kind) for row in ChangeRecord.objects.order_by("pk")] == [
        ("program", "mint_key", "profiles.tenant"),
        ("program", "mint_key", "profiles.apikey"),
    ]


def test_a_row_outlives_who_made_the_change(admin: Client) -> None:
    save_profile(admin, factories.profile(), description="changed")
    User.objects.all().delete()

    assert (newest().actor, newest().user) == ("root", None)


@pytest.mark.django_db(transaction=True)
def test_changes_over_rest_name_the_key(served: LiveGateway) -> None:
    headers = {"Authorization": f"Bearer {served.key}"}
    body = {"llm": {"model": "openai/gpt-5", "api_key": "sk-sent-over-rest"}}

    for method, sent in (("POST", body), ("POST", {"llm": {"model": "openai/gpt-6"}}), ("DELETE", None)):
        reply = httpx.request(method, f"{served.url}/api/profiles/mine", json=sent, headers=headers, timeout=60)
        assert reply.status_code < 300

    rows = list(ChangeRecord.objects.filter(name="mine").order_by("pk"))
    key = ApiKey.objects.get()
    assert [(row.action, row.by, row.api_key) for row in rows] == [
        ("added", "api_key", key), ("changed", "api_key", key), ("deleted", "api_key", key),
    ]  # fmt: skip
    assert key.name in rows[0].actor
    assert rows[1].fields["llm_model"] == ["openai/gpt-5", "openai/gpt-6"]
    assert "sk-sent-over-rest" not in str([row.fields for row in rows])
    assert {row.address for row in rows} == {"127.0.0.1"}


def test_who_used_a_key_when_is_no_change() -> None:
    key = factories.api_key().row
    before = changes.stored_state(key)

    ApiKey.objects.update(last_used_at=timezone.now() + dt.timedelta(hours=1), last_used_client="curl")
    Profile.objects.update(updated_at=timezone.now())
    changes.changed(key, by=changes.program("test"), before=before)

    assert not ChangeRecord.objects.exists()
