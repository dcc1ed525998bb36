"""`GET /ready`: whether turns can be served, and what is wrong, one part after the other."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from chatgateway import task_log
from chatgateway.models import AgentServer, TaskRun
from gateway_project.supervisor.network import free_port
from profiles.models import Profile
from tests import factories
from tests.faults.processes import GatewayProcess
from tests.gateway_process import LiveGateway

NO_BROKER = "the message broker does not answer, so no background task runs"
NO_WORKER = "no worker has begun a background task for a minute"


@pytest.fixture
def worked(served: LiveGateway) -> LiveGateway:
    """A gateway that has all it needs, and a worker that has just been at work."""
    task_log.begin("chatgateway.tasks.probe_servers", every_seconds=10)
    return served


def ready(gateway: LiveGateway) -> tuple[int, dict[str, Any]]:
    response = httpx.get(f"{gateway.url}/ready")
    return response.status_code, response.json()


def test_all_is_well(worked: LiveGateway) -> None:
    assert ready(worked) == (200, {"status": "ready", "missing": [], "impaired": []})


def test_a_new_gateway_says_what_it_lacks(gateway: LiveGateway) -> None:
    status, said = ready(gateway)

    assert (status, said["status"]) == (503, "unavailable")
    assert said["missing"] == ["there is no agent-server", "no profile is enabled"]
    assert said["impaired"] == [NO_WORKER]


def test_without_an_enabled_profile_no_turn_is_served(worked: LiveGateway) -> None:
    Profile.objects.update(is_enabled=False)

    status, said = ready(worked)

    assert (status, said["missing"], said["impaired"]) == (503, ["no profile is enabled"], [])


@pytest.mark.parametrize("state", [AgentServer.State.DRAINING, AgentServer.State.DISABLED])
def test_without_an_active_agent_server_no_turn_is_served(worked: LiveGateway, state: str) -> None:
    AgentServer.objects.update(state=state)

    status, said = ready(worked)

    assert (status, said["missing"]) == (503, ["no agent-server is active"])


def test_one_agent_server_of_two_is_down(worked: LiveGateway) -> None:
    factories.agent_server(name="two", health=AgentServer.Health.DOWN, health_message="http://10.0.0.7 refused")

    status, said = ready(worked)

    assert (status, said["missing"]) == (200, [])
    assert said["impaired"] == ["agent-server two does not answer"]  # without its address: anybody may ask


def test_all_agent_servers_are_down(worked: LiveGateway) -> None:
    AgentServer.objects.update(name="one", health=AgentServer.Health.DOWN)
    factories.agent_server(name="two", health=AgentServer.Health.DOWN)
    factories.agent_server(name="off", state=AgentServer.State.DISABLED)

    status, said = ready(worked)

    assert (status, said["missing"]) == (503, ["no active agent-server answers: one, two"])


def test_no_worker_runs_and_turns_are_served_all_the_same(worked: LiveGateway) -> None:
    TaskRun.objects.update(started_at=timezone.now() - dt.timedelta(minutes=2))

    assert ready(worked) == (200, {"status": "ready", "missing": [], "impaired": [NO_WORKER]})


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_the_broker_does_not_answer(worked: LiveGateway, settings: Any, scheme: str) -> None:
    settings.CELERY_BROKER_URL = f"{scheme}://nobody:secret@127.0.0.1:{free_port()}/0"
    TaskRun.objects.update(started_at=timezone.now() - dt.timedelta(minutes=2))

    assert ready(worked) == (200, {"status": "ready", "missing": [], "impaired": [NO_BROKER]})


@pytest.mark.django_db(transaction=True)
def test_the_database_does_not_answer(tmp_path: Path) -> None:
    url = f"postgres://nobody:secret@127.0.0.1:{free_port()}/none"
    gateway = GatewayProcess(data_dir=tmp_path, GATEWAY_DATABASE_URL=url)
    try:
        gateway.wait_until_ready()
        asked_at = time.monotonic()
        response = httpx.get(f"{gateway.url}/ready", timeout=60)
        took = time.monotonic() - asked_at
    finally:
        gateway.kill()

    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "missing": ["the database does not answer"], "impaired": []}
    assert took < 5
