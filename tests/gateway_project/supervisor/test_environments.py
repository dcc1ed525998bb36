from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway_project.supervisor import environments

SHELL = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/operator",
    "LANG": "en_GB.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/var/tmp",
    "HTTPS_PROXY": "http://proxy:3128",
    "LLM_API_KEY": "sk-provider",
    "OPENAI_API_KEY": "sk-other",
    "ANTHROPIC_API_KEY": "sk-ant",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "GATEWAY_SECRET_KEY": "django",
    "GATEWAY_ENCRYPTION_KEYS": "fernet",
    "GATEWAY_API_KEY_PEPPER": "pepper",
    "GATEWAY_DATABASE_URL": "postgres://gateway:password@db/gateway",
    "GATEWAY_CELERY_BROKER_URL": "redis://:password@redis",
    "GATEWAY_BOOTSTRAP_API_KEY": "bootstrap",
    "OH_SESSION_API_KEYS_0": "from the shell",
    "OH_SECRET_KEY": "from the shell",
    "SSH_AUTH_SOCK": "/run/agent.sock",
    "SOMETHING_NEW": "unheard of",
    "PYTHONPATH": "/elsewhere",
    "VIRTUAL_ENV": sys.prefix,
}


def _agent_server() -> dict[str, str]:
    return environments.agent_server(SHELL, directory=Path("/data/a"), secret_key="own", session_api_key="session")


def test_the_agent_server_gets_an_allow_listed_environment() -> None:
    own = {name for name in _agent_server() if name.startswith(("OH_", "OPENHANDS_", "LOG_"))}
    assert set(_agent_server()) - own == {
        *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "HTTPS_PROXY"),
        *("LITELLM_LOCAL_MODEL_COST_MAP", "PYTHONUNBUFFERED"),
    }


@pytest.mark.parametrize("environment", [_agent_server(), environments.demo_llm(SHELL, key="demo")])
@pytest.mark.parametrize(
    "secret", ["sk-provider", "sk-other", "sk-ant", "aws", "django", "fernet", "pepper", "password", "bootstrap"]
)
def test_no_secret_of_ours_reaches_a_program_that_is_not_ours(environment: dict[str, str], secret: str) -> None:
    assert secret not in " ".join(environment.values())


@pytest.mark.parametrize(
    ("name", "value"), [("HOME", "/data/a/home"), ("OH_SECRET_KEY", "own"), ("OH_SESSION_API_KEYS_0", "session")]
)
def test_the_agent_server_s_home_and_keys_are_its_own_and_never_the_shell_s(name: str, value: str) -> None:
    assert _agent_server()[name] == value


def test_an_agent_s_python_is_the_machine_s_and_not_the_gateway_s() -> None:
    assert _agent_server()["PATH"] == "/usr/local/bin:/usr/bin:/bin"


def test_what_somebody_set_for_the_gateway_counts_more_than_what_the_start_knows() -> None:
    made = environments.gateway(
        SHELL | {"GATEWAY_PUBLIC_URL": "https://gateway.example"},
        public_url="http://127.0.0.1:8000",
        allowed_hosts=["localhost", "box"],
        log_format="text",
        grace_seconds=4,
    )

    assert made["GATEWAY_PUBLIC_URL"] == "https://gateway.example"
    assert made["GATEWAY_ALLOWED_HOSTS"] == "localhost,box"
    assert made["GATEWAY_SECRET_KEY"] == "django"
