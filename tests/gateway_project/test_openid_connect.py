"""Signing in through an OpenID provider: who gets in as whom, with which roles, and which lies get nobody in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from gateway_project.sign_in import openid
from profiles.models import ChangeRecord, SignInIdentity
from tests import factories
from tests.fakes.openid_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    FakeOpenIdProvider,
    rsa_key,
    signed_by_a_stranger,
    signed_with_the_client_secret,
    unsigned,
)

pytestmark = pytest.mark.django_db
BEGIN = "/admin/oidc/begin/"
WITH_ROLE = {"groups": ["staff", "gateway-ops"]}


@pytest.fixture(autouse=True)
def _roles(db: None) -> None:
    """A test before this one may have emptied the tables."""
    factories.person("operator")


@pytest.fixture
def provider(settings: Settings) -> Iterator[FakeOpenIdProvider]:
    """The settings of a gateway whose people sign in there."""
    running = FakeOpenIdProvider(callback_url="http://testserver/admin/oidc/callback/").start()
    settings.GATEWAY_PUBLIC_URL = "http://testserver"
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.GATEWAY_OIDC_ISSUER = running.issuer
    settings.GATEWAY_OIDC_CLIENT_ID, settings.GATEWAY_OIDC_CLIENT_SECRET = CLIENT_ID, CLIENT_SECRET
    settings.GATEWAY_OIDC_NAME = "Corp ID"
    settings.GATEWAY_OIDC_ROLES = {"gateway-ops": "operator", "gateway-admins": "administrator", "root": "superuser"}
    settings.AUTHENTICATION_BACKENDS = [
        "axes.backends.AxesStandaloneBackend",
        "gateway_project.sign_in.backends.OpenIdBackend",
        "django.contrib.auth.backends.ModelBackend",
    ]
    yield running
    running.stop()


def come_back(provider: FakeOpenIdProvider, browser: Client, **query: str) -> str:
    """Go to the provider and say who one is; return where it sends the browser."""
    sent = browser.get(BEGIN, query)
    assert sent.status_code == 302, sent.content
    approved = httpx.post(sent.headers["Location"], timeout=30)
    assert approved.status_code == 302, provider.refusals
    return approved.headers["Location"].removeprefix("http://testserver")


def sign_in(provider: FakeOpenIdProvider, browser: Client | None = None, **person: Any) -> Any:
    """The whole way; return the last answer."""
    provider.person = provider.person | person
    browser = browser or Client()
    return browser.get(come_back(provider, browser))


def roles_of(username: str) -> list[str]:
    return sorted(User.objects.get(username=username).groups.values_list("name", flat=True))


# --- who gets in --------------------------------------------------------------------------------------------------


def test_somebody_with_a_role_is_signed_in_as_a_user_of_their_own(provider: FakeOpenIdProvider) -> None:
    browser = Client()

    reply = sign_in(provider, browser, name="Anna Lind", **WITH_ROLE)

    assert reply.headers["Location"] == reverse("admin:index")
    assert browser.get(reverse("admin:index")).status_code == 200
    user = User.objects.get(username="anna")
    assert (user.email, user.get_full_name(), user.is_staff, user.is_superuser) == (
        "anna@corp.test",
        "Anna Lind",
        True,
        False,
    )
    assert not user.has_usable_password()
    assert roles_of("anna") == ["operator"]
    assert SignInIdentity.objects.get().issuer == provider.issuer
    assert provider.refusals == []


def test_whoever_wanted_a_page_is_led_to_it(provider: FakeOpenIdProvider) -> None:
    provider.person |= WITH_ROLE
    browser = Client()

    reply = browser.get(come_back(provider, browser, next="/admin/chatgateway/turn/"))

    assert reply.headers["Location"] == "/admin/chatgateway/turn/"


def test_nobody_is_led_to_another_site(provider: FakeOpenIdProvider) -> None:
    provider.person |= WITH_ROLE
    browser = Client()

    reply = browser.get(come_back(provider, browser, next="https://evil.test/admin/"))

    assert reply.headers["Location"] == reverse("admin:index")


def test_the_same_person_comes_back_to_the_same_user_whatever_they_are_called_now(provider: FakeOpenIdProvider) -> None:
    sign_in(provider, **WITH_ROLE)
    sign_in(provider, preferred_username="anna-new", email="new@corp.test")

    assert SignInIdentity.objects.get().user.username == "anna"
    assert User.objects.get(username="anna").email == "new@corp.test"


def test_roles_follow_the_groups_and_each_change_is_recorded(provider: FakeOpenIdProvider) -> None:
    sign_in(provider, groups=["gateway-ops"])
    sign_in(provider, groups=["gateway-admins", "root"])

    assert roles_of("anna") == ["administrator"]
    assert User.objects.get(username="anna").is_superuser
    last = ChangeRecord.objects.filter(kind="auth.user", name="anna").first()
    assert last.fields["groups"] == [["operator"], ["administrator"]]
    assert last.fields["is_superuser"] == [False, True]
    assert last.actor == f"sign-in through {provider.issuer.removeprefix('http://')}"
    assert (last.by, last.address) == ("program", "127.0.0.1")


def test_a_sign_in_that_changes_nothing_records_nothing(provider: FakeOpenIdProvider) -> None:
    sign_in(provider, **WITH_ROLE)
    before = ChangeRecord.objects.count()

    sign_in(provider)

    assert ChangeRecord.objects.count() == before


def test_groups_that_an_administrator_gave_by_hand_stay(provider: FakeOpenIdProvider) -> None:
    sign_in(provider, **WITH_ROLE)
    user = User.objects.get(username="anna")
    user.groups.create(name="night shift")

    sign_in(provider, groups=["gateway-admins"])

    assert roles_of("anna") == ["administrator", "night shift"]


@pytest.mark.parametrize(
    ("claim", "person"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["gateway-ops"]}}),
        ("https://corp.test/groups", {"https://corp.test/groups": "gateway-ops"}),
    ],
)
def test_groups_are_found_where_the_provider_has_them(
    provider: FakeOpenIdProvider, settings: Settings, claim: str, person: dict[str, Any]
) -> None:
    settings.GATEWAY_OIDC_GROUPS_CLAIM = claim

    assert sign_in(provider, **person).status_code == 302


def test_groups_that_only_the_userinfo_has_are_fetched_there(provider: FakeOpenIdProvider) -> None:
    provider.userinfo = {"sub": "u-17", **WITH_ROLE}

    assert sign_in(provider).status_code == 302


def test_userinfo_of_somebody_else_gives_no_roles(provider: FakeOpenIdProvider) -> None:
    provider.userinfo = {"sub": "u-18", **WITH_ROLE}

    assert sign_in(provider).status_code == 502
    assert not User.objects.filter(username="anna").exists()


# --- who does not -------------------------------------------------------------------------------------------------


def test_somebody_without_a_role_is_told_so_and_leaves_no_user(provider: FakeOpenIdProvider) -> None:
    reply = sign_in(provider, groups=["staff"])

    assert reply.status_code == 403
    assert "none of your groups has a role" in reply.content.decode()
    assert not User.objects.filter(username="anna").exists()


def test_whoever_lost_their_last_role_loses_the_admin_in_every_session(provider: FakeOpenIdProvider) -> None:
    elsewhere = Client()
    sign_in(provider, elsewhere, **WITH_ROLE)

    reply = sign_in(provider, groups=[])

    assert reply.status_code == 403
    assert roles_of("anna") == []
    assert elsewhere.get(reverse("admin:index")).status_code == 302


def test_a_user_that_was_deactivated_here_stays_out(provider: FakeOpenIdProvider) -> None:
    sign_in(provider, **WITH_ROLE)
    User.objects.filter(username="anna").update(is_active=False)

    assert sign_in(provider).status_code == 403


@pytest.mark.parametrize("claimed", ["root", "Root"])
def test_nobody_becomes_a_user_who_was_here_before_by_calling_themselves_so(
    provider: FakeOpenIdProvider, claimed: str
) -> None:
    root = factories.person(username="root", is_superuser=True)

    sign_in(provider, preferred_username=claimed, **WITH_ROLE)

    assert SignInIdentity.objects.get().user != root
    assert SignInIdentity.objects.get().user.username == f"{claimed}@127.0.0.1"


LIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "made for another client": lambda claims: claims | {"aud": "another-client"},
    "made for several, by another": lambda claims: claims | {"aud": [CLIENT_ID, "other"], "azp": "other"},
    "by another issuer": lambda claims: claims | {"iss": "https://evil.test"},
    "expired": lambda claims: claims | {"exp": claims["iat"] - 120},
    "without an end": lambda claims: {name: claims[name] for name in claims if name != "exp"},
    "of the future": lambda claims: claims | {"iat": claims["iat"] + 3600, "nbf": claims["iat"] + 3600},
    "of another sign-in": lambda claims: claims | {"nonce": "another-nonce"},
    "of no sign-in": lambda claims: {name: claims[name] for name in claims if name != "nonce"},
    "about nobody": lambda claims: {name: claims[name] for name in claims if name != "sub"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_is_not_for_this_sign_in_gets_nobody_in(provider: FakeOpenIdProvider, lie: str) -> None:
    provider.lie = LIES[lie]

    reply = sign_in(provider, **WITH_ROLE)

    assert reply.status_code == 403
    assert not User.objects.filter(username="anna").exists()


@pytest.mark.parametrize("algorithms", [["RS256"], ["RS256", "none", "HS256"]])
@pytest.mark.parametrize("sign", [signed_by_a_stranger, unsigned, signed_with_the_client_secret])
def test_a_token_that_the_providers_key_did_not_sign_gets_nobody_in(
    provider: FakeOpenIdProvider, sign: Callable[[dict[str, Any]], str], algorithms: list[str]
) -> None:
    provider.sign, provider.algorithms = sign, algorithms

    assert sign_in(provider, **WITH_ROLE).status_code == 403
    assert not User.objects.filter(username="anna").exists()


def test_a_new_key_of_the_provider_is_fetched_when_it_is_first_used(provider: FakeOpenIdProvider) -> None:
    sign_in(provider, **WITH_ROLE)
    provider.key = rsa_key("second")

    assert sign_in(provider).status_code == 302
    assert provider.asked.count("/jwks") == 2


def test_an_answer_to_somebody_elses_question_gets_nobody_in(provider: FakeOpenIdProvider) -> None:
    provider.person |= WITH_ROLE
    attackers = come_back(provider, Client())

    reply = Client().get(attackers)

    assert reply.status_code == 403
    assert provider.asked.count("/token") == 0


def test_an_answer_is_taken_once(provider: FakeOpenIdProvider) -> None:
    provider.person |= WITH_ROLE
    browser = Client()
    answer = come_back(provider, browser)

    assert [browser.get(answer).status_code for _ in range(2)] == [302, 403]


def test_whoever_says_no_at_the_provider_is_not_signed_in(provider: FakeOpenIdProvider) -> None:
    reply = Client().get("/admin/oidc/callback/", {"error": "access_denied", "state": "x"})

    assert reply.status_code == 403


# --- a provider that breaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [(500, "boom"), (200, "not JSON"), (200, "[]"), (200, '{"issuer": "https://evil.test"}')]
)
def test_a_provider_that_describes_itself_in_nonsense_is_said_to_be_out_of_reach(
    provider: FakeOpenIdProvider, answer: tuple[int, str]
) -> None:
    provider.replies["/.well-known/openid-configuration"] = answer

    reply = Client().get(BEGIN)

    assert reply.status_code == 502
    assert "cannot be reached" in reply.content.decode()


@pytest.mark.parametrize("path", ["/token", "/jwks"])
@pytest.mark.parametrize("answer", [(500, "boom"), (200, "not JSON"), (200, "[]"), (200, "{}")])
def test_a_provider_that_breaks_on_the_way_back_signs_nobody_in(
    provider: FakeOpenIdProvider, path: str, answer: tuple[int, str]
) -> None:
    provider.replies[path] = answer

    assert sign_in(provider, **WITH_ROLE).status_code in {403, 502}
    assert not User.objects.filter(username="anna").exists()


def test_a_provider_that_never_answers_is_given_up(
    provider: FakeOpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid, "TIMEOUT_SECONDS", 0.2)
    provider.is_silent = True

    assert Client().get(BEGIN).status_code == 502


# --- the sign-in page ---------------------------------------------------------------------------------------------


def test_the_sign_in_page_offers_the_provider_and_remembers_the_page(provider: FakeOpenIdProvider) -> None:
    html = Client().get(reverse("admin:login"), {"next": "/admin/auth/user/?q=a&b=c"}).content.decode()

    [link] = re.findall(r'href="(/admin/oidc/begin/[^"]*)"', html)
    assert link == "/admin/oidc/begin/?next=%2Fadmin%2Fauth%2Fuser%2F%3Fq%3Da%26b%3Dc"
    assert "Sign in with Corp ID" in html
    assert 'name="password"' in html


def test_passwords_can_be_turned_off(provider: FakeOpenIdProvider, settings: Settings) -> None:
    factories.person(username="root", is_superuser=True)
    before = Client()
    before.post(reverse("admin:login"), {"username": "root", "password": "x"})
    settings.GATEWAY_PASSWORD_SIGN_IN = False
    settings.AUTHENTICATION_BACKENDS = settings.AUTHENTICATION_BACKENDS[:2]

    page = Client().get(reverse("admin:login")).content.decode()
    posted = Client().post(reverse("admin:login"), {"username": "root", "password": "x"})

    assert 'name="password"' not in page
    assert posted.status_code == 200  # the page again
    assert before.get(reverse("admin:index")).status_code == 302
    assert sign_in(provider, **WITH_ROLE).status_code == 302


def test_without_a_provider_there_is_no_such_page() -> None:
    assert "Sign in with" not in Client().get(reverse("admin:login")).content.decode()
    assert [Client().get(path).status_code for path in (BEGIN, "/admin/oidc/callback/")] == [404, 404]
