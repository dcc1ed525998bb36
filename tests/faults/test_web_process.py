"""A gateway process dies, freezes, or is told to end, while its turns run."""

from __future__ import annotations

import datetime as dt
import signal
import socket
import time
from typing import Any

import httpx
import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from chatgateway import sql
from chatgateway.models import Turn
from tests.fakes.agent_script import Gate, Move
from tests.faults import calls
from tests.faults.proxy import Proxy
from tests.faults.site import Site, lasting, waiting_at
from tests.waiting import eventually


@pytest.mark.scenario("kill -9 of the web process in mid-run; another process goes on")
def test_the_callers_own_retry_gets_the_answer_from_the_process_that_goes_on(site: Site) -> None:
    agent = site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    with Proxy(first.port, second.wait_until_ready().port) as balancer:
        asking = site.asking(balancer.url)
        gate.wait_until_reached()
        # Whichever has the turn.
        owner = int(site.open_turn().lease_owner.split(":")[1])
        next(one for one in (first, second) if one.process.pid == owner).kill()
        site.let_leases_run_out()
        eventually(lambda: Turn.objects.filter(lease_generation=2).exists())
        gate.open()
        call = asking.result(60)

    assert call.text == calls.answer_to(call.token)
    assert len(agent.only_conversation.posted) == 1
    site.settle(answered=1)


