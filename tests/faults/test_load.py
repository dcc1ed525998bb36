"""More callers than slots, and a server that dies among others."""

from __future__ import annotations

import random
import signal
import time

import pytest

from chatgateway.models import Turn
from profiles.models import Profile
from tests.faults import calls
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


@pytest.mark.scenario("Eight callers at once in one conversation, on two web processes")
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_callers_in_one_conversation_get_their_own_answers_one_after_the_other(site: Site, stream: bool) -> None:
    agent = site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    site.plays(lasting(0.2))
    known = site.ask(first.wait_until_ready().url)
    second.wait_until_ready()
    continued = {"X-OpenHands-ServerConversation-ID": known.conversation_id}

    asking = [
        site.asking(url, stream=stream, extra_headers=continued) for url in (first.url, second.url) for _ in range(4)
    ]
    made = [one.result(60) for one in asking]

    assert [call.text for call in made] == [calls.answer_to(call.token) for call in made]
    assert len(agent.only_conversation.posted) == 9
    site.settle(answered=9)


@pytest.mark.scenario("Callers leave a crowded queue at random")
def test_callers_who_leave_at_random_leave_no_slot_behind(site: Site) -> None:
    Profile.objects.update(disconnect_grace_seconds=0)
    agent = site.agent(capacity=2)
    gateway = site.gateway()
    site.plays(lasting(0.4))
    chance = random.Random(11)
    patience = [0.1 + 2 * chance.random() for _ in range(32)]

    asking = [
        site.asking(gateway.url, stream=index % 2 == 0, client={"timeout": seconds, "max_retries": 0})
        for index, seconds in enumerate(patience)
    ]
    made = [one.result(60) for one in asking]

    assert sum(call.is_answered for call in made) > 0
    assert agent.most_running <= 2
    site.settle(outcomes_matter=False)
    assert set(Turn.objects.values_list("outcome", flat=True)) <= {"answered", "cancelled"}


@pytest.mark.full
@pytest.mark.timeout(240)  # a feed that broke is given a minute to come back
@pytest.mark.scenario("200 turns over three servers of which one dies")
def test_a_server_that_dies_among_others_fails_its_own_runs_alone(site: Site) -> None:
    doomed, *_ = (site.agent(capacity=10) for _ in range(3))
    gateway = site.gateway()
    site.plays(lasting(0.5))
    asking = site.ask_many(200, gateway.url, every_seconds=0.02)
    eventually(lambda: Turn.objects.exclude(outcome="open").count() > 30)
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


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.scenario("Web processes freeze at random under load, lose their turns, and wake up")
@pytest.mark.usefixtures("postgres")  # with SQLite, a process that freezes while it writes holds up all others
def test_processes_that_freeze_all_the_time_run_nothing_twice_and_mix_nothing_up(site: Site) -> None:
    agent = site.agent(capacity=40)
    gateways = [site.gateway(is_ready=False) for _ in range(2)]
    site.plays(lasting(1.5))
    chance = random.Random(7)
    with Proxy(*(one.wait_until_ready().port for one in gateways)) as balancer:
        collected = site.ask_many(60, balancer.url, every_seconds=0.25)
        streamed = site.ask_many(60, balancer.url, every_seconds=0.25, stream=True)
        for _ in range(5):
            victim = gateways[chance.randrange(2)]
            victim.send(signal.SIGSTOP)
            site.let_leases_run_out()
            time.sleep(1.5 + 2 * chance.random())  # a lease lasts longer than what a driver sends without asking
            victim.send(signal.SIGCONT)
            time.sleep(1)
        made = collected.result(100) + streamed.result(100)

    assert [call.told for call in made if not call.is_answered] == []
    assert sum(one.interrupts for one in agent.conversations.values()) == 0
    site.settle(answered=120, within_seconds=60)
