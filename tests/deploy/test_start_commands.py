"""The files in deploy/: what they start is run here as they have it, without a container engine, and every manifest is
held against Kubernetes' own schemas."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from django.db import connection

from gateway_project.supervisor.network import free_port
from tests.fakes.agent_server import FakeAgentServer
from tests.faults.processes import ROOT, database_url
from tests.requirements import need
from tests.waiting import eventually

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
KUBERNETES = "1.32"


def resources(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every container that Kubernetes is told of, with the pod it is in."""
    for path in MANIFESTS:
        for one in resources(path):
            pod = one.get("spec", {}).get("template", {}).get("spec", {})
            for container in pod.get("containers", []):
                yield f"{one['metadata']['name']}/{container['name']}", pod, container


CONTAINERS = {name: (pod, container) for name, pod, container in containers()}


def docker_command() -> list[str]:
    found = re.search(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    command: list[str] = yaml.safe_load(found.group(1))
    return command


def systemd_command(unit: str) -> list[str]:
    found = re.search(r"^ExecStart=\S*/bin/(.*)$", (DEPLOY / "systemd" / unit).read_text(), re.MULTILINE)
    assert found is not None
    return shlex.split(found.group(1))


# --- all files say the same ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_takes(path: Path) -> None:
    for one in resources(path):
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_a_manifest_with_a_mistake_is_found() -> None:
    [config] = resources(DEPLOY / "kubernetes" / "config.yaml")

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(config | {"dota": {}}, KUBERNETES, strict=True)


def test_the_kustomization_has_every_manifest_and_image() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())

    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]
    assert {image["name"] for image in kustomization["images"]} == {one["image"] for _, one in CONTAINERS.values()}


@pytest.mark.parametrize(
    ("container", "service"),
    [("gateway/gateway", None), ("gateway/llm", "llm"), ("worker/worker", "worker"), ("beat/beat", "beat")],
)
def test_kubernetes_and_compose_start_the_same(container: str, service: str | None) -> None:
    in_compose = shlex.split(SERVICES[service]["command"]) if service else docker_command()

    assert CONTAINERS[container][1]["command"] == in_compose


@pytest.mark.parametrize(
    ("unit", "service"),
    [("gateway-llm.service", "llm"), ("gateway-worker.service", "worker"), ("gateway-beat.service", "beat")],
)
def test_systemd_and_compose_start_the_same(unit: str, service: str) -> None:
    in_compose = SERVICES[service]["command"].replace("/data/", "/var/lib/openhands-gateway/")

    assert systemd_command(unit) == shlex.split(in_compose)


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_container_runs_as_root_or_can_become_it(name: str) -> None:
    pod, container = CONTAINERS[name]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_are_given_the_time_that_a_drain_takes() -> None:
    pod, container = CONTAINERS["gateway/gateway"]
    [config] = resources(DEPLOY / "kubernetes" / "config.yaml")
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])

    assert pod["terminationGracePeriodSeconds"] >= pause + int(config["data"]["GATEWAY_SHUTDOWN_GRACE_SECONDS"]) + 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", sorted(path.name for path in (DEPLOY / "systemd").glob("*.service")))
def test_systemd_understands_its_units(unit: str, tmp_path: Path) -> None:
    # The one thing that is not there: what the unit starts.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (DEPLOY / "systemd" / unit).read_text(), flags=re.MULTILINE)
    copy = tmp_path / unit.replace("@", "@8000")
    copy.write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip

    assert [line for line in done.stderr.splitlines() if unit.partition(".")[0].rstrip("@") in line] == []


# --- and what they start, works -----------------------------------------------------------------------------------


