"""Ceilings on the pages of keys and tenants."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chatgateway import alerts
from chatgateway.models import DailyUsage, Turn
from profiles.models import ApiKey, Tenant
from tests import factories

pytestmark = pytest.mark.django_db


def spend(key: ApiKey, cost: str) -> None:
    day = timezone.now().astimezone(dt.UTC).date()
    DailyUsage.objects.create(tenant=key.tenant, api_key=key, day=day, cost_usd=Decimal(cost))


def test_a_keys_page_shows_what_is_used_of_its_ceilings(admin_client: Client) -> None:
    key = factories.api_key(
        max_usd_per_day=Decimal(2),
        max_usd_per_month=Decimal(1),
        max_requests_per_minute=5,
        max_tokens_per_minute=70,
        max_open_turns=3,
    ).row
    spend(key, "0.9")
    ended = {"outcome": "answered", "phase": "closed", "input_tokens": 9, "output_tokens": 1}
    for seconds in (1, 61):
        moment = timezone.now() - dt.timedelta(seconds=seconds)
        Turn.objects.create(request_id=f"{seconds}", api_key=key, closed_at=moment, opened_at=moment, **ended)

    page = admin_client.get(reverse("admin:profiles_apikey_change", args=[key.pk])).content.decode()

    for told in ("$0.9000 of $2.00", "$0.9000 of $1.00", "1 of 5", "10 of 70", "0 of 3"):
        assert told in page
    assert page.count('value="90"') == 1
    assert "gw-bar-warning" in page


def test_a_tenants_page_adds_up_its_keys(admin_client: Client) -> None:
    key = factories.api_key().row
    for one in (key, factories.api_key(tenant=key.tenant).row):
        spend(one, "0.6")
    Tenant.objects.update(max_usd_per_month=Decimal(1))

    page = admin_client.get(reverse("admin:profiles_tenant_change", args=[key.tenant_id])).content.decode()

    assert "$1.20 of $1.00" in page
    assert "gw-bar-danger" in page


def test_a_new_key_gets_the_ceilings_and_everything_else_of_its_form(admin_client: Client) -> None:
    tenant = factories.tenant()
    given = {
        "tenant": tenant.pk,
        "name": "limited",
        "can_chat": "on",
        "allows_all_profiles": "on",
        "used_by_one_person": "on",
        "on_disconnect": "detach",
        "max_requests_per_minute": "30",
        "max_usd_per_day": "12.50",
    }

    reply = admin_client.post(reverse("admin:profiles_apikey_add"), given)

    assert reply.status_code == 200, reply.content.decode()
    key = ApiKey.objects.get()
    assert (key.max_requests_per_minute, key.max_usd_per_day) == (30, Decimal("12.50"))
    assert (key.used_by_one_person, key.on_disconnect) == (True, "detach")


def test_a_ceiling_of_nothing_is_refused(admin_client: Client) -> None:
    given = {"tenant": factories.tenant().pk, "name": "none", "can_chat": "on", "allows_all_profiles": "on"}

    page = admin_client.post(reverse("admin:profiles_apikey_add"), given | {"max_usd_per_day": "0"}).content.decode()

    assert not ApiKey.objects.exists()
    assert "greater than or equal to" in page


def test_warnings_are_listed(admin_client: Client) -> None:
    key = factories.api_key(max_usd_per_day=Decimal(1)).row
    spend(key, "0.85")
    alerts.look(timezone.now())

    page = admin_client.get(reverse("admin:chatgateway_alert_changelist")).content.decode()

    assert "80 % used" in page
    assert "$0.8500 of $1.00 per day" in page
