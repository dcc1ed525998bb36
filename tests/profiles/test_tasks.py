import datetime as dt

import pytest
from django.utils import timezone

from profiles import issuing, tasks
from profiles.models import ApiKeySecret, FailedAuthentication, Profile
from tests import factories

pytestmark = pytest.mark.django_db


def test_catalogues_are_refreshed_and_unreadable_secrets_are_no_obstacle(llm_process, settings):
    factories.profile(slug="known", llm_model="openai/gpt-4o", llm_base_url="")
    factories.profile(slug="gone", llm_model="nosuchprovider/x", catalogue={"provider": "nosuchprovider"})
    settings.GATEWAY_ENCRYPTION_KEYS = ["another-key-" + "x" * 32]
    tasks.refresh_catalogues()
    tasks.refresh_catalogues()
    catalogues = dict(Profile.objects.values_list("slug", "catalogue"))
    assert catalogues["known"]["input_price"] == "2.5"
    assert catalogues["gone"] == {}


def test_without_the_llm_process_catalogues_stay(caplog):
    factories.profile(catalogue={"provider": "openai"})
    tasks.refresh_catalogues()
    assert Profile.objects.get().catalogue == {"provider": "openai"}
    assert "not refreshed" in caplog.text


def test_what_ended_long_ago_is_swept_and_nothing_else():
    made = factories.api_key()
    now = timezone.now()
    issuing.add_secret(made.row, old_expire_at=now - dt.timedelta(days=31))
    for days in (31, 29):
        FailedAuthentication.objects.create(minute=now - dt.timedelta(days=days), address="10.0.0.1", count=1)
    tasks.sweep_keys()
    tasks.sweep_keys()
    assert ApiKeySecret.objects.count() == 1
    assert FailedAuthentication.objects.count() == 1
