"""A conversation whose agent-server is gone goes on at another one, under its id, told what was said."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from chatgateway import lifetime, servers
from chatgateway.models import AgentServer, Event, Leftover, Turn
from tests.fakes.agent_script import Answer
from tests.pool.conftest import Ask, Host, host_of, others
from tests.waiting import eventually


def gone(home: Host, how: str) -> None:
    if how == "deleted":
        home.row.delete()
        servers.forget()
    elif how == "disabled":
        home.set(state="disabled")
    else:
        home.fake.crash()
        home.has_been_down_for(61)


@pytest.mark.parametrize("how", ["down for long", "disabled", "deleted"])
def test_a_conversation_whose_server_is_gone_is_told_again_elsewhere(ask: Ask, hosts: list[Host], how: str) -> None:
    first = ask("My name is Bob.").conversation
    home = host_of(first, hosts)
    gone(home, how)

    second = ask("What is my name?", within=first)
    third = ask("Sure?", within=first)

    assert second.response.status_code == third.response.status_code == 200
    assert second.conversation.pk == third.conversation.pk == first.pk
    new_home = host_of(first, hosts)
    assert new_home is not home
    told = new_home.says()
    assert len(told) == 2
    assert [told[0].count(text) for text in ("My name is Bob.", "Hello from the agent.", "What is my name?")] == [1] * 3
    assert told[1] == "Sure?"
    assert first.incarnation == 1
    assert list(Turn.objects.order_by("arrival").values_list("incarnation", flat=True)) == [0, 1, 1]
    eventually(lambda: Event.objects.filter(incarnation=1, turn__answer="Hello from the agent.").count() > 4)


@pytest.mark.parametrize(("how", "kinds"), [("down for long", 2), ("disabled", 2), ("deleted", 0)])
def test_what_it_left_on_the_old_server_is_written_down(ask: Ask, hosts: list[Host], how: str, kinds: int) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    gone(home, how)

    ask("Two", within=first)

    assert Leftover.objects.count() == kinds
    assert set(Leftover.objects.values_list("agent_server", flat=True)) <= {home.pk}


def test_the_stale_copy_goes_when_its_server_is_back_and_the_new_one_stays(ask: Ask, hosts: list[Host]) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    gone(home, "down for long")
    ask("Two", within=first)
    new_home = host_of(first, hosts)

    while_down = lifetime.remove_leftovers()
    home.fake.come_back()
    servers.note_health(home.row, is_up=True)
    afterwards = lifetime.remove_leftovers()
    again = lifetime.remove_leftovers()

    assert (while_down.removed, afterwards.removed, again.removed) == (0, 1, 0)
    assert first.pk not in home.fake.conversations
    assert ask("Three", within=first).response.status_code == 200
    assert new_home.says()[-1] == "Three"
    assert Leftover.objects.get().kind == Leftover.Kind.DIRECTORY


@pytest.mark.parametrize("seconds", [0, 50])
def test_until_then_its_turns_are_503_with_a_time_to_come_back(ask: Ask, hosts: list[Host], seconds: int) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    home.fake.crash()
    home.has_been_down_for(seconds)

    second = ask("Two", within=first)
    home.fake.come_back()
    third = ask("Three", within=first)

    assert second.response.status_code == 503
    assert int(second.response.headers["retry-after"]) <= 60
    assert third.response.status_code == 200
    assert host_of(first, hosts) is home
    assert home.says() == ["One", "Three"]
    assert first.incarnation == 0


def test_one_failure_long_ago_is_no_absence(ask: Ask, hosts: list[Host]) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    an_hour_ago = timezone.now() - timedelta(hours=1)
    home.set(health="down", down_since=an_hour_ago, health_checked_at=an_hour_ago)

    ask("Two", within=first)

    assert host_of(first, hosts) is home
    assert home.says() == ["One", "Two"]


def test_the_call_that_shows_how_long_it_has_been_gone_is_itself_served_elsewhere(ask: Ask, hosts: list[Host]) -> None:
    """Without a worker nobody probes: what is known comes from failing calls."""
    first = ask("One").conversation
    home = host_of(first, hosts)
    home.fake.crash()
    two_minutes_ago = timezone.now() - timedelta(minutes=2)
    home.set(health="down", down_since=two_minutes_ago, health_checked_at=two_minutes_ago)

    second = ask("Two", within=first)

    assert second.response.status_code == 200
    assert host_of(first, hosts) is not home


def test_where_no_other_server_can_take_it_its_own_is_tried(ask: Ask, hosts: list[Host]) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    home.has_been_down_for(600)  # though it answers
    for host in others(home, hosts):
        host.set(state="draining")

    second = ask("Two", within=first)

    assert second.response.status_code == 200
    assert home.says() == ["One", "Two"]


def test_a_disabled_server_and_no_other_is_503(ask: Ask, hosts: list[Host]) -> None:
    first = ask("One").conversation
    AgentServer.objects.update(state="disabled")
    servers.forget()

    second = ask("Two", within=first)

    assert second.response.status_code == 503
    assert "switched off" in second.response.json()["error"]["message"]
    assert first.incarnation == 0


def test_it_moves_on_although_the_next_server_fails_too(ask: Ask, hosts: list[Host]) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    gone(home, "disabled")
    for other in others(home, hosts)[:1]:
        other.set(capacity=99)  # the first choice
        other.fake.fail_next("POST", "/api/conversations", status=500)
        other.fake.fail_next("POST", "/api/conversations", status=500)

    second = ask("Two", within=first)

    new_home = others(home, hosts)[1]
    assert second.response.status_code == 200
    assert host_of(first, hosts) is new_home
    assert [new_home.says()[0].count(text) for text in ("One", "Hello from the agent.", "Two")] == [1, 1, 1]


def test_a_turn_that_waited_for_one_that_moved_the_conversation_does_not_move_it_again(
    ask: Ask, hosts: list[Host]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tests.fakes.agent_script import Gate

    first = ask("One").conversation
    home = host_of(first, hosts)
    gone(home, "disabled")
    gate = Gate()
    for host in others(home, hosts):
        host.fake.script(Answer("Two it is.", gate=gate))

    with ThreadPoolExecutor() as pool:
        second = pool.submit(ask, "Two", within=first)
        gate.wait_until_reached()
        third = pool.submit(ask, "Three", within=first)
        eventually(lambda: Turn.objects.filter(phase="queued").exists())
        gate.open()
        answers = [second.result().answer, third.result().answer]

    new_home = host_of(first, hosts)
    assert answers == ["Two it is.", "Hello from the agent."]
    assert first.incarnation == 1
    assert new_home.says()[1:] == ["Three"]
    assert list(Turn.objects.order_by("arrival").values_list("incarnation", flat=True)) == [0, 1, 1]
    last = Turn.objects.order_by("arrival").last()
    assert (last.input_tokens, last.output_tokens) == (100, 10)


def test_a_run_that_nobody_saw_end_on_a_server_that_was_switched_off_is_not_waited_for(
    ask: Ask, hosts: list[Host]
) -> None:
    first = ask("One").conversation
    home = host_of(first, hosts)
    Turn.objects.update(run_ended_at=None, closed_at=timezone.now() - timedelta(minutes=1))
    home.fake.crash()
    gone(home, "disabled")

    second = ask("Two", within=first)

    assert second.response.status_code == 200
    assert host_of(first, hosts) is not home
