"""Which agent-server a turn runs on, and who gets a place when all are full."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from chatgateway import servers
from chatgateway.models import AgentServer, Turn
from tests import factories
from tests.fakes.agent_script import Answer, Gate
from tests.pool.conftest import Ask, Host, host_of, others
from tests.waiting import eventually


def fill(host: Host, gate: Gate) -> None:
    host.fake.default_answer = Answer("Held.", gate=gate)


def hold_all(hosts: list[Host]) -> Gate:
    """Every server has one place, and every run waits until the gate opens."""
    gate = Gate()
    for host in hosts:
        host.set(capacity=1)
        fill(host, gate)
    return gate


def wait_for_busy(count: int) -> None:
    eventually(lambda: Turn.objects.holding_a_slot().count() == count)


def wait_for_running(count: int) -> None:
    eventually(lambda: Turn.objects.filter(phase="running").count() == count)


def wait_for_queued(count: int) -> None:
    eventually(lambda: Turn.objects.filter(phase="queued").count() == count)


def test_new_conversations_go_where_most_is_free_and_then_where_least_is_kept(ask: Ask, hosts: list[Host]) -> None:
    gate = Gate()
    for host, capacity in zip(hosts, (10, 12, 11), strict=True):
        host.set(capacity=capacity)
        fill(host, gate)

    with ThreadPoolExecutor() as pool:
        for number in range(1, 4):
            pool.submit(ask, f"Held {number}")
            wait_for_running(number)
        placed = list(Turn.objects.order_by("arrival").values_list("agent_server__name", flat=True))
        gate.open()

    assert placed == ["two", "three", "two"]


def test_a_conversation_stays_with_its_server_however_busy_that_is(ask: Ask, hosts: list[Host]) -> None:
    first = ask("First").conversation
    home = host_of(first, hosts)
    home.set(capacity=1)

    asked = [ask(f"Later {number}", within=first) for number in range(3)]

    assert {host_of(one.conversation, hosts).pk for one in asked} == {home.pk}
    assert len(home.fake.conversations[first.pk].posted) == 4


def test_a_profile_bound_to_servers_runs_on_no_other(ask: Ask, hosts: list[Host]) -> None:
    profile = factories.profile(slug="bound")
    AgentServer.objects.get(pk=hosts[2].pk).profiles.add(profile)
    servers.forget()

    placed = {host_of(ask(f"{n}", model="openhands_bound").conversation, hosts).pk for n in range(3)}

    assert placed == {hosts[2].pk}


def test_a_draining_server_keeps_its_conversations_and_gets_no_new_ones(ask: Ask, hosts: list[Host]) -> None:
    mine = ask("First").conversation
    home = host_of(mine, hosts)
    home.set(state="draining")

    continued = ask("Again", within=mine)
    elsewhere = [ask(f"New {number}").conversation for number in range(4)]

    assert continued.response.status_code == 200
    assert host_of(mine, hosts) is home
    assert home.fake.conversations[mine.pk].posted[1] == [{"type": "text", "text": "Again"}]
    assert home.pk not in {host_of(one, hosts).pk for one in elsewhere}


def test_a_server_drained_in_mid_run_finishes_it(ask: Ask, hosts: list[Host]) -> None:
    gate = Gate()
    for host in hosts:
        fill(host, gate)

    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, "Work")
        gate.wait_until_reached()
        home = next(host for host in hosts if host.pk == Turn.objects.get().agent_server_id)
        home.set(state="draining")
        gate.open()

    assert asked.result().answer == "Held."


def test_a_server_that_dies_before_the_run_is_passed_over_and_noted(ask: Ask, hosts: list[Host]) -> None:
    hosts[0].set(capacity=50)  # the first choice
    hosts[0].fake.crash()

    asked = ask("Anybody there?")

    assert asked.answer == "Hello from the agent."
    assert asked.conversation.agent_server_id != hosts[0].pk
    assert eventually(lambda: hosts[0].row.health == "down")
    assert hosts[0].row.down_since is not None
    assert Turn.objects.count() == 1


def test_only_when_no_server_answers_the_caller_gets_503(ask: Ask, hosts: list[Host]) -> None:
    for host in hosts:
        host.fake.crash()

    asked = ask("Anybody there?")

    assert asked.response.status_code == 503
    assert int(asked.response.headers["retry-after"]) <= 60
    assert Turn.objects.get().outcome == Turn.Outcome.REFUSED
    assert not Turn.objects.holding_a_slot().exists()


def test_a_server_that_answers_again_is_not_down_any_more(ask: Ask, hosts: list[Host]) -> None:
    for host in others(hosts[0], hosts):
        host.set(state="disabled")
    hosts[0].has_been_down_for(30)

    assert ask("Still there?").response.status_code == 200

    row = eventually(lambda: hosts[0].row if hosts[0].row.health == "up" else None)
    assert row.down_since is None


def test_the_first_failure_is_remembered_until_the_first_success(hosts: list[Host]) -> None:
    host = hosts[0]

    servers.note_health(host.row, is_up=False, message="one")
    first = host.row.down_since
    servers.note_health(host.row, is_up=False, message="two")
    second = host.row
    servers.note_health(host.row, is_up=True)

    assert first is not None
    assert (second.down_since, second.health_message) == (first, "two")
    assert host.row.down_since is None


def test_turns_that_wait_are_served_in_order_of_arrival(ask: Ask, hosts: list[Host]) -> None:
    gate = hold_all(hosts)
    with ThreadPoolExecutor(20) as pool:
        held = [pool.submit(ask, "Held") for _ in hosts]
        wait_for_busy(3)
        waiting = []
        for number in range(4):
            waiting.append(pool.submit(ask, f"Waiting {number}"))
            wait_for_queued(number + 1)
        for host in hosts[1:]:
            host.set(state="draining")  # one place is left, so that the order shows
        gate.open()
        statuses = {one.result().response.status_code for one in held + waiting}

    assert statuses == {200}
    started = Turn.objects.order_by("started_at").values_list("arrival", flat=True)
    assert list(started) == sorted(started)


def test_a_busy_key_does_not_keep_another_keys_turn_waiting(ask: Ask, hosts: list[Host]) -> None:
    gate = hold_all(hosts)
    other = factories.api_key()
    with ThreadPoolExecutor(20) as pool:
        held = [pool.submit(ask, "Held") for _ in hosts]
        wait_for_busy(3)
        flood = [pool.submit(ask, f"Flood {number}") for number in range(6)]
        wait_for_queued(6)
        late = pool.submit(ask, "Late", key=other.text)
        wait_for_queued(7)
        gate.open()
        statuses = {one.result().response.status_code for one in [*held, *flood, late]}

    assert statuses == {200}
    waited = list(Turn.objects.order_by("started_at").values_list("api_key", flat=True))[3:]
    # As many of the busy key's as there are places go on beside it; nothing that came before it goes first otherwise.
    assert other.row.pk in waited[:2]


def test_a_full_queue_is_429_at_once_and_a_long_wait_429_in_time(ask: Ask, hosts: list[Host], settings) -> None:
    gate = hold_all(hosts)
    settings.GATEWAY_QUEUE_LIMIT, settings.GATEWAY_QUEUE_TIMEOUT_SECONDS = 1, 1.0
    with ThreadPoolExecutor(20) as pool:
        held = [pool.submit(ask, "Held") for _ in hosts]
        wait_for_busy(3)
        waiting = pool.submit(ask, "Waits too long")
        wait_for_queued(1)
        began = time.monotonic()
        refused = ask("One too many")
        took = time.monotonic() - began
        waited = waiting.result()
        gate.open()
        served = {one.result().response.status_code for one in held}

    assert (refused.response.status_code, waited.response.status_code, served) == (429, 429, {200})
    assert took < 0.9
    assert [int(one.response.headers["retry-after"]) <= 60 for one in (refused, waited)] == [True, True]
    assert not Turn.objects.holding_a_slot().exists()


@pytest.mark.timeout(120)
def test_200_turns_over_three_servers_of_which_one_dies(ask: Ask, hosts: list[Host]) -> None:
    """None runs twice, none is lost without a word, no answer goes to another's question, and no place leaks."""
    for host in hosts:
        host.fake.max_concurrent_runs = 20
        host.fake.on_message = lambda _, text: [Answer(f"You said {text}", delay_seconds=0.02)]
    with ThreadPoolExecutor(24) as pool:
        asked = {number: pool.submit(ask, f"number {number}.") for number in range(200)}
        eventually(lambda: Turn.objects.filter(outcome="answered").count() > 40, timeout_seconds=60)
        hosts[0].fake.crash()
        eventually(lambda: sum(one.done() for one in asked.values()) >= 190, timeout_seconds=60)
        # Its runs are waited for, for a minute; a server that comes back without them ends that.
        hosts[0].fake.forget_conversations()
        hosts[0].fake.come_back()
        replies = {number: one.result().response for number, one in asked.items()}

    answered = {number: reply.json() for number, reply in replies.items() if reply.status_code == 200}
    failed = [reply for reply in replies.values() if reply.status_code != 200]
    texts = {number: reply["choices"][0]["message"]["content"] for number, reply in answered.items()}
    assert texts == {number: f"You said number {number}." for number in answered}
    # Only runs that were under way on the dead server may fail, and none of those may be sent again.
    assert len(failed) <= 10
    assert {(reply.status_code, reply.headers.get("x-should-retry")) for reply in failed} <= {(502, "false")}
    posted = [text for host in hosts for text in host.says()]
    assert len(posted) == len(set(posted))
    assert not Turn.objects.open().exists()
    assert Turn.objects.filter(outcome="answered").count() == len(answered)
