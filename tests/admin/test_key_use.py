"""What a key's pages give to whoever uses it: programs that work as they stand, and figures of what it used."""

from __future__ import annotations

import datetime as dt
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from openai import BadRequestError, OpenAI
from pytest_django import Settings

from chatgateway.models import DailyUsage, Turn
from profiles import bookkeeping
from profiles.models import ApiKey
from tests import factories
from tests.admin.test_keys import add, page, shown_secret
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.requirements import need

NODE = Path(__file__).parents[1] / "node"
RUNNERS: dict[str, list[str]] = {
    "curl": ["bash", "-c"],
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}


@pytest.fixture
def root(served: LiveGateway, settings: Settings) -> Client:
    """A superuser's browser at a gateway whose public address is the one it has."""
    settings.GATEWAY_PUBLIC_URL = served.url
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="x"))
    return browser


def snippet(page_of_it: str, name: str) -> str:
    found = re.search(rf'id="snippet-{name}">(.*?)</pre>', page_of_it, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def run(language: str, program: str, **environment: str) -> str:
    """Run a program as it stands on the page and return what it printed."""
    runner = RUNNERS[language]
    has_sdk = language != "javascript" or (NODE / "node_modules" / "openai").is_dir()
    need(shutil.which(runner[0]) is not None and has_sdk, "node", "run `npm ci` in tests/node")
    done = subprocess.run(
        [*runner, program], capture_output=True, text=True, check=False, timeout=60, cwd=NODE,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("language", RUNNERS)
def test_the_programs_beside_a_new_secret_run_as_they_stand(
    root: Client, agent_server: FakeAgentServer, language: str
) -> None:
    agent_server.default_answer = Answer("Much.")

    program = snippet(add(root).content.decode(), language)

    assert "Much." in run(language, program)
    assert Turn.objects.get().key_name == "laptop"


@pytest.mark.parametrize("language", RUNNERS)
def test_the_programs_of_a_known_key_read_it_from_the_environment(
    root: Client, agent_server: FakeAgentServer, language: str
) -> None:
    agent_server.default_answer = Answer("Much.")
    key = factories.api_key()

    shown = root.get(page("how_to_use", key.row)).content.decode()

    assert "Much." in run(language, snippet(shown, language), GATEWAY_KEY=key.text)
    assert key.text not in shown


def test_the_programs_name_the_model_that_was_chosen_if_the_key_may_use_it(root: Client) -> None:
    key = factories.api_key(tenant=factories.tenant())
    factories.profile(slug="other")
    factories.profile(slug="foreign", owner=factories.tenant())
    url = page("how_to_use", key.row)

    chosen = root.get(url, {"model": "openhands_other"}).content.decode()
    refused = root.get(url, {"model": "openhands_foreign"}).content.decode()

    assert '"openhands_other"' in snippet(chosen, "curl")
    assert '"openhands_chat"' in snippet(refused, "curl")
    assert "foreign" not in refused


def test_a_key_that_only_manages_gets_a_program_that_manages(root: Client) -> None:
    key = factories.api_key(can_chat=False, can_manage=True)

    shown = root.get(page("how_to_use", key.row)).content.decode()

    assert '"profiles"' in run("curl", snippet(shown, "curl"), GATEWAY_KEY=key.text)
    assert "snippet-python" not in shown


def test_a_key_without_a_profile_is_told_so(root: Client) -> None:
    key = factories.api_key(profiles=[factories.profile(is_enabled=False)])

    assert "may use no profile" in root.get(page("how_to_use", key.row)).content.decode()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_key_made_strict_in_the_admin_refuses_what_would_have_no_effect(
    root: Client, served: LiveGateway, streamed: bool
) -> None:
    strict = shown_secret(add(root, refuses_ignored="on"))
    lenient = shown_secret(add(root, name="lenient"))

    def ask(key: str) -> str:
        with OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=60) as client:
            reply = client.chat.completions.with_raw_response.create(
                model="openhands_chat", messages=[{"role": "user", "content": "Hi"}], seed=1, stream=streamed
            )
            return str(reply.headers["x-gateway-ignored"])

    with pytest.raises(BadRequestError) as refused:
        ask(strict)

    assert refused.value.param == "seed"
    assert ask(lenient) == "seed"


def test_a_key_stops_being_strict_when_its_form_says_so(
    root: Client, client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    key = factories.api_key(refuses_ignored=True)
    sent = {"tenant": key.row.tenant_id, "name": "x", "can_chat": "on", "allows_all_profiles": "on", "notes": ""}

    root.post(page("change", key.row), sent)

    said = client_with(api_key=key.text).chat.completions.create(
        model="openhands_chat", messages=[{"role": "user", "content": "Hi"}], seed=1
    )
    assert said.choices[0].message.content
    assert not ApiKey.objects.get(pk=key.row.pk).refuses_ignored


# --- figures --------------------------------------------------------------------------------------------------------


def used(key: ApiKey, days_ago: int, **sums: object) -> None:
    day = timezone.now().astimezone(dt.UTC).date() - dt.timedelta(days=days_ago)
    DailyUsage.objects.create(tenant=key.tenant, api_key=key, day=day, **sums)


@pytest.mark.django_db
def test_a_keys_page_adds_up_what_it_used_in_thirty_days(admin: Client) -> None:
    key = factories.api_key().row
    used(key, 0, turns=3, input_tokens=1500, output_tokens=20, cost_usd=Decimal("0.25"))
    used(key, 29, turns=1000, unpriced_turns=2, input_tokens=500, output_tokens=1, cost_usd=Decimal(1))
    used(key, 30, turns=7, cost_usd=Decimal(99))
    used(factories.api_key().row, 0, turns=50_000, cost_usd=Decimal(99))

    shown = admin.get(page("change", key)).content.decode()

    told = "1,003 turns in 30 days; tokens: 2,000 in, 21 out; cost: $1.25, and 2 without a known price."
    assert told in shown
    assert shown.count('class="gw-chart-bar"') == 60
    assert f"{timezone.now().astimezone(dt.UTC):%Y-%m-%d}: $0.2500" in shown


@pytest.mark.django_db
def test_turns_without_a_price_are_not_said_to_be_free(admin: Client) -> None:
    key = factories.api_key().row
    used(key, 0, turns=2, unpriced_turns=2)

    assert "cost: unknown." in admin.get(page("change", key)).content.decode()


@pytest.mark.django_db
def test_a_key_that_was_not_used_has_no_chart(admin: Client) -> None:
    key = factories.api_key().row

    shown = admin.get(page("change", key)).content.decode()

    assert "Nothing in the last 30 days." in shown
    assert "<svg viewBox" not in shown


@pytest.mark.django_db
def test_the_form_of_a_new_key_asks_for_no_figures(admin: Client) -> None:
    assert "The last 30 days" not in admin.get(reverse("admin:profiles_apikey_add")).content.decode()


def test_last_use_names_the_client(root: Client, client_with: Callable[..., OpenAI]) -> None:
    key = factories.api_key()
    client_with(api_key=key.text).models.list()
    bookkeeping.flush()

    assert "by OpenAI/Python" in root.get(page("change", key.row)).content.decode()
