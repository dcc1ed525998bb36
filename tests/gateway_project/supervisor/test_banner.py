from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from gateway_project.bootstrap import Access
from gateway_project.supervisor import banner
from gateway_project.supervisor.banner import Ready
from gateway_project.supervisor.terminal import Terminal
from profiles.models import Profile

ROOT = Path(__file__).resolve().parents[3]
DEMO = Profile(slug="demo", source="demo", description="demo, no real model", llm_model="openai/demo")
OWN = Profile(slug="default", source="environment", llm_model="openai/gpt-5")


def _shown(**facts: Any) -> str:
    stream = io.StringIO()
    terminal = Terminal(stream)
    values: dict[str, Any] = {
        "seconds": 12.3,
        "public_url": "http://127.0.0.1:8000",
        "access": Access(username="admin"),
        "given_key_variable": "",
        "first_login_path": Path("/nowhere/first-login.txt"),
        "profile": DEMO,
        "runs_agents_here": True,
        "is_loopback": True,
        "host": "127.0.0.1",
        "port": 8000,
        "own_names": [],
        "logs": Path("/data/logs"),
    }
    banner.show(terminal, Ready(**(values | facts)))
    terminal.close()
    return stream.getvalue()


def test_the_first_start_shows_how_to_get_in_and_a_call_that_works() -> None:
    shown = _shown(access=Access(username="admin", password="hopper", key="gw-0123abcd-secret"))

    assert "Admin      http://127.0.0.1:8000/admin/" in shown
    assert "Login      admin  hopper" in shown
    assert "API key    gw-0123abcd-secret" in shown
    assert '-H "Authorization: Bearer gw-0123abcd-secret"' in shown
    assert "also in /nowhere/first-login.txt until the first login; anew:" in shown
    assert "manage.py reset_admin_password, or uv run python manage.py mint_key --tenant default --name laptop" in shown
    assert '{"model":"openhands_demo","stream":true,"messages":[{"role":"user","content":"run `uname -a`"}]}' in shown


def test_a_later_start_says_where_they_are_or_how_to_get_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "first-login.txt"
    path.touch()

    assert f"password in {path}, or anew: uv run python manage.py reset_admin_password" in _shown(first_login_path=path)
    assert "admin, password anew: uv run python manage.py reset_admin_password" in _shown()
    assert "API key    anew: uv run python manage.py mint_key --tenant default --name laptop" in _shown()
    assert "/nowhere" not in _shown()
    assert '-H "Authorization: Bearer $GATEWAY_KEY"' in _shown()


def test_a_key_of_one_s_own_is_named_and_not_shown() -> None:
    shown = _shown(given_key_variable="GATEWAY_BOOTSTRAP_API_KEY")

    assert "API key    as in GATEWAY_BOOTSTRAP_API_KEY" in shown
    assert "Bearer $GATEWAY_BOOTSTRAP_API_KEY" in shown


@pytest.mark.parametrize(
    ("profile", "line"),
    [
        (DEMO, "Model      openhands_demo  demo, no real model: set LLM_MODEL and LLM_API_KEY_FILE to use yours\n"),
        (OWN, "Model      openhands_default  openai/gpt-5\n"),
        (None, "Model      none can be used yet: make or enable a profile in the admin\n"),
    ],
)
def test_the_demo_is_never_taken_for_a_model(profile: Profile | None, line: str) -> None:
    assert line in _shown(profile=profile)


def test_without_a_profile_no_call_is_offered() -> None:
    assert "curl" not in _shown(profile=None)


def test_what_an_agent_can_read_is_said_where_agents_run() -> None:
    assert "they can read what that user can" in _shown()
    assert "they can read what that user can" not in _shown(runs_agents_here=False)


def test_what_others_can_reach_is_said_where_they_can() -> None:
    exposed = _shown(host="0.0.0.0", is_loopback=False, own_names=["box", "192.0.2.9"])

    assert "Listening on 0.0.0.0: everybody who reaches port 8000" in exposed
    assert "it answers to box, 192.0.2.9 (GATEWAY_ALLOWED_HOSTS)" in exposed
    assert "Listening on" not in _shown()


@pytest.mark.parametrize("page", [banner.AGENT_USER_PAGE, banner.EXPOSURE_PAGE])
def test_the_pages_it_points_to_are_there(page: str) -> None:
    assert (ROOT / page).is_file()
