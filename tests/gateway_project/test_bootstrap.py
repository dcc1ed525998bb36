from __future__ import annotations

import stat
from decimal import Decimal
from pathlib import Path

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import RequestFactory
from django.utils import timezone
from pytest_django import Settings

from chatgateway.agentserver.exceptions import TooOld, Unauthorized
from chatgateway.models import AgentServer
from gateway_project import bootstrap
from gateway_project.bootstrap import DemoLlm
from profiles import access, issuing
from profiles.exceptions import UnknownKey
from profiles.models import ApiKey, Profile, Tenant
from tests import factories
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_project.conftest import ScriptedLlmProcess

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("data_dir")]

URL = "http://127.0.0.1:8000"
GIVEN = "a-key-that-an-operator-chose-0001"
OTHER = "a-key-that-an-operator-chose-0002"
DEMO = DemoLlm(base_url="http://127.0.0.1:20001/v1", api_key="demo-key")


def _stored[Row: (AgentServer, Profile)](row: Row) -> Row:
    """The row as it is read, with its secrets as such."""
    row.refresh_from_db()
    return row


def _caller(text: str) -> access.Caller:
    return access.caller_for(text, now=timezone.now())


def _signed_in(username: str, password: str) -> AbstractBaseUser | None:
    """Whom these sign in; attempts are counted by address, so there is a request."""
    return authenticate(RequestFactory().post("/admin/login/"), username=username, password=password)


# --- access --------------------------------------------------------------------------------------------------------


def test_the_first_start_makes_an_administrator_a_tenant_and_a_key_that_work() -> None:
    made = bootstrap.set_up_access(public_url=URL)

    assert made.password
    assert made.key
    assert getattr(_signed_in("admin", made.password), "is_superuser", False)
    key = ApiKey.objects.get()
    assert (key.can_chat, key.can_manage, key.allows_all_profiles, key.used_by_one_person) == (True,) * 4
    assert _caller(made.key).api_key_id == key.pk
    assert Tenant.objects.get() == key.tenant


def test_password_and_key_are_written_once_for_the_owner_of_the_process_only() -> None:
    made = bootstrap.set_up_access(public_url=URL)

    path = bootstrap.first_login_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == (
        f"Admin        {URL}/admin/\n"
        f"User         admin\n"
        f"Password     {made.password}\n"
        f"API base     {URL}/v1\n"
        f"API key      {made.key}\n\n"
        f"This file is removed when an administrator signs in for the first time.\n"
    )


def test_a_second_start_changes_nothing() -> None:
    bootstrap.set_up_access(public_url=URL)
    written = bootstrap.first_login_path().read_text()

    made = bootstrap.set_up_access(public_url=URL)

    assert (made.username, made.password, made.key) == ("admin", None, None)
    assert (get_user_model().objects.count(), Tenant.objects.count(), ApiKey.objects.count()) == (1, 1, 1)
    assert bootstrap.first_login_path().read_text() == written


def test_an_administrator_made_by_hand_is_enough() -> None:
    get_user_model().objects.create_superuser("grace", "", "hopper")

    made = bootstrap.set_up_access(public_url=URL)

    assert (made.username, made.password) == ("grace", None)
    assert "Password" not in bootstrap.first_login_path().read_text()


def test_no_key_is_made_where_all_were_revoked() -> None:
    issuing.revoke(factories.api_key().row, reason="left")

    assert bootstrap.set_up_access(public_url=URL).key is None
    assert ApiKey.objects.count() == 1


def test_a_configured_key_works_from_the_start_and_is_not_written_anywhere(settings: Settings) -> None:
    settings.GATEWAY_BOOTSTRAP_API_KEY = GIVEN

    made = bootstrap.set_up_access(public_url=URL)

    assert made.key is None
    assert _caller(GIVEN).can_manage
    assert GIVEN not in bootstrap.first_login_path().read_text()


