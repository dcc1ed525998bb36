"""The Celery worker or its broker is gone: turns do not need them."""

from __future__ import annotations

import pytest

from chatgateway.models import Turn
from gateway_project.supervisor.network import free_port
from tests.fakes.agent_script import Gate
from tests.faults import calls
from tests.faults.site import Site, waiting_at
from tests.waiting import eventually


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

    assert collected.result(60).is_answered
    assert streamed.result(60).is_answered
    assert site.ask(gateway.url).is_answered
    site.settle(answered=3)


@pytest.mark.scenario("Every web process is dead; the worker completes the record")
def test_the_worker_completes_what_no_web_process_is_left_for(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    worker = site.worker()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking_both(gateway.url, client={"max_retries": 0})
    gate.wait_until_reached(by=2)
    site.open_turns(2)
    gateway.kill()
    left = [one.result(60) for one in asking]
    gate.open()
    agent.wait_until(lambda: agent.running == 0)
    site.let_leases_run_out(by_seconds=60)

    worker.run("chatgateway.tasks.recover_turns")

    site.settle(answered=2)
    assert {turn.answer for turn in Turn.objects.all()} == {calls.answer_to(call.token) for call in left}


@pytest.mark.scenario("kill -9 of the worker while it follows a turn it took over")
def test_a_turn_that_the_worker_took_over_and_lost_is_taken_over_again(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    worker = site.worker()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking(gateway.url, client={"max_retries": 0})
    gate.wait_until_reached()
    site.open_turn()
    gateway.kill()
    left = asking.result(60)
    site.let_leases_run_out(by_seconds=60)
    worker.run("chatgateway.tasks.recover_turns")
    eventually(lambda: Turn.objects.filter(lease_generation=2).exists())
    worker.kill()
    site.let_leases_run_out()
    site.gateway()
    gate.open()

    site.settle(answered=1)
    assert Turn.objects.get().answer == calls.answer_to(left.token)


@pytest.mark.scenario("Celery's broker is down")
def test_a_broker_that_is_down_costs_no_turn(site: Site) -> None:
    site.agent()
    gateway = site.gateway(GATEWAY_CELERY_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0")

    site.ask(gateway.url)
    site.ask(gateway.url, stream=True)

    site.settle(answered=2)