@pytest.mark.scenario("kill -9 of the web process in mid-run; it is started again")
def test_the_callers_own_retry_gets_the_answer_from_the_process_that_was_started_again(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    with Proxy(gateway.port) as balancer:
        asking = site.asking(balancer.url)
        gate.wait_until_reached()
        site.open_turn()
        gateway.kill()
        site.let_leases_run_out()
        site.gateway(port=gateway.port)
        gate.open()
        call = asking.result(60)

    assert call.text == calls.answer_to(call.token)
    site.settle(answered=1)


@pytest.mark.scenario("kill -9 of the web process in mid-stream; the call is repeated with its Idempotency-Key")
def test_a_stream_that_was_cut_is_taken_up_by_repeating_the_call(site: Site) -> None:
    site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    key = {"Idempotency-Key": "the same call"}
    first.wait_until_ready()
    second.wait_until_ready()
    token = calls.new_token()
    asking = site.asking(first.url, token=token, stream=True, extra_headers=key)
    gate.wait_until_reached()
    site.open_turn()
    first.kill()
    assert not asking.result(60).is_answered
    site.let_leases_run_out()

    again = site.asking(second.url, token=token, stream=True, extra_headers=key)
    gate.open()

    assert again.result(60).text == calls.answer_to(token)
    site.settle(answered=1)


@pytest.mark.scenario("kill -9 of the web process in mid-run; the caller does not come back")
def test_the_record_of_a_turn_is_finished_by_another_process(site: Site) -> None:
    agent = site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    second.wait_until_ready()
    asking = site.asking_both(first.url, client={"max_retries": 0})
    gate.wait_until_reached(by=2)
    site.open_turns(2)
    first.kill()
    left = [one.result(60) for one in asking]
    gate.open()
    agent.wait_until(lambda: agent.running == 0)
    site.let_leases_run_out()

    site.settle(answered=2)
    assert {turn.answer for turn in Turn.objects.all()} == {calls.answer_to(call.token) for call in left}
    assert all(turn.input_tokens > 0 for turn in Turn.objects.all())
    assert all(eventually(turn.events.count) for turn in Turn.objects.all())  # they may follow within a second


@pytest.mark.full
@pytest.mark.scenario("kill -9 of the web process in mid-run; its leases run out by themselves")
def test_a_dead_processs_turns_are_taken_over_within_half_a_minute(site: Site) -> None:
    site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    second.wait_until_ready()
    asking = site.asking(first.url, client={"max_retries": 0})
    gate.wait_until_reached()
    site.open_turn()
    first.kill()
    asking.result(60)
    gate.open()

    site.settle(answered=1, within_seconds=35)


@pytest.mark.scenario("kill -9 of the web process with a turn in its queue")
def test_a_turn_that_waited_for_a_slot_is_run_by_another_process(site: Site) -> None:
    site.agent(capacity=1)
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    second.wait_until_ready()
    running = site.asking(second.url)
    gate.wait_until_reached()
    with Proxy(first.wait_until_ready().port, second.port) as balancer:
        waiting = site.asking(balancer.url)
        eventually(lambda: Turn.objects.filter(phase="queued").exists())
        first.kill()
        Turn.objects.filter(phase="queued").update(lease_expires_at=Now() - dt.timedelta(seconds=1))
        eventually(lambda: Turn.objects.filter(lease_generation=2).exists())
        gate.open()

        assert running.result(60).is_answered
        assert waiting.result(60).is_answered
    site.settle(answered=2)


@pytest.mark.scenario("kill -9 of the web process before the agent has the message")
def test_a_turn_whose_message_was_not_sent_is_run_by_another_process(site: Site) -> None:
    agent = site.agent()
    first = site.gateway()
    agent.hang()
    with Proxy(first.port) as balancer:
        asking = site.asking_both(balancer.url)
        site.open_turns(2)
        second = site.gateway()
        balancer.turn_to(second.port)
        first.kill()
        agent.recover()
        site.let_leases_run_out()
        collected, _ = (one.result(60) for one in asking)

    # A call that had no reply yet is repeated by the SDK and joins its turn. A stream whose headers had been sent is
    # lost to its caller: then nobody waits for the turn, and it is not begun.
    assert collected.text == calls.answer_to(collected.token)
    site.settle(outcomes_matter=False)


@pytest.mark.scenario("kill -9 of the web process as the agent takes the message")
def test_a_message_whose_sender_died_is_found_in_the_log_and_not_sent_again(site: Site) -> None:
    agent = site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    known = site.ask(first.wait_until_ready().url)
    second.wait_until_ready()

    def kill_and_answer(token: str) -> list[Move]:
        first.send(signal.SIGKILL)  # before the agent-server's own answer can reach it
        return lasting(0.3)(token)

    site.plays(kill_and_answer)
    continued = {"X-OpenHands-ServerConversation-ID": known.conversation_id}
    with Proxy(first.port, second.port) as balancer:
        asking = site.asking(balancer.url, extra_headers=continued)
        eventually(lambda: first.process.poll() is not None)
        site.let_leases_run_out()
        call = asking.result(60)

    assert call.text == calls.answer_to(call.token)
    assert len(agent.only_conversation.posted) == 2
    site.settle(answered=2)


@pytest.mark.scenario("A turn is cancelled while its web process is dead")
def test_a_cancellation_outlives_the_process_that_should_have_heard_it(site: Site) -> None:
    agent = site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    second.wait_until_ready()
    site.asking(first.url, client={"max_retries": 0})
    gate.wait_until_reached()
    turn = site.open_turn()
    first.kill()

    cancelled = httpx.post(
        f"{second.url}/v1/chat/completions/{turn.reply_id}/cancel",
        headers={"Authorization": f"Bearer {site.key}"},
        timeout=100,
    )
    site.let_leases_run_out()

    assert cancelled.status_code < 300, cancelled.text
    site.settle(cancelled=1)
    assert agent.only_conversation.interrupts > 0


@pytest.mark.scenario("The leases of a web process run out although it lives")
def test_a_process_that_could_not_renew_its_leases_keeps_its_callers(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking_both(gateway.url)
    gate.wait_until_reached(by=2)
    # What a database does that was away for longer than a lease: its process's own sweep may be the first to see it.
    until = time.monotonic() + 6
    while time.monotonic() < until:
        site.let_leases_run_out()
        time.sleep(0.05)
    gate.open()

    made = [one.result(60) for one in asking]

    assert [call.text for call in made] == [calls.answer_to(call.token) for call in made]
    site.settle(answered=2)


@pytest.mark.scenario("A web process freezes, loses its turn, and wakes up")
def test_a_process_that_lost_its_turn_writes_nothing_and_stops_nothing(site: Site) -> None:
    agent = site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    second.wait_until_ready()
    asking = site.asking_both(first.url)
    gate.wait_until_reached(by=2)
    site.open_turns(2)
    first.send(signal.SIGSTOP)
    site.let_leases_run_out()
    eventually(lambda: Turn.objects.filter(lease_generation=2).count() == 2)
    gate.open()
    eventually(lambda: not Turn.objects.open().exists())
    first.send(signal.SIGCONT)

    made = [one.result(60) for one in asking]

    assert [call.text for call in made] == [calls.answer_to(call.token) for call in made]
    site.settle(answered=2)
    assert [one.interrupts for one in agent.conversations.values()] == [0, 0]


@pytest.mark.scenario("SIGTERM in mid-run; the run ends within the grace period")
def test_a_process_that_is_told_to_end_lets_its_turns_end(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking_both(gateway.url)
    gate.wait_until_reached(by=2)
    gateway.send(signal.SIGTERM)
    gate.open()

    made = [one.result(60) for one in asking]

    assert all(call.is_answered for call in made)
    assert gateway.end() == -signal.SIGTERM
    site.settle(answered=2)


@pytest.mark.scenario("SIGTERM while requests that were let in have no turn yet")
@pytest.mark.usefixtures("postgres")
def test_a_turn_that_is_opened_after_the_signal_has_the_grace_period_too(site: Site) -> None:
    site.agent()
    gateway = site.gateway(GATEWAY_SHUTDOWN_GRACE_SECONDS="30")
    gate = Gate()
    site.plays(waiting_at(gate))
    running = site.asking(gateway.url, client={"max_retries": 0})
    gate.wait_until_reached()
    site.plays(lasting(2.0))
    with transaction.atomic(), connection.cursor() as cursor:
        sql.lock_placement()
        let_in = site.asking_both(gateway.url, client={"max_retries": 0})
        eventually(lambda: _wait_for_the_lock(cursor))
        gateway.send(signal.SIGTERM)
        eventually(lambda: not _listens(gateway.port))
    site.open_turns(3)
    gate.open()

    assert running.result(60).is_answered
    assert [call.told for one in let_in if not (call := one.result(60)).is_answered] == []
    gateway.end()
    site.settle(answered=3)


def _wait_for_the_lock(cursor: Any) -> bool:
    cursor.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )
    return bool(cursor.fetchone()[0])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.scenario("SIGTERM in mid-run; the run outlasts the grace period")
def test_turns_that_outlast_the_grace_period_are_handed_over(site: Site) -> None:
    site.agent()
    first = site.gateway(GATEWAY_SHUTDOWN_GRACE_SECONDS="1")
    gate = Gate()
    site.plays(waiting_at(gate))
    with Proxy(first.port) as balancer:
        asking = site.asking_both(balancer.url)
        gate.wait_until_reached(by=2)
        second = site.gateway()
        balancer.turn_to(second.port)
        first.end()
        eventually(lambda: Turn.objects.filter(lease_generation=2).count() == 2)
        gate.open()
        collected, streamed = (one.result(60) for one in asking)

    # A stream that has begun cannot be begun again by the SDK; any other call is, and joins its turn.
    assert collected.text == calls.answer_to(collected.token)
    assert streamed.told.code == "service_unavailable"
    site.settle(answered=2)


@pytest.mark.scenario("SIGTERM in mid-run; nobody waits for the run")
def test_a_turn_without_a_caller_is_handed_over_as_well(site: Site) -> None:
    agent = site.agent()
    first = site.gateway(GATEWAY_SHUTDOWN_GRACE_SECONDS="1")
    gate = Gate()
    site.plays(waiting_at(gate))
    token = calls.new_token()
    with site.client(first.url) as client:
        made = client.responses.create(model="openhands_chat", input=calls.question(token), background=True)
        gate.wait_until_reached()
        eventually(lambda: Turn.objects.filter(phase="running").exists())
        first.end()

        # Not after 20 s, when its lease would have run out.
        assert Turn.objects.filter(lease_expires_at__lte=Now()).exists()
        second = site.gateway()
        gate.open()
        eventually(lambda: Turn.objects.filter(outcome="answered").exists())
    with site.client(second.url) as client:
        assert client.responses.retrieve(made.id).output_text == calls.answer_to(token)
    assert len(agent.only_conversation.posted) == 1
    site.settle(answered=1)


@pytest.mark.scenario("SIGTERM while the agent-server takes its time with the message")
def test_a_message_under_way_is_not_sent_again_by_the_process_that_goes_on(site: Site) -> None:
    agent = site.agent()
    first = site.gateway(GATEWAY_SHUTDOWN_GRACE_SECONDS="1")
    agent.hold_messages()
    with Proxy(first.port) as balancer:
        asking = site.asking_both(balancer.url)
        agent.wait_until(lambda: agent.held_messages == 2)
        second = site.gateway()
        balancer.turn_to(second.port)
        first.end()

        # Who took them over now would not find the messages, and send them again.
        assert not Turn.objects.open().filter(lease_expires_at__lte=Now()).exists()
        agent.take_messages()
        agent.wait_until(lambda: all(one.posted for one in agent.conversations.values()))
        site.let_leases_run_out()
        collected, streamed = (one.result(60) for one in asking)

    assert collected.text == calls.answer_to(collected.token)
    assert streamed.told.code == "service_unavailable"
    site.settle(answered=2)


@pytest.mark.scenario("SIGTERM of one of two web processes under load")
@pytest.mark.usefixtures("postgres")
def test_a_rolling_restart_fails_no_call(site: Site) -> None:
    site.agent(capacity=30)
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    site.plays(lasting(0.5))
    with Proxy(first.wait_until_ready().port, second.wait_until_ready().port) as balancer:
        collected = site.ask_many(40, balancer.url, every_seconds=0.1)
        streamed = site.ask_many(40, balancer.url, every_seconds=0.1, stream=True)
        eventually(lambda: Turn.objects.exclude(outcome="open").count() > 10)
        first.send(signal.SIGTERM)
        made = collected.result(60) + streamed.result(60)

    # The SDK's own retries see to what was refused with 503 by the process that was ending.
    assert [call.told for call in made if not call.is_answered] == []
    first.end()
    site.settle(answered=80)
