"""An agent-server dies, is drained, or is away for a while."""

from __future__ import annotations

import time

import pytest

from chatgateway.models import AgentServer, Turn
from tests.fakes.agent_script import Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.faults import calls
from tests.faults.site import Site, at_once, waiting_at
from tests.waiting import eventually


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(
            FakeAgentServer.crash,
            marks=pytest.mark.scenario("kill -9 of an agent-server in mid-run; it comes back"),
            id="killed",
        ),
        pytest.param(
            FakeAgentServer.shut_down,
            marks=pytest.mark.scenario("SIGTERM of an agent-server in mid-run; it comes back"),
            id="ended",
        ),
    ],
)
def test_a_run_that_died_with_its_agent_server_is_reported_and_not_run_again(site: Site, stop) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking_both(gateway.url)
    gate.wait_until_reached(by=2)
    stop(agent)
    agent.come_back()

    collected, streamed = (one.result(60).told for one in asking)

    assert (collected.code, streamed.code) == ("agent_error", "agent_error")
    assert collected.headers["x-should-retry"] == "false"
    site.settle(failed=2)


@pytest.mark.scenario("An agent-server freezes in mid-run and wakes up")
def test_a_frozen_agent_server_costs_time_and_no_run(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking_both(gateway.url)
    gate.wait_until_reached(by=2)
    agent.hang()
    gate.open()
    time.sleep(2)
    agent.recover()

    made = [one.result(60) for one in asking]

    assert [call.text for call in made] == [calls.answer_to(call.token) for call in made]
    site.settle(answered=2)


@pytest.mark.scenario("An agent-server is down before the run")
def test_a_server_that_is_down_before_the_run_is_passed_over(site: Site) -> None:
    site.agent().crash()
    site.agent(capacity=5)
    gateway = site.gateway()

    made = [one.result(60) for _ in range(2) for one in site.asking_both(gateway.url)]

    assert [call.told for call in made if not call.is_answered] == []
    site.settle(answered=4)


@pytest.mark.scenario("Every agent-server is down")
def test_nobody_to_run_a_turn_is_503_with_retry_after(site: Site) -> None:
    site.agent().crash()
    gateway = site.gateway()

    told = [one.result(60).told for one in site.asking_both(gateway.url)]

    assert [(one.status, one.code) for one in told] == [(503, "service_unavailable")] * 2
    assert all(int(one.headers["retry-after"]) <= 60 for one in told)
    assert Turn.objects.count() == 6  # each of the SDK's tries is on record
    site.settle()


@pytest.mark.scenario("An agent-server is drained in mid-run")
def test_a_drained_server_finishes_what_it_has_and_gets_nothing_new(site: Site) -> None:
    old = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking_both(gateway.url)
    gate.wait_until_reached(by=2)
    new = site.agent()
    AgentServer.objects.filter(url=old.url).update(state=AgentServer.State.DRAINING)
    site.plays(at_once)
    time.sleep(1.1)  # so long a gateway may place turns by what it knows of its servers
    later = [one.result(60) for one in site.asking_both(gateway.url)]
    gate.open()

    made = [one.result(60) for one in asking]

    assert all(call.is_answered for call in (*made, *later))
    site.settle(answered=4)
    assert (len(old.conversations), len(new.conversations)) == (2, 2)


@pytest.mark.scenario("The agent-server of a conversation is gone; another takes it over")
def test_a_conversation_whose_server_is_gone_is_told_again_elsewhere(site: Site) -> None:
    home = site.agent()
    gateway = site.gateway()
    first = site.ask(gateway.url)
    site.agent()
    home.crash()
    AgentServer.objects.filter(url=home.url).update(state=AgentServer.State.DISABLED)
    time.sleep(1.1)  # as above

    second = site.ask(gateway.url, extra_headers={"X-OpenHands-ServerConversation-ID": first.conversation_id})

    assert second.text == calls.answer_to(second.token)
    assert first.token in str(site.agents[1].only_conversation.posted)
    site.settle(answered=2)


@pytest.mark.full
@pytest.mark.scenario("An agent-server dies in mid-run and stays away; the conversation goes on at another")
def test_a_conversation_whose_run_was_lost_with_its_server_goes_on_elsewhere(site: Site) -> None:
    home = site.agent()
    gateway = site.gateway(GATEWAY_QUEUE_TIMEOUT_SECONDS="10")
    first = site.ask(gateway.url)
    conversation = {"X-OpenHands-ServerConversation-ID": first.conversation_id}
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking(gateway.url, stream=True, extra_headers=conversation, client={"timeout": 2})
    gate.wait_until_reached()
    home.crash()
    # Its caller leaves, and the interrupt that follows is never confirmed.
    assert not asking.result(60).is_answered
    eventually(lambda: Turn.objects.filter(outcome="cancelled").exists())
    AgentServer.objects.filter(url=home.url).update(state=AgentServer.State.DISABLED)
    site.agent()
    site.plays(at_once)
    time.sleep(1.1)  # as above

    again = site.ask(gateway.url, extra_headers=conversation, client={"max_retries": 0})

    assert again.text == calls.answer_to(again.token)
    home.come_back()
    site.settle(answered=2, cancelled=1)


@pytest.mark.scenario("An agent-server loses its conversations")
def test_a_conversation_that_its_server_forgot_is_told_again(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    first = site.ask(gateway.url)
    agent.forget_conversations()

    second = site.ask(gateway.url, extra_headers={"X-OpenHands-ServerConversation-ID": first.conversation_id})

    assert second.text == calls.answer_to(second.token)
    assert first.token in str(agent.only_conversation.posted)
    site.settle(answered=2)