def test_a_configured_key_that_is_changed_takes_the_place_of_the_old_one(settings: Settings) -> None:
    settings.GATEWAY_BOOTSTRAP_API_KEY = GIVEN
    bootstrap.set_up_access(public_url=URL)
    before = _caller(GIVEN).api_key_id
    settings.GATEWAY_BOOTSTRAP_API_KEY = OTHER

    bootstrap.set_up_access(public_url=URL)

    assert _caller(OTHER).api_key_id == before
    with pytest.raises(UnknownKey):
        _caller(GIVEN)


def test_a_configured_key_that_cannot_be_one_is_refused_by_the_variable_s_name(settings: Settings) -> None:
    settings.GATEWAY_BOOTSTRAP_API_KEY = f"{GIVEN} with spaces"
    settings.GATEWAY_BOOTSTRAP_API_KEY_NAME = "OH_SESSION_API_KEYS_0"

    with pytest.raises(ImproperlyConfigured, match=r"^OH_SESSION_API_KEYS_0: .*without spaces"):
        bootstrap.set_up_access(public_url=URL)
    assert not get_user_model().objects.exists()


# --- commands ------------------------------------------------------------------------------------------------------


def test_a_password_can_be_had_anew(capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap.set_up_access(public_url=URL)

    call_command("reset_admin_password")

    name, password = capsys.readouterr().out.split()
    assert _signed_in(name, password) is not None


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        ([], None, "none yet"),
        (["ada", "grace"], None, "ada, grace"),
        (["ada"], "mallory", "no administrator 'mallory'"),
    ],
)
def test_whose_password_must_be_clear(names: list[str], asked: str | None, message: str) -> None:
    [get_user_model().objects.create_superuser(name, "", "x") for name in names]

    with pytest.raises(CommandError, match=message):
        call_command("reset_admin_password", *filter(None, [asked]))


def test_the_bootstrap_command_names_an_agent_server_that_somebody_else_runs(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_dir / "key").write_text("session-key\n")
    arguments = {
        "agent_server": "http://agents:8000",
        "session_api_key_file": data_dir / "key",
        "workspace_root": "/workspaces",
    }

    call_command("bootstrap", **arguments)
    call_command("bootstrap", **arguments)

    server = AgentServer.objects.get()
    assert (server.session_api_key.reveal(), server.workspace_root) == ("session-key", "/workspaces")
    assert str(bootstrap.first_login_path()) in capsys.readouterr().out


# --- profiles ------------------------------------------------------------------------------------------------------


def test_the_demo_is_labelled_costs_nothing_and_works_with_a_terminal_and_files(
    llm_answers: ScriptedLlmProcess,
) -> None:
    demo = bootstrap.set_up_demo(DEMO)

    assert (demo.slug, demo.source, demo.description) == ("demo", Profile.Source.DEMO, "demo, no real model")
    assert demo.tools == ["terminal", "file_editor", "task_tracker"]
    assert demo.prices() == {"input": "0", "output": "0", "cached": "0"}
    assert demo.sees_images is False
    assert (demo.llm_base_url, demo.llm_api_key.reveal()) == (DEMO.base_url, DEMO.api_key)


def test_the_next_start_tells_the_demo_where_its_llm_is_now_and_keeps_the_rest() -> None:
    bootstrap.set_up_demo(DEMO)
    Profile.objects.update(description="ours", input_price=Decimal(1))

    demo = bootstrap.set_up_demo(DemoLlm(base_url="http://127.0.0.1:20002/v1", api_key="new-key"))

    assert Profile.objects.get() == demo
    assert (demo.llm_base_url, demo.llm_api_key.reveal()) == ("http://127.0.0.1:20002/v1", "new-key")
    assert (demo.description, demo.input_price) == ("ours", Decimal(1))


