"""`manage.py up` as an operator meets it when something is wrong: one sentence, status 2, no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_project.supervisor.data_dir import locked
from gateway_project.supervisor.network import free_port

ROOT = Path(__file__).resolve().parents[2]


class Refused:
    """An `up` that ended by itself. `error` is its sentence."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        given = {"GATEWAY_DATA_DIR": str(data_dir), "GATEWAY_READ_DOTENV": "false"}
        ended = subprocess.run(
            [sys.executable, "manage.py", "up", *arguments],
            cwd=ROOT,
            env=inherited | given | environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        self.status = ended.returncode
        self.output = ended.stdout + ended.stderr
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        self.error = errors[0].removeprefix("error: ") if len(errors) == 1 else self.output


@pytest.fixture
def port() -> str:
    return str(free_port())


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("GATEWAY_DATA_DIR", "/proc/nowhere", "GATEWAY_DATA_DIR=/proc/nowhere cannot be made: "),
        ("GATEWAY_DATABASE_URL", "mysql://db/x", "GATEWAY_DATABASE_URL must be a sqlite:/// or postgres:// URL."),
        ("GATEWAY_BOOTSTRAP_API_KEY", "short", "GATEWAY_BOOTSTRAP_API_KEY needs at least 32 characters, it has 5"),
        ("OH_SESSION_API_KEYS_0", "short", "OH_SESSION_API_KEYS_0 needs at least 32 characters, it has 5"),
        ("LLM_API_KEY_FILE", "/nowhere", "LLM_API_KEY_FILE=/nowhere: No such file or directory."),
        ("GATEWAY_LOG_FORMAT", "xml", "GATEWAY_LOG_FORMAT='xml': write one of auto, json, text."),
        ("GATEWAY_DEBUG", "maybe", "GATEWAY_DEBUG='maybe': write true or false."),
        ("GATEWAY_READ_DOTENV", "maybe", "GATEWAY_READ_DOTENV='maybe': write true or false."),
        ("GATEWAY_DATABASE_URL", "foo", "GATEWAY_DATABASE_URL must be a sqlite:/// or postgres:// URL."),
        (
            "GATEWAY_DATABASE_URL",
            "postgres://a:b@c:x/d",
            "GATEWAY_DATABASE_URL must be a sqlite:/// or postgres:// URL.",
        ),
        ("GATEWAY_DATABASE_POOL_SIZE", "1", "GATEWAY_DATABASE_POOL_SIZE=1 is below 2."),
        ("GATEWAY_CELERY_BROKER_URL", "redis", "GATEWAY_CELERY_BROKER_URL must be a URL, such as redis://host:6379/0"),
        ("GATEWAY_TIME_ZONE", "Mars/Olympus", "GATEWAY_TIME_ZONE='Mars/Olympus' is no time zone."),
        ("GATEWAY_PUBLIC_URL", "gateway:8000", "GATEWAY_PUBLIC_URL='gateway:8000': write a URL such as"),
        ("LLM_BASE_URL", "ftp://llm", "LLM_BASE_URL='ftp://llm': write a URL such as"),
        ("GATEWAY_ALLOWED_HOSTS", "a.example,http://b.example", "GATEWAY_ALLOWED_HOSTS: 'http://b.example' is no host"),
        ("GATEWAY_ALLOWED_HOSTS", "a.example:8000", "GATEWAY_ALLOWED_HOSTS: 'a.example:8000' is no host name."),
        ("GATEWAY_CSRF_TRUSTED_ORIGINS", "a.example", "GATEWAY_CSRF_TRUSTED_ORIGINS: 'a.example' is no origin."),
        (
            "GATEWAY_CORS_ALLOWED_ORIGINS",
            "https://a.example/x",
            "GATEWAY_CORS_ALLOWED_ORIGINS: 'https://a.example/x' is",
        ),
        ("GATEWAY_WORKSPACE_ROOTS", "work", "GATEWAY_WORKSPACE_ROOTS: 'work' is no absolute path."),
        ("GATEWAY_TRUSTED_PROXIES", "proxy", "GATEWAY_TRUSTED_PROXIES: 'proxy' does not appear to be an IPv4 or IPv6"),
        ("GATEWAY_PING_SECONDS", "soon", "GATEWAY_PING_SECONDS='soon' is not a number."),
        ("GATEWAY_ENCRYPTION_KEYS", "short", "GATEWAY_ENCRYPTION_KEYS: each key needs at least 32 characters."),
        ("GATEWAY_API_KEY_PEPPER", "short", "GATEWAY_API_KEY_PEPPER needs at least 32 characters."),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name(
    tmp_path: Path, variable: str, value: str, sentence: str
) -> None:
    refused = Refused(tmp_path, **{variable: value})

    assert refused.status == 2
    assert refused.error.startswith(sentence)
    assert "Traceback" not in refused.output


def test_a_taken_port_is_named(tmp_path: Path, taken_port: str) -> None:
    refused = Refused(tmp_path, "--port", taken_port)

    assert refused.status == 2
    assert refused.error == (
        f"Port {taken_port} of 127.0.0.1 cannot be used (Address already in use): "
        f"stop what uses it, or choose another with --port or --host."
    )


def test_a_second_start_on_the_same_data_is_refused(tmp_path: Path, port: str) -> None:
    with locked(tmp_path, url="http://127.0.0.1:8000"):
        refused = Refused(tmp_path, "--port", port)

    assert refused.status == 2
    assert refused.error.startswith(f"The data directory {tmp_path} is in use by another `manage.py up` (process ")


def test_a_missing_git_is_named(tmp_path: Path, port: str) -> None:
    refused = Refused(tmp_path, "--port", port, PATH="/nowhere")

    assert refused.status == 2
    assert refused.error == "git was not found, and agents cannot work without it: install git and start again."


def test_a_missing_interpreter_is_named_and_what_was_started_is_gone(tmp_path: Path, port: str) -> None:
    refused = Refused(tmp_path, "--port", port, GATEWAY_AGENT_PYTHON="/nowhere/python")

    assert refused.status == 2
    assert refused.error == "GATEWAY_AGENT_PYTHON=/nowhere/python cannot be run: No such file or directory."
    assert "everything has ended" in refused.output
    with locked(tmp_path, url=""):  # no guard holds it any more
        pass
