"""The event socket between the gateway and an agent-server misbehaves in mid-run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.faults import calls
from tests.faults.site import Site, lasting

FAULTS: dict[str, Callable[[FakeAgentServer], None]] = {
    "dropped": lambda agent: agent.drop_socket_after(4, times=2),
    "repeated": FakeAgentServer.repeat_frames,
    "swapped": FakeAgentServer.swap_deltas,
    "garbage": FakeAgentServer.send_garbage,
    "lost": lambda agent: agent.lose_delta(2),
    "closed": lambda agent: agent.drop_socket_after(1),
}


@pytest.mark.scenario("Events come dropped, repeated, in another order, or as garbage")
def test_every_answer_is_whole_whatever_the_event_socket_does(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    site.plays(lasting(0.3))

    texts = {}
    for name, misbehave in FAULTS.items():
        misbehave(agent)
        for stream in (False, True):
            call = site.ask(gateway.url, stream=stream)
            texts[name, stream] = call.text == calls.answer_to(call.token)
        agent.mend_sockets()

    assert [case for case, is_whole in texts.items() if not is_whole] == []
    site.settle(answered=2 * len(FAULTS))


@pytest.mark.scenario("The connection is lost as a message is sent")
def test_a_message_that_may_have_arrived_is_not_sent_twice(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    agent.lose_next_answer("SEND", "/events")
    agent.lose_next_answer("POST", "/api/conversations")

    site.ask(gateway.url)

    site.settle(answered=1)


@pytest.mark.scenario("The agent-server takes a message and refuses the run")
def test_a_message_that_was_saved_without_a_run_is_run_later(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    agent.refuse_runs(2)

    site.ask(gateway.url)

    site.settle(answered=1)


@pytest.mark.scenario("A caller reads slowly")
def test_a_slow_reader_gets_everything_and_holds_up_nobody(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    long = 4000
    site.plays(lambda token: [Answer(chunks=(calls.answer_to(token), *(["  word" * 40] * long)))])
    with site.client(gateway.url) as client:
        token = calls.new_token()
        stream = client.chat.completions.create(model=calls.MODEL, messages=calls.question(token), stream=True)
        pieces = iter(stream)
        first = next(pieces)

        site.plays(lasting(0))
        other = site.ask(gateway.url)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in (first, *pieces))

    site.calls.append(calls.Call(token=token, text=text))
    assert other.is_answered
    assert len(text) > long * 200
    site.settle(answered=2)