@pytest.mark.parametrize(
    ("sources", "model", "wanted"),
    [
        ([], "", True),
        (["demo"], "", True),
        (["demo", "admin"], "", True),
        (["admin"], "", False),
        ([], "openai/gpt-5", False),
        (["demo"], "openai/gpt-5", False),
    ],
)
def test_the_demo_runs_unless_there_is_something_better(
    settings: Settings, sources: list[str], model: str, wanted: bool
) -> None:
    settings.LLM_MODEL = model
    [factories.profile(source=source) for source in sources]

    assert bootstrap.wants_demo() is wanted


def test_the_configured_model_becomes_the_profile_default(settings: Settings, llm_answers: ScriptedLlmProcess) -> None:
    settings.LLM_MODEL, settings.LLM_API_KEY = "openai/gpt-5", "sk-mine"

    profile, sentences = bootstrap.set_up_default()

    assert (profile.slug, profile.source, profile.llm_model) == ("default", "environment", "openai/gpt-5")
    assert profile.llm_api_key.reveal() == "sk-mine"
    assert sentences == (
        "LiteLLM's catalogue does not have 'openai/gpt-5': its price is unknown unless the profile says.",
    )


def test_a_changed_variable_changes_the_profile_at_the_next_start(
    settings: Settings, llm_answers: ScriptedLlmProcess
) -> None:
    settings.LLM_MODEL, settings.LLM_API_KEY = "openai/gpt-5", "sk-mine"
    bootstrap.set_up_default()
    settings.LLM_MODEL, settings.LLM_BASE_URL, settings.LLM_API_KEY = "openai/x", "http://10.0.0.9/v1", "sk-new"

    profile, _ = bootstrap.set_up_default()

    assert Profile.objects.get() == profile
    assert (profile.llm_model, profile.llm_base_url, profile.llm_api_key.reveal()) == (
        *("openai/x", "http://10.0.0.9/v1", "sk-new"),
    )


def test_a_profile_default_made_by_hand_is_left_as_it_is(settings: Settings, llm_answers: ScriptedLlmProcess) -> None:
    factories.profile(slug="default", llm_model="anthropic/claude-sonnet-4-5")
    settings.LLM_MODEL = "openai/gpt-5"

    profile, sentences = bootstrap.set_up_default()

    assert profile.llm_model == "anthropic/claude-sonnet-4-5"
    assert ["left as it is" in sentence for sentence in sentences] == [True]


@pytest.mark.parametrize(
    ("model", "base_url", "message"),
    [
        ("nonsense/foo", "", r"^LLM_MODEL: LiteLLM cannot tell the provider of 'nonsense/foo'"),
        ("openai/x", "no url", r"^LLM_BASE_URL: "),
    ],
)
def test_values_that_cannot_work_are_refused_by_the_variable_s_name(
    settings: Settings, llm_answers: ScriptedLlmProcess, model: str, base_url: str, message: str
) -> None:
    unknown = {"error": {"kind": "unknown_provider", "name": "", "message": ""}}
    llm_answers.answers["describe_model"] = {
        "nonsense/foo": unknown,
        "openai/x": llm_answers.answers["describe_model"],
    }[model]
    settings.LLM_MODEL, settings.LLM_BASE_URL = model, base_url

    with pytest.raises(ImproperlyConfigured, match=message):
        bootstrap.set_up_default()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            {
                "result": {
                    "text": "ready",
                    "finish_reason": "stop",
                    "input_tokens": 9,
                    "output_tokens": 1,
                    "seconds": 0.42,
                }
            },
            "openai/scripted answered in 0.4 s (10 tokens)",
        ),
        (
            {"error": {"kind": "call_failed", "name": "AuthenticationError", "message": "wrong\n key"}},
            "openai/scripted did not answer, so calls will fail until that is mended: AuthenticationError: wrong key",
        ),
    ],
)
def test_the_outcome_of_a_real_call_is_one_sentence(
    llm_answers: ScriptedLlmProcess, answer: dict[str, object], sentence: str
) -> None:
    llm_answers.answers["complete"] = answer

    assert bootstrap.try_llm(_stored(factories.profile())) == sentence
    assert llm_answers.asked[0]["params"]["api_key"] == "sk-provider-secret"


