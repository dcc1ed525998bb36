"""More callers than slots, and a server that dies among others."""

from __future__ import annotations

import random
import time

import pytest

from chatgateway.models import Turn
from tests.faults.proxy import Proxy
from tests.faults.site import Site, lasting
from tests.waiting import eventually


@pytest.mark.scenario("64 callers at once on a server with 10 slots")
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_callers_beyond_the_slots_wait_their_turn(site: Site, stream: bool) -> None:
    agent = site.agent(capacity=10)
    gateway = site.gateway()
    site.plays(lasting(0.2))

    made = site.ask_many(64, gateway.url, stream=stream).result(60)

    assert [call.told for call in made if not call.is_answered] == []
    assert agent.most_running <= 10
    site.settle(answered=64)


@pytest.mark.full
@pytest.mark.timeout(240)  # a feed that broke is given a minute to come back
@pytest.mark.scenario("200 turns over three servers of which one dies")
def test_a_server_that_dies_among_others_fails_its_own_runs_alone(site: Site) -> None:
    doomed, *_ = (site.agent(capacity=10) for _ in range(3))
    gateway = site.gateway()
    site.plays(lasting(0.5))
    asking = site.ask_many(200, gateway.url, every_seconds=0.02)
    eventually(lambda: Turn.objects.exclude(outcome="open").count() > 30, timeout_seconds=30)
    running = doomed.running
    doomed.crash()

    made = asking.result(120)

    doomed.come_back()  # until then nobody knows that the runs it lost have ended
    failed = [call for call in made if not call.is_answered]
    assert len(failed) <= running + 1
    assert all(call.told is not None and call.told.is_clear for call in failed)
    site.settle(answered=200 - len(failed), abandoned=len(failed), within_seconds=60)


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.scenario("Web processes are killed at random under load, and started again")
def test_processes_that_die_all_the_time_run_nothing_twice_and_mix_nothing_up(site: Site) -> None:
    site.agent(capacity=40)
    gateways = [site.gateway(is_ready=False) for _ in range(2)]
    site.plays(lasting(1.5))
    chance = random.Random(7)  # the moments are the machine's; which process dies is not
    with Proxy(*(one.wait_until_ready().port for one in gateways)) as balancer:
        collected = site.ask_many(60, balancer.url, every_seconds=0.25)
        streamed = site.ask_many(60, balancer.url, every_seconds=0.25, stream=True)
        for _ in range(5):
            time.sleep(2 + chance.random())
            victim = chance.randrange(2)
            gateways[victim].kill()
            site.let_leases_run_out()
            gateways[victim] = site.gateway(port=gateways[victim].port)
        made = collected.result(100) + streamed.result(100)

    cut = [call for call in made if not call.is_answered]
    assert len(cut) < 60
    counted = site.settle(within_seconds=60, outcomes_matter=False)
    assert counted.calls == 120
