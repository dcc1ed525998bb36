"""Signing in through an OpenID provider in a real browser, and the pages that say why somebody cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from pytest_django import Settings

from tests import factories
from tests.browser.chromium import Visit, browse
from tests.fakes.openid_provider import CLIENT_ID, CLIENT_SECRET, FakeOpenIdProvider
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def provider(gateway: LiveGateway, settings: Settings) -> Iterator[FakeOpenIdProvider]:
    factories.person("auditor")  # makes the roles
    running = FakeOpenIdProvider(callback_url=f"{gateway.url}/admin/oidc/callback/").start()
    settings.GATEWAY_PUBLIC_URL = gateway.url
    settings.GATEWAY_OIDC_ISSUER = running.issuer
    settings.GATEWAY_OIDC_CLIENT_ID, settings.GATEWAY_OIDC_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
    settings.GATEWAY_OIDC_NAME = "Corp ID"
    settings.GATEWAY_OIDC_ROLES = {"gateway-auditors": "auditor"}
    settings.AUTHENTICATION_BACKENDS = [
        "gateway_project.sign_in.backends.OpenIdBackend",
        *settings.AUTHENTICATION_BACKENDS,
    ]
    yield running
    running.stop()


@pytest.mark.parametrize(("width", "scheme"), [(420, "light"), (1400, "dark")])
def test_somebody_signs_in_through_the_provider_and_lands_on_the_page_they_wanted(
    gateway: LiveGateway, provider: FakeOpenIdProvider, width: int, scheme: Literal["light", "dark"]
) -> None:
    provider.person["groups"] = ["gateway-auditors"]

    def steps(visit: Visit) -> tuple[str, str, str]:
        page = visit.page
        page.goto(f"{gateway.url}/admin/profiles/changerecord/")
        page.click("text=Sign in with Corp ID")
        provider_says = page.inner_text("h1")
        page.click("text=I am Anna")
        page.wait_for_url("**/changerecord/**")
        changes = page.inner_text("#result_list")
        page.goto(f"{gateway.url}/admin/auth/user/")
        return provider_says, changes, page.inner_text("body")

    (provider_says, changes, users), complaints = browse(gateway.url, steps, width=width, scheme=scheme)

    assert provider_says == "The provider"
    assert "anna" in changes
    assert "403" in users  # an auditor edits no users
    # To the provider it goes on purpose; the provider's page and a refusal have no icon, and the browser notes the latter.
    expected = (f"{provider.issuer}/authorize", "favicon.ico", f"403 (Forbidden) ({gateway.url}/admin/auth/user/)")
    assert [text for text in complaints if not any(part in text for part in expected)] == []
    assert provider.refusals == []


def test_somebody_without_a_role_is_told_in_the_browser(gateway: LiveGateway, provider: FakeOpenIdProvider) -> None:
    def steps(visit: Visit) -> tuple[str, str]:
        page = visit.page
        page.goto(f"{gateway.url}/admin/")
        page.click("text=Sign in with Corp ID")
        page.click("text=I am Anna")
        page.wait_for_selector("text=Not signed in")
        told = page.inner_text("body")
        page.click("text=Back to the sign-in")
        return told, page.inner_text("body")

    (told, again), _ = browse(gateway.url, steps)

    assert "none of your groups has a role" in told
    assert "Sign in with Corp ID" in again