def test_an_llm_process_that_is_not_there_is_said_and_not_raised() -> None:
    assert bootstrap.try_llm(_stored(factories.profile())).startswith("openai/scripted was not tried: ")


# --- what may be used in this start --------------------------------------------------------------------------------


def _enabled() -> set[str]:
    return set(Profile.objects.usable().values_list("slug", flat=True))


def test_where_others_can_reach_it_what_a_start_made_with_tools_is_disabled() -> None:
    bootstrap.set_up_demo(DEMO)
    factories.profile(slug="by-hand", tools=["terminal"])
    factories.profile(slug="default", source="environment", tools=[])

    switched = bootstrap.switch_made_profiles(runs_demo_llm=True, may_use_tools=False)

    assert switched.disabled == ("demo",)
    assert _enabled() == {"by-hand", "default"}


def test_what_a_start_disabled_the_next_one_enables_when_it_may() -> None:
    bootstrap.set_up_demo(DEMO)
    bootstrap.switch_made_profiles(runs_demo_llm=True, may_use_tools=False)
    bootstrap.switch_made_profiles(runs_demo_llm=True, may_use_tools=False)

    switched = bootstrap.switch_made_profiles(runs_demo_llm=True, may_use_tools=True)

    assert switched.enabled == ("demo",)
    assert _enabled() == {"demo"}


def test_what_an_administrator_disabled_stays_so() -> None:
    bootstrap.set_up_demo(DEMO)
    Profile.objects.update(is_enabled=False)
    bootstrap.switch_made_profiles(runs_demo_llm=True, may_use_tools=False)

    bootstrap.switch_made_profiles(runs_demo_llm=True, may_use_tools=True)

    assert _enabled() == set()


def test_the_demo_without_its_llm_cannot_be_called() -> None:
    bootstrap.set_up_demo(DEMO)

    bootstrap.switch_made_profiles(runs_demo_llm=False, may_use_tools=True)

    assert _enabled() == set()


# --- agent-servers -------------------------------------------------------------------------------------------------


def test_the_embedded_server_keeps_its_row_and_what_was_set_on_it(data_dir: Path) -> None:
    first = bootstrap.set_up_embedded_server(
        url="http://127.0.0.1:20003", session_api_key="one", workspace_root=data_dir
    )
    AgentServer.objects.update(capacity=3, state="draining")

    bootstrap.set_up_embedded_server(url="http://127.0.0.1:20004", session_api_key="two", workspace_root=data_dir)

    server = AgentServer.objects.get()
    assert (server.pk, server.url, server.session_api_key.reveal()) == (first.pk, "http://127.0.0.1:20004", "two")
    assert (server.capacity, server.state, server.is_embedded) == (3, "draining", True)


def test_a_probe_stores_what_the_server_says_of_itself(agent_server: FakeAgentServer) -> None:
    server = factories.agent_server(url=agent_server.url, session_api_key=agent_server.session_api_key)

    assert bootstrap.probe_server(_stored(server)) == "1.58.0"

    server.refresh_from_db()
    assert (server.health, server.version) == ("up", "1.58.0")
    assert "terminal" in server.usable_tools


def test_a_server_that_is_too_old_is_refused_and_marked_down(agent_server: FakeAgentServer) -> None:
    agent_server.version = "1.44.0"
    server = factories.agent_server(url=agent_server.url, session_api_key=agent_server.session_api_key)

    with pytest.raises(TooOld):
        bootstrap.probe_server(_stored(server))
    server.refresh_from_db()
    assert (server.health, server.health_message[:7]) == ("down", "TooOld:")


def test_a_server_with_another_key_is_refused(agent_server: FakeAgentServer) -> None:
    server = factories.agent_server(url=agent_server.url, session_api_key="wrong")

    with pytest.raises(Unauthorized):
        bootstrap.probe_server(_stored(server))
