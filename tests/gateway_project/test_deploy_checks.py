"""`check --deploy` refuses what is unsafe, says why and what to do, and lets a safe deployment pass."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.checks import CheckMessage, run_checks
from pytest_django import Settings

from chatgateway.models import Conversation
from tests import factories
from tests.faults.processes import ROOT, GatewayProcess, environment

SAFE = {
    "GATEWAY_SECRET_KEY": "kq3-Vx9dmR7tZ2uYc5wLh8sNf1aBg4eJ6pQ0",
    "GATEWAY_ENCRYPTION_KEYS": "Ht6-yG2kPz9wQm4xVb7nRc1sLd8fJa3eUo5Z",
    "GATEWAY_API_KEY_PEPPER": "Mw8-cK5vTz1hXq7bNp3rYd9gLs2fAj6eUu4V",
    "GATEWAY_PUBLIC_URL": "https://gateway.corp.test",
    "GATEWAY_ALLOWED_HOSTS": "gateway.corp.test",
    "GATEWAY_TRUSTED_PROXIES": "10.0.0.2",
    "GATEWAY_CELERY_BROKER_URL": "rediss://:pw@redis.corp.test:6379/0",
    "GATEWAY_DATABASE_URL": "postgres://gateway:pw@127.0.0.1:9/gateway?sslmode=verify-full",
}


def check(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command itself, with these variables and no others."""
    given = environment(tmp_path) | SAFE | variables
    command = [sys.executable, "manage.py", "check", "--deploy"]
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GATEWAY_OIDC_ISSUER": "https://id.corp.test"}, "needs GATEWAY_OIDC_CLIENT_ID"),
        ({"GATEWAY_PASSWORD_SIGN_IN": "false"}, "nobody could sign in"),
        ({"GATEWAY_OIDC_ROLES": "gateway-admins=chief"}, "'gateway-admins=chief' is not group=role"),
        ({"GATEWAY_OIDC_SCOPES": "email"}, "needs openid"),
        ({"GATEWAY_SIGN_IN_FAILURES": "0"}, "GATEWAY_SIGN_IN_FAILURES=0 is below 1"),
    ],
)
def test_a_sign_in_that_cannot_work_stops_every_command_with_one_sentence(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    done = check(tmp_path, **variables)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def safe(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of which the checks have nothing to say."""
    settings.SECRET_KEY = SAFE["GATEWAY_SECRET_KEY"]
    settings.GATEWAY_ENCRYPTION_KEYS = [SAFE["GATEWAY_ENCRYPTION_KEYS"]]
    settings.GATEWAY_API_KEY_PEPPER = SAFE["GATEWAY_API_KEY_PEPPER"]
    settings.GATEWAY_PUBLIC_URL = SAFE["GATEWAY_PUBLIC_URL"]
    settings.ALLOWED_HOSTS = ["gateway.corp.test"]
    settings.GATEWAY_TRUSTED_PROXIES = [ip_network("10.0.0.2")]
    settings.CELERY_BROKER_URL = SAFE["GATEWAY_CELERY_BROKER_URL"]
    database = {"ENGINE": "django.db.backends.postgresql", "HOST": "db.corp.test", "OPTIONS": {"sslmode": "require"}}
    for name, value in database.items():
        monkeypatch.setitem(settings.DATABASES["default"], name, value)
    return settings


def found() -> dict[str | None, CheckMessage]:
    """What the checks that look at settings alone have to say."""
    from gateway_project import checks
    from profiles.checks import check_trusted_proxies

    ours = (checks.check_secrets_are_secret, checks.check_hosts, checks.check_transport, checks.check_services)
    return {message.id: message for ask in (*ours, check_trusted_proxies) for message in ask()}


def test_a_safe_deployment_passes_without_a_remark(tmp_path: Path) -> None:
    done = check(tmp_path)

    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_an_unsafe_one_fails_and_says_what_to_do(tmp_path: Path) -> None:
    unsafe = {"GATEWAY_ALLOWED_HOSTS": "*", "GATEWAY_DEBUG": "true", "GATEWAY_SECRET_KEY": "change-me"}

    done = check(tmp_path, **unsafe)

    assert done.returncode == 1
    assert [f"gateway.E00{number}" in done.stderr for number in (1, 2, 4, 5)] == [True] * 4
    assert "HINT: Remove GATEWAY_DEBUG." in done.stderr
    assert "change-me" not in done.stderr


def test_nothing_is_said_of_safe_settings(safe: Settings) -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("SECRET_KEY", "kq3-Vx9dmR7tZ2u", "gateway.E001"),
        ("SECRET_KEY", "django-insecure-kq3-Vx9dmR7tZ2uYc5wLh8sNf1aBg4eJ", "gateway.E002"),
        ("GATEWAY_ENCRYPTION_KEYS", [SAFE["GATEWAY_ENCRYPTION_KEYS"], "a" * 40], "gateway.E002"),
        ("GATEWAY_API_KEY_PEPPER", "replace-with-thirty-two-characters", "gateway.E002"),
        ("GATEWAY_WEBHOOK_SECRET", "xxxxxxxxxxxxxxxxxxx", "gateway.E002"),
        ("GATEWAY_METRICS_TOKEN", "q7Z", "gateway.E003"),
        ("ALLOWED_HOSTS", ["gateway.corp.test", "*"], "gateway.E004"),
        ("DEBUG", True, "gateway.E005"),
        ("ALLOWED_HOSTS", ["localhost"], "gateway.E006"),
        ("GATEWAY_PUBLIC_URL", "http://gateway.corp.test", "gateway.E007"),
        ("GATEWAY_TRUSTED_PROXIES", [], "gateway.E008"),
        ("GATEWAY_TRUSTED_PROXIES", [ip_network("0.0.0.0/0")], "profiles.E005"),
        ("GATEWAY_OIDC_ISSUER", "http://id.corp.test", "gateway.E013"),
        ("GATEWAY_OIDC_CLIENT_SECRET", "your-secret-from-the-provider", "gateway.E002"),
        ("CORS_ALLOWED_ORIGINS", ["http://chat.corp.test"], "gateway.W002"),
        ("CELERY_BROKER_URL", "sqla+sqlite:///broker.sqlite3", "gateway.E010"),
        ("CELERY_BROKER_URL", "amqp://guest:guest@rabbit.corp.test//", "gateway.W005"),
    ],
)
def test_each_unsafe_setting_is_named(safe: Settings, name: str, value: Any, problem: str) -> None:
    setattr(safe, name, value)

    said = found()

    assert problem in said
    assert said[problem].hint


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [("ENGINE", "django.db.backends.sqlite3", "gateway.E009"), ("OPTIONS", {}, "gateway.W004")],
)
def test_each_unsafe_database_is_named(
    safe: Settings, monkeypatch: pytest.MonkeyPatch, column: str, value: Any, problem: str
) -> None:
    monkeypatch.setitem(safe.DATABASES["default"], column, value)

    assert set(found()) == {problem}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_plain_http_within_this_machine_is_no_problem(safe: Settings, host: str) -> None:
    safe.GATEWAY_PUBLIC_URL = f"http://{host}:8000"
    safe.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

    assert found() == {}


def test_a_sqlite_file_on_one_host_is_remarked_upon(safe: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(safe.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    safe.CELERY_BROKER_URL = "sqla+sqlite:///broker.sqlite3"

    assert set(found()) == {"gateway.W003"}


# --- what the rows say --------------------------------------------------------------------------------------------


def ids() -> set[str | None]:
    rows = {"gateway.E011", "gateway.E012", "gateway.W001"}
    return {one.id for one in run_checks(include_deployment_checks=True)} & rows


@pytest.fixture
def shared(db: None) -> None:
    server = factories.agent_server()
    for tenant in (factories.tenant(), factories.tenant()):
        Conversation.objects.create(tenant=tenant, tenant_name="t", profile_slug="p", agent_server=server, state="live")


def test_tenants_that_share_a_server_with_tools_are_refused_unless_they_trust_each_other(
    shared: None, settings: Settings
) -> None:
    assert ids() == {"gateway.W001"}

    factories.profile(tools=["terminal"])
    assert ids() == {"gateway.E011"}

    settings.GATEWAY_TENANTS_TRUST_EACH_OTHER = True
    assert ids() == set()


def test_tools_bound_to_another_server_do_no_harm_to_a_shared_one(shared: None) -> None:
    other = factories.agent_server()
    other.profiles.add(factories.profile(tools=["terminal"]))

    assert ids() == {"gateway.W001"}


@pytest.mark.parametrize(
    ("tools", "is_enabled", "state", "said"),
    [
        (["terminal"], True, "active", {"gateway.E012"}),
        (["terminal"], False, "active", set()),
        (["terminal"], True, "disabled", set()),
        ([], True, "active", set()),
    ],
)
def test_agents_with_tools_that_run_as_the_gateways_own_user_are_refused(
    db: None, tools: list[str], is_enabled: bool, state: str, said: set[str]
) -> None:
    factories.agent_server(is_embedded=True, state=state)
    factories.profile(tools=tools, is_enabled=is_enabled)

    assert ids() == said


# --- what the settings do -----------------------------------------------------------------------------------------


@pytest.fixture
def behind_tls(transactional_db: None, tmp_path: Path) -> Any:
    """A gateway that is reached by https, through a proxy on this machine."""
    started = GatewayProcess(
        data_dir=tmp_path,
        GATEWAY_PUBLIC_URL="https://gateway.corp.test",
        GATEWAY_ALLOWED_HOSTS="gateway.corp.test,127.0.0.1",
        GATEWAY_TRUSTED_PROXIES="127.0.0.1",
        GATEWAY_SESSION_HOURS="2",
    ).wait_until_ready()
    yield started
    started.kill()


def test_behind_tls_cookies_are_secure_plain_http_is_redirected_and_hsts_is_sent(behind_tls: GatewayProcess) -> None:
    factories.person(username="root", is_superuser=True)
    proxied = {"Host": "gateway.corp.test", "X-Forwarded-For": "203.0.113.9"}

    with httpx.Client(base_url=behind_tls.url, timeout=30) as browser:
        plain = browser.get("/admin/login/", headers=proxied | {"X-Forwarded-Proto": "http"})
        page = browser.get("/admin/login/", headers=proxied | {"X-Forwarded-Proto": "https"})
        token = page.headers["set-cookie"].split("csrftoken=")[1].split(";")[0]
        signed_in = browser.post(
            "/admin/login/",
            headers=proxied
            | {
                "X-Forwarded-Proto": "https",
                "Origin": "https://gateway.corp.test",
                "Cookie": f"csrftoken={token}",
                "Referer": "https://gateway.corp.test/admin/login/",
            },
            data={"username": "root", "password": "x", "csrfmiddlewaretoken": token},
        )
        models = browser.get("/v1/models", headers=proxied | {"X-Forwarded-Proto": "http"})

    assert (plain.status_code, plain.headers["location"]) == (301, "https://gateway.corp.test/admin/login/")
    assert page.headers["strict-transport-security"] == "max-age=86400"
    assert "Secure" in page.headers["set-cookie"]
    assert signed_in.status_code == 302
    session = next(one for one in signed_in.headers.get_list("set-cookie") if one.startswith("sessionid="))
    assert [text in session for text in ("Secure", "HttpOnly", "SameSite=Lax", "Max-Age=7200")] == [True] * 4
    assert models.status_code == 401  # an API client is told, not sent elsewhere
