"""Conversations leave their agent-servers when their time is over, and nothing leaves that is in use."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from chatgateway import conversations, lifetime, servers, tasks
from chatgateway.models import Conversation, Leftover, Turn
from profiles import access
from profiles.models import Profile
from tests import factories
from tests.fakes.agent_script import Answer, Gate
from tests.gateway_process import LiveGateway
from tests.pool.conftest import Ask, Host, host_of, others
from tests.waiting import eventually


def set_profile(**fields: object) -> None:
    Profile.objects.update(**fields)
    access.forget_all()


def hours_from_now(conversation: Conversation) -> float:
    conversation.refresh_from_db()
    return (conversation.expires_at - timezone.now()).total_seconds() / 3600


def time_passes(*conversations: Conversation) -> None:
    """As if nobody had gone on with these for long."""
    ids = [one.pk for one in conversations]
    Conversation.objects.filter(pk__in=ids).update(expires_at=timezone.now() - timedelta(seconds=1))


def directory_of(conversation: Conversation, host: Host) -> Path:
    """The conversation's directory with some work in it: the fake's agents make none."""
    directory = host.root / str(conversation.tenant_id) / str(conversation.pk)
    directory.mkdir(parents=True)
    (directory / "work.txt").write_text("done")
    return directory


def make_due(kind: Leftover.Kind = Leftover.Kind.DIRECTORY) -> None:
    Leftover.objects.filter(kind=kind).update(due_at=timezone.now() - timedelta(seconds=1), claimed_until=None)


def both_at_once[T](sweep: Callable[[], T]) -> list[T]:
    """Two workers run a sweep at the same moment."""
    barrier = threading.Barrier(2)

    def work() -> T:
        barrier.wait(5)
        try:
            return sweep()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        return [one.result() for one in [pool.submit(work), pool.submit(work)]]


# --- when a conversation's time is over -------------------------------------------------------------------------------


def test_every_turn_gives_a_conversation_its_profiles_idle_time_anew(ask: Ask, hosts: list[Host]) -> None:
    set_profile(conversation_idle_hours=5)
    one = ask("One").conversation
    Conversation.objects.update(expires_at=timezone.now())

    ask("Two", within=one)

    assert 4.9 < hours_from_now(one) <= 5


def test_a_turn_that_is_not_stored_leaves_it_an_hour(ask: Ask, hosts: list[Host]) -> None:
    profile = Profile.objects.get()
    one = ask("One").conversation

    conversations.settle(one, turn=Turn(is_stored=False), profile=profile)

    assert 0.9 < hours_from_now(one) <= 1


def test_an_idle_conversation_leaves_its_server_and_comes_back_told(ask: Ask, hosts: list[Host]) -> None:
    idle, busy = ask("My name is Bob.").conversation, ask("Hello").conversation
    home = host_of(idle, hosts)
    time_passes(idle)

    expired = tasks.expire_conversations()
    removed = tasks.remove_leftovers()
    gone = idle.pk not in home.fake.conversations
    again = ask("What is my name?", within=idle)

    assert expired == "1 idle for too long, 0 beyond a server's limit"
    assert removed == "1 removed, 0 in use again, 0 failed"
    assert gone
    busy.refresh_from_db()
    assert busy.state == Conversation.State.LIVE
    assert again.response.headers["X-Gateway-Conversation-Match"] == "header"
    told = host_of(idle, hosts).fake.conversations[idle.pk].posted
    assert [told[0][0]["text"].count(text) for text in ("Bob", "Hello from the agent.", "my name?")] == [1, 1, 1]
    assert (idle.state, idle.incarnation) == ("live", 1)
    assert Turn.objects.filter(conversation=idle).count() == 2


def test_one_with_an_agent_at_work_stays(ask: Ask, hosts: list[Host]) -> None:
    gate = Gate()
    for host in hosts:
        host.fake.script(Answer("Held.", gate=gate))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, "Work")
        gate.wait_until_reached()
        time_passes(Conversation.objects.get())
        while_open = lifetime.expire_idle()
        gate.open()
        conversation = asked.result().conversation
    time_passes(conversation)
    Turn.objects.update(run_ended_at=None)  # closed, but its run was not seen to end
    while_running = lifetime.expire_idle()
    Turn.objects.update(run_ended_at=timezone.now())

    assert (while_open, while_running, lifetime.expire_idle()) == (0, 0, 1)


def test_beyond_a_servers_limit_those_idle_for_longest_go(ask: Ask, hosts: list[Host]) -> None:
    for host in hosts[1:]:
        host.set(state="draining")
    made = [ask(f"Number {number}").conversation for number in range(5)]
    ask("Again", within=made[0])
    gate = Gate()
    hosts[0].fake.script(Answer("Held.", gate=gate))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask, "Work", within=made[1])
        gate.wait_until_reached()
        hosts[0].set(max_conversations=3)
        ended = [lifetime.expire_beyond_limits(), lifetime.expire_beyond_limits()]
        gate.open()
        running.result()

    assert ended == [2, 0]
    left = Conversation.objects.filter(state="live").values_list("pk", flat=True)
    assert set(left) == {made[0].pk, made[1].pk, made[4].pk}


@pytest.mark.parametrize("sweep", [lifetime.expire_idle, lifetime.expire_beyond_limits])
def test_two_workers_at_once_end_each_conversations_time_once(
    ask: Ask, hosts: list[Host], sweep: Callable[[], int]
) -> None:
    made = [ask(f"Number {number}").conversation for number in range(6)]
    for host in hosts:
        host.set(max_conversations=1)
    time_passes(*made)

    ended = both_at_once(sweep)

    expired = Conversation.objects.filter(state="expired")
    assert sum(ended) == expired.count()
    assert expired.count() == (6 if sweep is lifetime.expire_idle else 3)
    assert set(expired.values_list("incarnation", flat=True)) == {1}
    assert Leftover.objects.filter(kind="conversation").count() == expired.count()


def test_a_turn_that_comes_while_sweeps_go_round_is_answered_in_its_conversation(ask: Ask, hosts: list[Host]) -> None:
    """Each turn meets a conversation that is live, expired, or being removed at that moment."""
    for host in hosts:
        host.fake.on_message = lambda _, text: [Answer(f"Heard {text[-3:]}")]
    one = ask("000").conversation
    is_over = threading.Event()

    def sweep() -> None:
        try:
            while not is_over.is_set():
                time_passes(one)
                lifetime.expire_idle()
                Leftover.objects.filter(kind="conversation").update(due_at=timezone.now() - timedelta(seconds=1))
                lifetime.remove_leftovers()
        finally:
            connection.close()

    with ThreadPoolExecutor() as pool:
        sweeping = pool.submit(sweep)
        answers = [ask(f"{number:03}", within=one) for number in range(1, 40)]
        is_over.set()
        sweeping.result()

    assert {asked.response.status_code for asked in answers} == {200}
    assert [asked.answer for asked in answers] == [f"Heard {number:03}" for number in range(1, 40)]
    one.refresh_from_db()
    assert one.incarnation > 3
    assert not Turn.objects.open().exists()


def test_what_a_process_that_died_had_just_made_goes_too(ask: Ask, hosts: list[Host]) -> None:
    """It had created the conversation and died before it could write that down; nobody waited for the turn."""
    one = ask("One").conversation
    home = host_of(one, hosts)
    Conversation.objects.update(state="new", agent_server=None, working_dir="")
    time_passes(one)

    ended = [lifetime.expire_idle(), lifetime.expire_idle()]
    lifetime.remove_leftovers()

    assert ended == [1, 0]
    assert one.pk not in home.fake.conversations
    assert ask("Two", within=one).response.status_code == 200


def test_a_worker_killed_at_any_statement_leaves_nothing_that_the_next_does_not_finish(
    ask: Ask, hosts: list[Host]
) -> None:
    one = ask("One").conversation
    directory_of(one, host_of(one, hosts))
    points = 0
    for point in itertools.count():
        home = host_of(one, hosts)
        Leftover.objects.all().delete()
        time_passes(one)
        was_killed = sweep_and_die_at(point)
        Leftover.objects.update(claimed_until=None)
        lifetime.expire_idle()
        lifetime.remove_leftovers()

        one.refresh_from_db()
        assert (one.state, one.incarnation, one.agent_server) == ("expired", point + 1, None)
        assert one.pk not in home.fake.conversations
        assert list(Leftover.objects.values_list("kind", flat=True)) == ["directory"]
        assert ask("And now?", within=one).response.status_code == 200
        if not was_killed:
            break
        points += 1

    assert points > 10


def sweep_and_die_at(point: int) -> bool:
    """Run both sweeps and die before the statement with this number. False if there are not so many."""
    numbers = itertools.count()

    def die(execute: Callable[..., object], *statement: object) -> object:
        if next(numbers) == point:
            raise Killed
        return execute(*statement)

    try:
        with connection.execute_wrapper(die):
            lifetime.expire_idle()
            lifetime.remove_leftovers()
    except Killed:
        return True
    return False


class Killed(BaseException):
    """As by SIGKILL: nothing may catch it."""


# --- what it leaves ---------------------------------------------------------------------------------------------------


def test_its_directory_goes_after_the_time_its_profile_says(ask: Ask, hosts: list[Host]) -> None:
    set_profile(workspace_keep_days=3)
    one = ask("One").conversation
    directory = directory_of(one, host_of(one, hosts))
    time_passes(one)
    lifetime.expire_idle()

    lifetime.remove_leftovers()
    due_in = Leftover.objects.get().due_at - timezone.now()
    kept = directory.exists()
    make_due()
    lifetime.remove_leftovers()

    assert kept
    assert timedelta(days=2.9) < due_in <= timedelta(days=3)
    assert not directory.exists()
    assert directory.parent.exists()
    assert not Leftover.objects.exists()


def test_an_agent_that_comes_back_to_its_server_in_time_finds_its_directory(ask: Ask, hosts: list[Host]) -> None:
    set_profile(workspace_template=str(hosts[0].root / "template"))
    (hosts[0].root / "template").mkdir(parents=True)
    (hosts[0].root / "template" / "work.txt").write_text("template")
    for host in hosts[1:]:
        host.set(state="draining")
    one = ask("One").conversation
    directory = hosts[0].root / str(one.tenant_id) / str(one.pk)
    (directory / "work.txt").write_text("done")
    time_passes(one)
    lifetime.expire_idle()
    ask("Two", within=one)
    make_due()

    swept = lifetime.remove_leftovers()

    assert (directory / "work.txt").read_text() == "done"
    assert (swept.removed, swept.kept) == (0, 2)
    assert not Leftover.objects.exists()
    time_passes(one)
    lifetime.expire_idle()
    assert Leftover.objects.filter(kind="directory", due_at__gt=timezone.now() + timedelta(days=6)).count() == 1


def test_without_it_the_agent_starts_from_the_template_again(ask: Ask, hosts: list[Host]) -> None:
    set_profile(workspace_template=str(hosts[0].root / "template"))
    (hosts[0].root / "template").mkdir(parents=True)
    (hosts[0].root / "template" / "work.txt").write_text("template")
    for host in hosts[1:]:
        host.set(state="draining")
    one = ask("One").conversation
    directory = hosts[0].root / str(one.tenant_id) / str(one.pk)
    time_passes(one)
    lifetime.expire_idle()
    make_due()
    lifetime.remove_leftovers()
    gone = not directory.exists()

    ask("Two", within=one)

    assert gone
    assert (directory / "work.txt").read_text() == "template"


@pytest.mark.parametrize("workspace", ["fixed", "per_key"])
def test_a_directory_that_is_shared_is_never_deleted(ask: Ask, hosts: list[Host], workspace: str) -> None:
    set_profile(workspace=workspace, workspace_path=str(hosts[0].root / "shared"))
    one = ask("One").conversation
    time_passes(one)
    lifetime.expire_idle()

    assert list(Leftover.objects.values_list("kind", flat=True)) == ["conversation"]


def test_a_profile_that_works_there_keeps_it(ask: Ask, hosts: list[Host]) -> None:
    one = ask("One").conversation
    directory = directory_of(one, host_of(one, hosts))
    time_passes(one)
    lifetime.expire_idle()
    factories.profile(workspace="fixed", workspace_path=f"{directory}/")
    make_due()

    lifetime.remove_leftovers()

    assert directory.exists()
    assert Leftover.objects.get(kind="directory").due_at > timezone.now()


@pytest.mark.parametrize(
    "path",
    ["/", "/etc", "{root}", "{root}/{tenant}", "{root}/{tenant}/..", "{root}/{tenant}/{other}", "{root}/{tenant}/{id}/",
     "{root}/{tenant}/{id}/..", "{root}//{tenant}/{id}", "relative/{id}", ""],
)  # fmt: skip
def test_any_other_path_is_refused_aloud_and_nothing_is_sent(
    ask: Ask, hosts: list[Host], path: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = ask("One").conversation
    home = host_of(one, hosts)
    directory = directory_of(one, home)
    time_passes(one)
    lifetime.expire_idle()
    lifetime.remove_leftovers()
    wrong = path.format(root=home.root, tenant=one.tenant_id, id=one.pk, other=uuid.uuid4())
    Leftover.objects.update(path=wrong)
    make_due()

    swept = lifetime.remove_leftovers()

    assert (swept.removed, swept.failed) == (0, 1)
    assert home.fake.calls("POST", "/execute_bash_command") == []
    assert (directory / "work.txt").exists()
    assert "refused to delete" in caplog.text
    left = Leftover.objects.get()
    assert "ValueError" in left.message
    assert left.due_at > timezone.now() + timedelta(hours=5)


def test_a_server_that_fails_is_tried_again_after_longer_and_longer_pauses(ask: Ask, hosts: list[Host]) -> None:
    one = ask("One").conversation
    home = host_of(one, hosts)
    time_passes(one)
    lifetime.expire_idle()
    pauses = []
    for _ in range(4):
        home.fake.fail_next("DELETE", str(one.pk), status=500)
        servers.note_health(home.row, is_up=True)
        make_due(Leftover.Kind.CONVERSATION)
        lifetime.remove_leftovers()
        pause = Leftover.objects.get(kind="conversation").due_at - timezone.now()
        pauses.append(round(pause.total_seconds() / 60))

    left = Leftover.objects.get(kind="conversation")
    assert pauses == [1, 2, 4, 8]
    assert left.attempts == 4
    assert "500" in left.message


def test_nothing_is_asked_of_a_server_that_is_disabled_or_down(ask: Ask, hosts: list[Host]) -> None:
    made = [ask(f"Number {number}").conversation for number in range(6)]
    time_passes(*made)
    lifetime.expire_idle()
    hosts[0].set(state="disabled")
    hosts[1].has_been_down_for(5)
    asked_before = [len(host.fake.requests) for host in hosts]

    lifetime.remove_leftovers()

    asked = [len(host.fake.requests) - before for host, before in zip(hosts, asked_before, strict=True)]
    assert asked[:2] == [0, 0]
    assert asked[2] > 0
    assert set(Leftover.objects.filter(kind="conversation").values_list("agent_server", flat=True)) == {
        host.pk for host in hosts[:2]
    }


def test_a_copy_that_is_not_ours_stays(ask: Ask, hosts: list[Host], caplog: pytest.LogCaptureFixture) -> None:
    """As on a server that another gateway uses, or after a backup of the database was put back."""
    one = ask("One").conversation
    home = host_of(one, hosts)
    time_passes(one)
    lifetime.expire_idle()
    home.fake.conversations[one.pk].requested["tags"]["incarnation"] = "7"

    lifetime.remove_leftovers()

    assert one.pk in home.fake.conversations
    assert "is not ours" in caplog.text
    assert not Leftover.objects.filter(kind="conversation").exists()


def test_two_workers_at_once_remove_each_leftover_once(ask: Ask, hosts: list[Host]) -> None:
    made = [ask(f"Number {number}").conversation for number in range(12)]
    time_passes(*made)
    lifetime.expire_idle()

    swept = both_at_once(lifetime.remove_leftovers)

    assert sum(one.removed for one in swept) == 12
    assert sum(len(host.fake.calls("DELETE")) for host in hosts) == 12
    assert not Leftover.objects.filter(kind="conversation").exists()


def test_a_worker_that_died_at_it_is_followed_by_another_when_its_claim_is_over(ask: Ask, hosts: list[Host]) -> None:
    one = ask("One").conversation
    home = host_of(one, hosts)
    time_passes(one)
    lifetime.expire_idle()
    Leftover.objects.update(claimed_until=timezone.now() + timedelta(seconds=60))

    during = lifetime.remove_leftovers()
    Leftover.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    afterwards = lifetime.remove_leftovers()

    assert (during.removed, afterwards.removed) == (0, 1)
    assert one.pk not in home.fake.conversations


def test_no_turn_begins_where_something_of_its_conversation_is_being_removed(ask: Ask, hosts: list[Host]) -> None:
    one = ask("One").conversation
    home = host_of(one, hosts)
    for host in others(home, hosts):
        host.set(state="draining")
    time_passes(one)
    lifetime.expire_idle()
    Leftover.objects.update(claimed_until=timezone.now() + timedelta(seconds=60))

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, "Two", within=one)
        eventually(lambda: Turn.objects.filter(phase="queued").exists())
        asked_meanwhile = home.fake.calls("POST", "/api/conversations")
        Leftover.objects.update(claimed_until=None)
        asked = waiting.result()

    assert asked.response.status_code == 200
    assert len(asked_meanwhile) == 1


# --- deleted over REST ------------------------------------------------------------------------------------------------


def test_a_conversation_deleted_over_rest_leaves_its_directory_to_the_clean_up(
    ask: Ask, hosts: list[Host], gateway: LiveGateway
) -> None:
    one = ask("One").conversation
    home = host_of(one, hosts)
    directory = directory_of(one, home)

    deleted = httpx.delete(
        f"{gateway.url}/api/conversations/{one.pk}", headers={"Authorization": f"Bearer {gateway.key}"}
    )
    gone_at_once = one.pk not in home.fake.conversations
    kept = directory.exists()
    make_due()
    lifetime.remove_leftovers()

    assert deleted.status_code == 200
    assert gone_at_once
    assert kept
    assert not directory.exists()
    assert not Leftover.objects.exists()


def test_deleting_works_while_the_server_is_down_and_is_made_good_later(
    ask: Ask, hosts: list[Host], gateway: LiveGateway
) -> None:
    one = ask("One").conversation
    home = host_of(one, hosts)
    home.fake.crash()

    deleted = httpx.delete(
        f"{gateway.url}/api/conversations/{one.pk}", headers={"Authorization": f"Bearer {gateway.key}"}, timeout=20
    )
    home.fake.come_back()
    lifetime.remove_leftovers()

    assert deleted.status_code == 200
    assert one.pk not in home.fake.conversations
    assert ask("Two", within=one).response.status_code == 404


# --- idempotency keys -------------------------------------------------------------------------------------------------


def test_an_idempotency_key_names_its_turn_for_a_day(ask: Ask, hosts: list[Host]) -> None:
    for number in range(3):
        ask(f"Number {number}")
    old, young, still_open = Turn.objects.all()
    long_ago = timezone.now() - timedelta(hours=25)
    Turn.objects.filter(pk=old.pk).update(idempotency_key="old", opened_at=long_ago)
    Turn.objects.filter(pk=young.pk).update(idempotency_key="young")
    Turn.objects.filter(pk=still_open.pk).update(
        idempotency_key="open", opened_at=long_ago, outcome="open", closed_at=None
    )

    told = [tasks.release_idempotency_keys(), tasks.release_idempotency_keys()]

    assert told == ["1 keys released", "0 keys released"]
    assert set(Turn.objects.values_list("idempotency_key", flat=True)) == {"", "young", "open"}


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_directory_stays_as_long_as_a_fork_works_in_it(ask: Ask, hosts: list[Host], gateway: LiveGateway) -> None:
    first = ask("One")
    home = host_of(first.conversation, hosts)
    directory = directory_of(first.conversation, home)
    said = [{"role": "user", "content": "One"}, {"role": "assistant", "content": first.answer}]
    with httpx.Client(headers={"Authorization": f"Bearer {gateway.key}"}, timeout=100) as session:
        edited = [
            session.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": "openhands_chat", "messages": [*said, {"role": "user", "content": text}]},
            )
            for text in ("Two", "Two, but otherwise")
        ]
    fork = Conversation.objects.get(pk=edited[1].headers["X-OpenHands-ServerConversation-ID"])

    time_passes(first.conversation)
    tasks.expire_conversations()
    make_due()
    lifetime.remove_leftovers()
    while_forked = directory.exists()
    time_passes(fork)
    tasks.expire_conversations()
    make_due()
    lifetime.remove_leftovers()

    assert edited[1].headers["X-Gateway-Conversation-Match"] == "fork"
    assert (while_forked, directory.exists()) == (True, False)
    assert {first.conversation.pk, fork.pk}.isdisjoint(home.fake.conversations)
