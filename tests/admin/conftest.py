from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from tests.gateway_project.conftest import ScriptedLlmProcess


@pytest.fixture(autouse=True)
def _no_llm_process(settings: Settings, tmp_path: Path) -> None:
    """Nobody talks to an llm process that happens to run on this machine."""
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "run" / "llm.sock")


@pytest.fixture(autouse=True)
def _fast_passwords(settings: Settings) -> None:
    """Django's own hasher takes half a second on purpose, and nothing here is about passwords."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def llm_answers(tmp_path: Path) -> Iterator[ScriptedLlmProcess]:
    """An llm process that answers as told; without this fixture there is none."""
    scripted = ScriptedLlmProcess(tmp_path / "run" / "llm.sock")
    yield scripted
    scripted.close()


@pytest.fixture
def admin(db: None) -> Client:
    """A browser in which a superuser has signed in."""
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="x"))
    return browser