class Outside:
    """Runs what compose.yaml has for a service, with directories, secrets and addresses of this machine in the place of
    those in the containers."""

    def __init__(self, directory: Path, *, database: str, broker: str, agents: dict[str, str], key: str) -> None:
        self.port = free_port()
        secrets = directory / "secrets"
        secrets.mkdir()
        (secrets / "database_url").write_text(database)
        (secrets / "session_api_key").write_text(key)
        (secrets / "llm_api_key").write_text("sk-nobody-asks-for-it")
        self._places = {
            "/data": str(directory / "data"),
            "/run/secrets": str(secrets),
            "redis://valkey:6379/0": broker,
            **{f"http://{name}:8000": url for name, url in agents.items()},
            "--port 8000": f"--port {self.port}",
            "localhost:8000": f"localhost:{self.port}",
        }
        self._directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def here(self, text: str) -> str:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        for there, here in self._places.items():
            text = re.sub(rf"(?<!\w){re.escape(there)}(?!\w)", here, text)
        return text

    def environment(self, service: str) -> dict[str, str]:
        given = {name: self.here(str(value)) for name, value in SERVICES[service]["environment"].items()}
        tools = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        return given | {
            "PATH": tools,
            "HOME": str(self._directory),
            "GATEWAY_DATA_DIR": self.here("/data"),
            "GATEWAY_READ_DOTENV": "false",
            "LLM_MODEL": "openai/scripted",
        }

    def run(self, service: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.here(part) for part in command], cwd=ROOT, env=self.environment(service),
            capture_output=True, text=True, check=False, timeout=150,
        )  # fmt: skip

    def start(self, service: str, command: list[str]) -> None:
        log = (self._directory / f"{service}.log").open("wb")
        command = shlex.split(self.here(shlex.join(command)))
        self._running.append(
            subprocess.Popen(command, cwd=ROOT, env=self.environment(service), stdout=log, stderr=log)
        )  # fmt: skip
        log.close()

    def stop(self) -> list[int]:
        for process in self._running:
            process.terminate()
        return [process.wait(60) for process in self._running]

    def kill(self) -> None:
        for process in self._running:
            process.kill()


@pytest.fixture
def outside(transactional_db: None, agent_server: FakeAgentServer, tmp_path: Path) -> Iterator[Outside]:
    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL: run with GATEWAY_DATABASE_URL=postgres://…")
    broker = os.environ.get("GATEWAY_TEST_REDIS_URL", "")
    need(bool(broker), "redis", "set GATEWAY_TEST_REDIS_URL to a database that nobody else uses")
    other = FakeAgentServer()
    other.session_api_key = agent_server.session_api_key
    other.start()
    name = f"deployed_{os.getpid()}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    started = Outside(
        tmp_path,
        database=database_url().rpartition("/")[0] + f"/{name}",
        broker=broker,
        agents={"agent-server-1": agent_server.url, "agent-server-2": other.url},
        key=agent_server.session_api_key,
    )
    yield started
    started.kill()
    other.stop()
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.timeout(400)
def test_what_compose_starts_serves_a_call(outside: Outside) -> None:
    set_up = outside.run("setup", SERVICES["setup"]["command"])
    assert set_up.returncode == 0, set_up.stderr
    for service in ("worker", "beat", "llm"):
        outside.start(service, shlex.split(SERVICES[service]["command"]))
    outside.start("gateway", docker_command())
    check = SERVICES["gateway"]["healthcheck"]["test"][1:]
    eventually(lambda: outside.run("gateway", check).returncode == 0, timeout_seconds=90)

    first_login = (Path(outside.here("/data")) / "first-login.txt").read_text()
    key = re.search(r"gw-\S+", first_login)
    assert key is not None
    url = f"http://127.0.0.1:{outside.port}"
    reply = httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "openhands_default", "messages": [{"role": "user", "content": "Hi"}]},
        headers={"Authorization": f"Bearer {key.group()}"},
        timeout=60,
    )
    eventually(lambda: httpx.get(f"{url}/ready", timeout=20).status_code == 200)

    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "Hello from the agent."
    assert {code in {0, -15} for code in outside.stop()} == {True}
