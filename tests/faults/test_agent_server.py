"""An agent-server dies, is drained, or is away for a while."""

from __future__ import annotations

import time

import pytest

from chatgateway.models import AgentServer, Turn
from tests.fakes.agent_script import Gate
from tests.faults import calls
from tests.faults.site import Site, at_once, waiting_at

STREAM = pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])


@pytest.mark.scenario("kill -9 of an agent-server in mid-run; it comes back")
@STREAM
def test_a_run_that_died_with_its_agent_server_is_reported_and_not_run_again(site: Site, stream: bool) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking(gateway.url, stream=stream)
    gate.wait_until_reached()
    agent.crash()
    agent.come_back()

    call = asking.result(30)

    assert call.told is not None
    assert call.told.code == "agent_error"
    assert stream or call.told.headers["x-should-retry"] == "false"
    site.settle(failed=1)


@pytest.mark.scenario("An agent-server is restarted in mid-run")
@STREAM
def test_a_run_that_was_paused_by_a_restart_is_reported_and_not_run_again(site: Site, stream: bool) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking(gateway.url, stream=stream)
    gate.wait_until_reached()
    agent.shut_down()
    agent.come_back()

    call = asking.result(30)

    assert call.told is not None
    assert call.told.code == "agent_error"
    site.settle(failed=1)


@pytest.mark.scenario("An agent-server is down before the run")
@STREAM
def test_a_server_that_is_down_before_the_run_is_passed_over(site: Site, stream: bool) -> None:
    site.agent().crash()
    site.agent(capacity=5)
    gateway = site.gateway()

    made = [site.ask(gateway.url, stream=stream) for _ in range(3)]

    assert [call.told for call in made if not call.is_answered] == []
    site.settle(answered=3)


@pytest.mark.scenario("Every agent-server is down")
@STREAM
def test_nobody_to_run_a_turn_is_503_with_retry_after(site: Site, stream: bool) -> None:
    site.agent().crash()
    gateway = site.gateway()

    call = site.ask(gateway.url, stream=stream)

    assert call.told is not None
    assert (call.told.status, call.told.code) == (503, "service_unavailable")
    assert int(call.told.headers["retry-after"]) <= 60
    assert Turn.objects.count() == 3  # each of the SDK's tries is on record
    site.settle()


@pytest.mark.scenario("An agent-server is drained in mid-run")
@STREAM
def test_a_drained_server_finishes_what_it_has_and_gets_nothing_new(site: Site, stream: bool) -> None:
    old = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking(gateway.url, stream=stream)
    gate.wait_until_reached()
    new = site.agent()
    AgentServer.objects.filter(url=old.url).update(state=AgentServer.State.DRAINING)
    site.plays(at_once)
    time.sleep(1.1)  # so long a gateway may place turns by what it knows of its servers
    later = [site.ask(gateway.url) for _ in range(3)]
    gate.open()

    call = asking.result(20)

    assert call.text == calls.answer_to(call.token)
    assert all(one.is_answered for one in later)
    site.settle(answered=4)
    assert (len(old.conversations), len(new.conversations)) == (1, 3)


@pytest.mark.scenario("An agent-server loses its conversations")
def test_a_conversation_that_its_server_forgot_is_told_again(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    first = site.ask(gateway.url)
    agent.forget_conversations()

    second = site.ask(gateway.url, extra_headers={"X-OpenHands-ServerConversation-ID": first.conversation_id})

    assert second.is_answered
    assert first.token in str(agent.only_conversation.posted)
    site.settle(answered=2)
