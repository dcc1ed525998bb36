from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_project import hardening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

PROGRAM = """
import os, subprocess
from gateway_project import hardening
{call}
seen = subprocess.run(["cat", f"/proc/{{os.getpid()}}/environ"], capture_output=True).stdout.decode()
print("LEAKS" if "hunter22" in seen else "HIDDEN", os.environ["LLM_API_KEY"], "PLAIN=visible" in seen)
"""


def _run(call: str, *wrapper: str) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "LLM_API_KEY": "hunter22", "PLAIN": "visible"}
    command = [*wrapper, sys.executable, "-c", PROGRAM.format(call=call)]
    ended = subprocess.run(
        command, env=environment, cwd=Path.cwd(), capture_output=True, text=True, timeout=100, check=True
    )
    return ended.stdout.split()


def test_an_environment_is_readable_by_default() -> None:
    assert _run("pass") == ["LEAKS", "hunter22", "True"]


def test_a_hidden_environment_is_gone_for_root_too_but_kept_for_the_process_itself() -> None:
    assert _run("hardening.hide_environment()") == ["HIDDEN", "hunter22", "True"]


@pytest.mark.skipif(os.getuid() == 0, reason="the kernel lets root read any process")
def test_the_kernel_refuses_an_undumpable_process_to_others_of_its_user() -> None:
    assert _run("assert hardening.make_undumpable()") == ["HIDDEN", "hunter22", "False"]


@pytest.mark.parametrize(
    "name",
    [
        *("LLM_API_KEY", "OPENAI_API_KEY", "GATEWAY_SECRET_KEY", "GATEWAY_ENCRYPTION_KEYS", "GATEWAY_API_KEY_PEPPER"),
        *("GATEWAY_DATABASE_URL", "GATEWAY_CELERY_BROKER_URL", "OH_SESSION_API_KEYS_0", "GATEWAY_DEMO_LLM_KEY"),
        *("GITHUB_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_variables_with_credentials_are_recognised(name: str) -> None:
    assert hardening.is_secret(name, "x")


@pytest.mark.parametrize("name", ["PATH", "HOME", "LANG", "LLM_MODEL", "LLM_API_KEY_FILE", "SSH_AUTH_SOCK", "TMPDIR"])
def test_other_variables_are_left(name: str) -> None:
    assert not hardening.is_secret(name, "http://host:80/x@y")


def test_a_url_with_a_password_is_a_credential_under_any_name() -> None:
    assert hardening.is_secret("SERVICE", "amqp://user:password@host//")
