"""More callers than slots, and a server that dies among others."""

from __future__ import annotations

import pytest

from chatgateway.models import Turn
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

    failed = [call for call in made if not call.is_answered]
    assert len(failed) <= running + 1
    assert all(call.told is not None and call.told.is_clear for call in failed)
    site.settle(answered=200 - len(failed), failed=len(failed), within_seconds=100)
