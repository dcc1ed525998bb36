"""Callers go away, come back, and repeat themselves."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import httpx
import pytest

from chatgateway.models import Turn
from profiles.models import OnDisconnect, Profile
from tests.fakes.agent_script import Gate
from tests.faults import calls
from tests.faults.calls import NODE_SCRIPT, Call
from tests.faults.proxy import Proxy
from tests.faults.site import Site, at_once, lasting, waiting_at
from tests.requirements import need
from tests.waiting import eventually

STREAM = pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
# The SDK's default is 600 s; what matters is that it is shorter than the run.
IMPATIENT = {"timeout": 1, "max_retries": 0}


@pytest.fixture
def node() -> None:
    """The SDK for Node, as `npm ci` installs it."""
    is_there = shutil.which("node") is not None and (Path(NODE_SCRIPT).parent / "node_modules" / "openai").is_dir()
    need(is_there, "node", "install Node.js 18 or newer and run `npm ci` in tests/node")


# --- gone at each stage ---------------------------------------------------------------------------------------------


@pytest.mark.scenario("The caller is gone before its run began")
def test_a_caller_who_leaves_the_queue_starts_nothing(site: Site) -> None:
    Profile.objects.update(disconnect_grace_seconds=0)
    agent = site.agent(capacity=1)
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    first = site.asking(gateway.url)
    gate.wait_until_reached()

    left = [one.result(60) for one in site.asking_both(gateway.url, client=IMPATIENT)]
    eventually(lambda: Turn.objects.filter(outcome="cancelled").count() == 2)
    gate.open()

    assert first.result(60).is_answered
    assert not any(call.is_answered for call in left)
    site.settle(answered=1, cancelled=2)
    assert len(agent.conversations) == 1


@pytest.mark.scenario("The caller is gone before the first byte, and repeats nothing")
def test_a_caller_who_leaves_before_the_first_byte_stops_the_run_within_two_seconds(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    body = {"model": calls.MODEL, "messages": calls.question(calls.new_token())}
    headers = {"Authorization": f"Bearer {site.key}"}  # and none of an SDK that counts its attempts

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=1)
    began = time.monotonic()
    eventually(lambda: agent.only_conversation.interrupts)

    assert time.monotonic() - began < 2
    site.settle(cancelled=1)


@pytest.mark.scenario("The caller is gone before the first byte, and might repeat its request")
def test_a_run_goes_on_for_a_while_for_a_caller_who_may_come_back(site: Site) -> None:
    Profile.objects.update(disconnect_grace_seconds=2)
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))

    left = site.ask(gateway.url, client=IMPATIENT)
    began = time.monotonic()
    eventually(lambda: agent.only_conversation.interrupts)

    assert 1 < time.monotonic() - began < 4
    assert not left.is_answered
    site.settle(cancelled=1)


@pytest.mark.scenario("The caller is gone in mid-stream")
def test_a_caller_who_leaves_in_mid_stream_stops_the_run_within_two_seconds(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate, after_words=3))
    token = calls.new_token()
    with site.client(gateway.url) as client:
        stream = client.chat.completions.create(model=calls.MODEL, messages=calls.question(token), stream=True)
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
        gate.wait_until_reached()
        stream.close()
        began = time.monotonic()
        eventually(lambda: agent.only_conversation.interrupts)
        assert time.monotonic() - began < 2

    site.settle(cancelled=1)
    assert Turn.objects.get().answer == "The answer to"


@pytest.mark.scenario("The caller is gone after the last byte")
def test_a_caller_who_leaves_after_the_last_byte_changes_nothing(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()

    made = [one.result(60) for one in site.asking_both(gateway.url)]

    assert all(call.is_answered for call in made)
    site.settle(answered=2)
    assert [one.interrupts for one in agent.conversations.values()] == [0, 0]


@pytest.mark.scenario("The caller is gone and the profile lets the agent finish")
def test_a_detached_run_is_finished_and_kept(site: Site) -> None:
    Profile.objects.update(on_disconnect=OnDisconnect.DETACH)
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))

    left = [one.result(60) for one in site.asking_both(gateway.url, client=IMPATIENT)]
    gate.open()

    assert not any(call.is_answered for call in left)
    site.settle(answered=2)
    assert {turn.answer for turn in Turn.objects.all()} == {calls.answer_to(call.token) for call in left}


# --- retries join ---------------------------------------------------------------------------------------------------


@pytest.mark.scenario("A storm of SDK retries: 1 s of patience, 3-s runs")
def test_retries_against_runs_longer_than_the_callers_patience_get_their_answers(site: Site) -> None:
    site.agent(capacity=20)
    gateway = site.gateway()
    site.plays(lasting(3))

    asking = [site.asking(gateway.url, client={"timeout": 1}) for _ in range(8)]

    assert [call.told for one in asking if not (call := one.result(60)).is_answered] == []
    site.settle(answered=8)


@pytest.mark.scenario("A storm of SDK retries: 1 s of patience, 5-s runs")
def test_retries_against_much_longer_runs_start_nothing_new(site: Site) -> None:
    site.agent(capacity=20)
    gateway = site.gateway()
    site.plays(lasting(5))

    asking = [site.asking(gateway.url, client={"timeout": 1}) for _ in range(8)]

    assert {one.result(60).told.kind for one in asking} == {"APITimeoutError"}
    site.settle(answered=8)


@pytest.mark.scenario("The reply is cut in mid-body")
def test_a_reply_that_was_cut_is_delivered_to_the_retry(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    with Proxy(gateway.port) as line:
        line.cut_next_reply_after(b'"choices"')
        call = site.ask(line.url)
        assert line.has_cut

    assert call.text == calls.answer_to(call.token)
    site.settle(answered=1)


@pytest.mark.scenario("The stream is cut and taken up by repeating the call with its Idempotency-Key")
def test_a_stream_that_was_cut_is_delivered_whole_to_the_repeated_call(site: Site) -> None:
    Profile.objects.update(on_disconnect=OnDisconnect.DETACH)
    site.agent()
    gateway = site.gateway()
    site.plays(lasting(0.5))
    key = {"Idempotency-Key": "the same call"}
    token = calls.new_token()
    with Proxy(gateway.port) as line:
        line.cut_next_reply_after(b'"content":"The')
        cut = site.ask(line.url, token=token, stream=True, extra_headers=key)
        again = site.ask(line.url, token=token, stream=True, extra_headers=key)

    assert not cut.is_answered
    assert again.text == calls.answer_to(token)
    site.settle(answered=1)


@pytest.mark.scenario("One Idempotency-Key, sent at once and again afterwards, to two processes")
@STREAM
def test_one_idempotency_key_is_one_run_on_any_process(site: Site, stream: bool) -> None:
    site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    second.wait_until_ready()
    key = {"Idempotency-Key": "the same call"}
    token = calls.new_token()
    asking = [
        site.asking(url, token=token, stream=stream, extra_headers=key)
        for url in (first.url, second.url, first.url, second.url)
    ]
    gate.wait_until_reached()
    eventually(lambda: Turn.objects.get().attempts.count() == 4)
    gate.open()
    together = [one.result(60) for one in asking]

    again = site.ask(second.url, token=token, stream=stream, extra_headers=key)
    other = site.ask(first.url, stream=stream, extra_headers=key)

    assert {call.text for call in (*together, again)} == {calls.answer_to(token)}
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.told.status, other.told.code, other.told.headers["x-should-retry"]) == (
        409,
        "idempotency_mismatch",
        "false",
    )
    site.settle(answered=1)


@pytest.mark.scenario("A long silence without streaming is padded; the padded reply is cut")
def test_a_padded_reply_that_was_cut_is_delivered_to_the_retry(site: Site) -> None:
    site.agent()
    gateway = site.gateway(GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS="0.2", GATEWAY_PING_SECONDS="0.2")
    site.plays(lasting(2))
    with Proxy(gateway.port) as line:
        line.cut_next_reply_after(b" \n")
        call = site.ask(line.url, client={"timeout": 1})  # the padding keeps the caller's patience up
        assert line.has_cut

    assert call.text == calls.answer_to(call.token)
    site.settle(answered=1)


@pytest.mark.scenario("Two equal questions on purpose")
def test_two_equal_questions_are_two_runs(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    token = calls.new_token()

    site.ask(gateway.url, token=token)
    site.ask(gateway.url, token=token)

    site.settle(answered=2, calls_of_a_question=2)
    assert len(agent.conversations) == 2


# --- the SDK for Node -----------------------------------------------------------------------------------------------


@pytest.mark.scenario("Node: the web process is killed in mid-run and started again")
@pytest.mark.usefixtures("node")
def test_nodes_own_retry_gets_the_answer_from_the_process_that_was_started_again(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    with Proxy(gateway.port) as balancer:
        asking = site.asking_with_node(balancer.url)
        gate.wait_until_reached()
        site.open_turn()
        gateway.kill()
        site.let_leases_run_out()
        site.gateway(port=gateway.port)
        gate.open()
        call: Call = asking.result(60)

    assert call.text == calls.answer_to(call.token)
    site.settle(answered=1)


@pytest.mark.scenario("Node: 1 s of patience, a 3-s run")
@pytest.mark.usefixtures("node")
def test_nodes_retries_join_the_run(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    site.plays(lasting(3))

    call = site.asking_with_node(gateway.url, timeout=1000).result(60)

    assert call.text == calls.answer_to(call.token)
    site.settle(answered=1)


@pytest.mark.scenario("Node: an agent fails, and another answers")
@pytest.mark.usefixtures("node")
def test_node_is_answered_and_told_like_python(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    failing = [site.asking_with_node(gateway.url, stream=stream) for stream in (False, True)]
    gate.wait_until_reached(by=2)
    agent.crash()
    agent.come_back()
    failed = [one.result(60).told.code for one in failing]
    site.plays(at_once)

    answering = [site.asking_with_node(gateway.url, stream=stream) for stream in (False, True)]
    answered = [one.result(60) for one in answering]

    assert failed == ["agent_error", "agent_error"]
    assert all(call.is_answered for call in answered)
    site.settle(answered=2, failed=2)
