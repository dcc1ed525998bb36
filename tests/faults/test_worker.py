"""The Celery worker or its broker is gone: turns do not need them."""

from __future__ import annotations

import pytest

from gateway_project.supervisor.network import free_port
from tests.fakes.agent_script import Gate
from tests.faults.site import Site, waiting_at


@pytest.mark.scenario("kill -9 of the Celery worker in mid-run")
def test_a_dead_worker_costs_no_turn(site: Site) -> None:
    site.agent()
    worker = site.worker()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    collected, streamed = site.asking(gateway.url), site.asking(gateway.url, stream=True)
    gate.wait_until_reached()
    worker.kill()
    gate.open()

    assert collected.result(20).is_answered
    assert streamed.result(20).is_answered
    assert site.ask(gateway.url).is_answered
    site.settle(answered=3)


@pytest.mark.scenario("Celery's broker is down")
def test_a_broker_that_is_down_costs_no_turn(site: Site) -> None:
    site.agent()
    gateway = site.gateway(GATEWAY_CELERY_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0")

    site.ask(gateway.url)
    site.ask(gateway.url, stream=True)

    site.settle(answered=2)
