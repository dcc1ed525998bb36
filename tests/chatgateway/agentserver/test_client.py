"""The REST calls: what they send, and what each way to fail is called."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import (
    AgentServerError,
    AlreadyRunning,
    CapacityReached,
    CommandFailed,
    ConversationMissing,
    Rejected,
    SendDoubtful,
    TooOld,
    Unauthorized,
    Unreachable,
)
from chatgateway.agentserver.schemas import ImagePart, MessagePart, TextPart
from chatgateway.turn_events import RunEnded, TokenCounts
from tests.chatgateway.agentserver.talking import (
    AGENT,
    LLM,
    PROVIDER_KEY,
    SECONDS,
    TERMINAL_SECRET,
    a_conversation,
    a_feed,
    an_agent,
    an_llm,
    ask,
    client_of,
    of_type,
    say,
    seqs,
    streamed,
)
from tests.fakes.agent_script import Answer, Confirm, Fail, Gate, Hang, Step
from tests.fakes.agent_server import FakeAgentServer

NOBODY = uuid.UUID(int=7)

# Every call about one conversation, by name.
CALLS = {
    "conversation": lambda client, one: client.conversation(one, timeout_seconds=SECONDS),
    "send_message": lambda client, one: client.send_message(one, [TextPart("hi")], timeout_seconds=SECONDS),
    "run": lambda client, one: client.run(one, timeout_seconds=SECONDS),
    "interrupt": lambda client, one: client.interrupt(one, timeout_seconds=SECONDS),
    "navigate": lambda client, one: client.navigate(one, "event", timeout_seconds=SECONDS),
    "switch_llm": lambda client, one: client.switch_llm(one, LLM, timeout_seconds=SECONDS),
    "reject_action": lambda client, one: client.reject_action(one, reason="no", timeout_seconds=SECONDS),
    "fork": lambda client, one: client.fork(
        one, new_id=uuid.uuid4(), from_event_id=None, tags={}, timeout_seconds=SECONDS
    ),
    "durable_events": lambda client, one: client.durable_events(one, after_seq=-1, timeout_seconds=SECONDS),
    "event_at": lambda client, one: client.event_at(one, seq=0, previous_id=None, timeout_seconds=SECONDS),
    "delete": lambda client, one: client.delete(one, timeout_seconds=SECONDS),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_call_but_delete = pytest.mark.parametrize(
    "call", [call for name, call in CALLS.items() if name != "delete"], ids=[name for name in CALLS if name != "delete"]
)


# --- the server -------------------------------------------------------------------------------------------------------


async def test_a_server_tells_what_it_is(agent_server):
    async with client_of(agent_server) as client:
        info = await client.server_info(timeout_seconds=SECONDS)

    assert (info.version, "terminal" in info.usable_tools) == ("1.58.0", True)


@pytest.mark.parametrize("version", ["1.44.9", "0.99.0", "unknown", ""])
async def test_a_server_without_the_session_socket_is_too_old(agent_server, version):
    agent_server.version = version
    async with client_of(agent_server) as client:
        with pytest.raises(TooOld, match=r"at least 1\.45"):
            await client.server_info(timeout_seconds=SECONDS)


@pytest.mark.parametrize("version", ["1.45.0", "1.100.2", "2.0.0rc1"])
async def test_a_server_with_the_session_socket_is_new_enough(agent_server, version):
    agent_server.version = version
    async with client_of(agent_server) as client:
        assert (await client.server_info(timeout_seconds=SECONDS)).version == version


async def test_a_wrong_key_is_noticed_although_the_servers_description_is_open(agent_server):
    async with client_of(agent_server, session_api_key="wrong") as client:
        with pytest.raises(Unauthorized):
            await client.server_info(timeout_seconds=SECONDS)


async def test_a_server_is_ready_when_it_says_so_and_not_while_it_is_away(agent_server):
    async with client_of(agent_server) as client:
        up = await client.is_ready(timeout_seconds=SECONDS)
        agent_server.fail_next("GET", "/ready", status=503, body={"status": "initializing"})
        starting = await client.is_ready(timeout_seconds=SECONDS)
        agent_server.crash()
        down = await client.is_ready(timeout_seconds=SECONDS)

    assert (up, starting, down) == (True, False, False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://[::1"])
async def test_an_address_that_leads_nowhere_is_unreachable(url):
    async with new_http_session() as http:
        client = AgentServerClient(base_url=url, session_api_key="key", http=http)
        with pytest.raises(Unreachable):
            await client.server_info(timeout_seconds=SECONDS)


async def test_a_server_that_is_something_else_is_unreachable(agent_server):
    agent_server.fail_next("GET", "/server_info", status=200, body=["not", "an", "object"])
    async with client_of(agent_server) as client:
        with pytest.raises(Unreachable, match="is this an agent-server"):
            await client.server_info(timeout_seconds=SECONDS)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, "<html>", Unreachable),
        (200, [], Unreachable),
        (200, {"id": "7", "execution_status": "idle"}, Unreachable),
        (200, {"id": str(NOBODY)}, Unreachable),
        (302, "elsewhere", Rejected),
        (403, "<html>forbidden</html>", Rejected),
        (502, "<html>bad gateway</html>", Unreachable),
    ],
)
async def test_an_answer_that_an_agent_server_would_not_give_is_no_answer(agent_server, status, body, error):
    agent_server.fail_next("GET", str(NOBODY), status=status, body=body)
    async with client_of(agent_server) as client:
        with pytest.raises(error):
            await client.conversation(NOBODY, timeout_seconds=SECONDS)


# --- every call -------------------------------------------------------------------------------------------------------


@every_call
async def test_a_refused_key_is_unauthorized(agent_server, call):
    async with client_of(agent_server, session_api_key="wrong") as client:
        with pytest.raises(Unauthorized):
            await call(client, NOBODY)


@every_call_but_delete
async def test_a_conversation_that_is_not_there_is_missing(agent_server, call):
    async with client_of(agent_server) as client:
        with pytest.raises(ConversationMissing):
            await call(client, NOBODY)


async def test_deleting_tells_whether_there_was_something(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        told = [await client.delete(one, timeout_seconds=SECONDS) for _ in range(2)]

    assert told == [True, False]


@every_call
async def test_a_server_that_is_away_is_unreachable(agent_server, call):
    agent_server.crash()
    async with client_of(agent_server) as client:
        with pytest.raises(Unreachable):
            await call(client, NOBODY)


async def test_a_server_that_does_not_answer_is_given_up_in_time(agent_server):
    agent_server.hang()
    async with client_of(agent_server) as client, asyncio.timeout(SECONDS):
        with pytest.raises(Unreachable, match=r"within 0\.1 s"):
            await client.conversation(NOBODY, timeout_seconds=0.1)


async def test_a_key_that_cannot_be_sent_is_a_wrong_key(agent_server):
    async with client_of(agent_server, session_api_key="two\nlines") as client:
        with pytest.raises(Unauthorized, match="cannot be sent"):
            await client.server_info(timeout_seconds=SECONDS)


async def test_text_that_is_no_unicode_is_refused_before_it_is_sent(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(Rejected, match="not valid JSON"):
            await client.send_message(one, [TextPart("half a pair: \ud800")], timeout_seconds=SECONDS)

    assert not agent_server.only_conversation.posted


# --- creating -----------------------------------------------------------------------------------------------------------


async def test_a_conversation_is_created_as_specified_and_only_once(agent_server):
    async with client_of(agent_server) as client:
        first = await client.create_conversation(NOBODY, AGENT, timeout_seconds=SECONDS)
        again = await client.create_conversation(NOBODY, an_agent(tools=()), timeout_seconds=SECONDS)

    assert (first.is_new, again.is_new) == (True, False)
    assert (first.info.id, first.info.execution_status) == (NOBODY, "idle")
    assert agent_server.only_conversation.requested == AGENT.to_json(NOBODY)


async def test_creating_is_tried_again_when_the_answer_is_lost(agent_server):
    agent_server.lose_next_answer("POST", "/api/conversations")
    async with client_of(agent_server) as client:
        created = await client.create_conversation(NOBODY, AGENT, timeout_seconds=SECONDS)

    assert not created.is_new
    assert len(agent_server.calls("POST", "/api/conversations")) == 2


async def test_creating_is_not_tried_again_when_the_server_fails(agent_server):
    agent_server.fail_next("POST", "/api/conversations", status=500)
    async with client_of(agent_server) as client:
        with pytest.raises(Unreachable, match="500"):
            await client.create_conversation(NOBODY, AGENT, timeout_seconds=SECONDS)

    assert len(agent_server.calls("POST", "/api/conversations")) == 1


async def test_a_full_server_takes_no_new_conversation(agent_server):
    agent_server.refuse_runs(1)
    async with client_of(agent_server) as client:
        with pytest.raises(CapacityReached) as refused:
            await client.create_conversation(NOBODY, AGENT, timeout_seconds=SECONDS)

    assert not refused.value.message_saved
    assert not agent_server.conversations


async def test_an_invalid_request_is_told_by_place_and_rule_only(agent_server):
    problem = {"loc": ["body", "tags"], "msg": "must be lowercase", "input": TERMINAL_SECRET}
    agent_server.fail_next("POST", "/api/conversations", status=422, body={"detail": [problem]})
    async with client_of(agent_server) as client:
        with pytest.raises(Rejected) as refused:
            await client.create_conversation(NOBODY, AGENT, timeout_seconds=SECONDS)

    assert refused.value.status == 422
    assert refused.value.detail == "POST /api/conversations: body.tags: must be lowercase"


@pytest.mark.parametrize("status", [400, 418, 500, 503])
async def test_no_secret_comes_back_in_an_error(agent_server, status):
    secrets = [PROVIDER_KEY, TERMINAL_SECRET, "mcp-token", agent_server.session_api_key]
    body = {"detail": f"You sent {' and '.join(secrets)}", "exception": " ".join(secrets)}
    agent_server.fail_next("POST", "/api/conversations", status=status, body=body)
    spec = an_agent(mcp_config={"docs": {"headers": {"Authorization": "mcp-token"}}})
    async with client_of(agent_server) as client:
        with pytest.raises(AgentServerError) as failed:
            await client.create_conversation(NOBODY, spec, timeout_seconds=SECONDS)
        told = f"{failed.value} {failed.value!r} {failed.value.detail} {client!r}"

    assert [secret for secret in secrets if secret in told] == []
    assert "You sent *** and ***" in told


# --- sending and running --------------------------------------------------------------------------------------------------


async def test_a_message_is_posted_with_its_parts(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        parts: list[MessagePart] = [TextPart("look"), ImagePart("data:image/png;base64,AA")]
        await client.send_message(one, parts, timeout_seconds=SECONDS)

    assert agent_server.only_conversation.posted == [[part.to_json() for part in parts]]


async def test_a_message_can_be_left_for_a_later_run(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await client.send_message(one, [TextPart("later")], run=False, timeout_seconds=SECONDS)
        info = await client.conversation(one, timeout_seconds=SECONDS)

    assert (info.execution_status, len(agent_server.only_conversation.posted)) == ("idle", 1)


async def test_a_message_whose_answer_is_lost_is_doubtful_and_never_sent_twice(agent_server):
    agent_server.lose_next_answer("POST", "/events")
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(SendDoubtful):
            await say(client, one)
        logged = await client.durable_events(one, after_seq=-1, timeout_seconds=SECONDS)

    assert len(agent_server.calls("POST", "/events")) == 1
    assert ("MessageEvent", "user") in [(event.kind, event.event["source"]) for event in logged]


@pytest.mark.parametrize("status", [500, 503])
async def test_a_message_that_the_server_failed_at_is_doubtful(agent_server, status):
    agent_server.fail_next("POST", "/events", status=status)
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(SendDoubtful):
            await say(client, one)


async def test_a_message_that_is_not_answered_in_time_is_doubtful(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        agent_server.hang()
        with pytest.raises(SendDoubtful):
            await client.send_message(one, [TextPart("hi")], timeout_seconds=0.1)


async def test_a_message_that_never_left_is_not_doubtful(agent_server):
    async with client_of(agent_server) as client:
        agent_server.crash()
        with pytest.raises(Unreachable) as failed:
            await say(client, NOBODY)

    assert not isinstance(failed.value, SendDoubtful)


async def test_a_message_that_is_refused_is_not_doubtful(agent_server):
    agent_server.fail_next("POST", "/events", status=422, body={"detail": "no"})
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(Rejected):
            await say(client, one)


async def test_a_full_server_saves_the_message_and_runs_it_later(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        agent_server.refuse_runs(1)
        with pytest.raises(CapacityReached) as refused:
            await say(client, one)
        await client.run(one, timeout_seconds=SECONDS)

    assert refused.value.message_saved
    assert len(agent_server.only_conversation.posted) == 1


async def test_a_proxys_refusal_is_not_taken_for_a_saved_message(agent_server):
    agent_server.fail_next("POST", "/events", status=429, body={"detail": "slow down"})
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(CapacityReached) as refused:
            await say(client, one)

    assert not refused.value.message_saved


async def test_a_run_of_a_full_server_is_refused(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await client.send_message(one, [TextPart("hi")], run=False, timeout_seconds=SECONDS)
        agent_server.refuse_runs(1)
        with pytest.raises(CapacityReached):
            await client.run(one, timeout_seconds=SECONDS)


async def test_a_second_run_of_a_conversation_is_told_apart(agent_server):
    hang = Hang()
    agent_server.script(hang)
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await say(client, one)
        with pytest.raises(AlreadyRunning):
            await client.run(one, timeout_seconds=SECONDS)
    hang.gate.open()


async def test_a_run_is_tried_again_without_sending_the_message_again(agent_server):
    agent_server.script(Fail.unavailable(), Answer("Second try."))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        _, first = await ask(client, one)
        await client.run(one, timeout_seconds=SECONDS)
        agent_server.wait_until(lambda: agent_server.only_conversation.status == "finished")

    assert of_type(RunEnded, first)[0].status == "error"
    assert agent_server.only_conversation.prompt[-1] == ("assistant", "Second try.")
    assert len(agent_server.only_conversation.posted) == 1


# --- control ------------------------------------------------------------------------------------------------------------


async def test_an_interrupt_stops_the_run(agent_server):
    agent_server.script(Hang())
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await say(client, one)
        await client.interrupt(one, timeout_seconds=SECONDS)
        info = await client.conversation(one, timeout_seconds=SECONDS)

    assert info.execution_status == "paused"


@pytest.mark.parametrize("ending", ["/interrupt", "/switch_llm"])
async def test_what_may_be_repeated_is_repeated_once_after_a_lost_answer(agent_server, ending):
    calls = {"/interrupt": CALLS["interrupt"], "/switch_llm": CALLS["switch_llm"]}
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        agent_server.lose_next_answer("POST", ending)
        await calls[ending](client, one)

    assert len(agent_server.calls("POST", ending)) == 2


async def test_what_is_lost_twice_is_unreachable(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        agent_server.lose_next_answer("POST", "/interrupt")
        agent_server.lose_next_answer("POST", "/interrupt")
        with pytest.raises(Unreachable):
            await client.interrupt(one, timeout_seconds=SECONDS)


async def test_navigating_leaves_what_followed_out_of_the_next_prompt(agent_server):
    agent_server.script(Answer("First."))
    agent_server.script(Fail.bad_request())
    agent_server.script(Answer("Third."))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        frames, events = await ask(client, one)
        good = of_type(RunEnded, events)[0]
        frames, _ = await ask(client, one, after_seq=seqs(frames)[-1])
        assert good.leaf_event_id is not None
        info = await client.navigate(one, good.leaf_event_id, timeout_seconds=SECONDS)
        await ask(client, one, after_seq=seqs(frames)[-1])

    assert info.leaf_event_id == good.leaf_event_id
    assert [role for role, _ in agent_server.only_conversation.prompt] == ["user", "assistant"] * 2


async def test_an_event_that_is_not_there_is_told_from_a_conversation_that_is_not(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(Rejected, match="Unknown event_id: nowhere") as refused:
            await client.navigate(one, "nowhere", timeout_seconds=SECONDS)

    assert refused.value.status == 404


async def test_the_llm_is_replaced_whole(agent_server):
    other = an_llm(model="openai/other", api_key="sk-other")
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await client.switch_llm(one, other, timeout_seconds=SECONDS)

    assert agent_server.only_conversation.llm == other.to_json()


async def test_an_action_that_waits_is_refused(agent_server):
    agent_server.script(Confirm())
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        await client.reject_action(one, reason="Nobody is here.", timeout_seconds=SECONDS)

    assert agent_server.only_conversation.status == "idle"
    assert agent_server.calls("POST", "/respond_to_confirmation")[0].body == {
        "accept": False,
        "reason": "Nobody is here.",
    }


async def test_a_fork_counts_its_tokens_when_its_first_message_comes_before_its_llm(agent_server):
    fork = uuid.uuid4()
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        copied = await client.fork(one, new_id=fork, from_event_id=None, tags={"a": "1"}, timeout_seconds=SECONDS)
        await client.send_message(fork, [TextPart("and then?")], run=False, timeout_seconds=SECONDS)
        await client.switch_llm(fork, LLM, timeout_seconds=SECONDS)
        await client.run(fork, timeout_seconds=SECONDS)
        agent_server.wait_until(lambda: agent_server.conversations[fork].status == "finished")
        info = await client.conversation(fork, timeout_seconds=SECONDS)

    assert (copied.id, copied.tags, copied.by_usage_id) == (fork, {"a": "1"}, {})
    assert info.by_usage_id == {"agent": TokenCounts(input=100, output=10)}


async def test_a_fork_from_an_event_that_is_not_there_is_refused(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(Rejected, match="Unknown from_event_id"):
            await client.fork(one, new_id=NOBODY, from_event_id="nowhere", tags={}, timeout_seconds=SECONDS)


async def test_a_fork_onto_an_id_in_use_is_refused(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(Rejected) as refused:
            await client.fork(one, new_id=one, from_event_id=None, tags={}, timeout_seconds=SECONDS)

    assert refused.value.status == 409


# --- the log --------------------------------------------------------------------------------------------------------------


async def test_the_log_is_read_from_a_place_on(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        everything = await client.durable_events(one, after_seq=-1, timeout_seconds=SECONDS)
        rest = await client.durable_events(one, after_seq=2, timeout_seconds=SECONDS)

    assert [event.seq for event in everything] == list(range(len(agent_server.only_conversation.events)))
    assert [event.seq for event in rest] == [event.seq for event in everything][3:]


@pytest.mark.parametrize("knows_the_one_before", [True, False])
async def test_an_event_is_found_by_its_place(agent_server, knows_the_one_before):
    agent_server.default_answer = Answer("word " * 5)
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        events = agent_server.only_conversation.events
        previous = {seq: events[seq - 1]["id"] if knows_the_one_before else None for seq in (3, len(events))}
        found = await client.event_at(one, seq=3, previous_id=previous[3], timeout_seconds=SECONDS)
        beyond = await client.event_at(one, seq=len(events), previous_id=previous[len(events)], timeout_seconds=SECONDS)

    assert (found, beyond) == (events[3], None)


async def test_an_event_is_found_in_a_log_of_several_pages(agent_server):
    agent_server.script(*[Step(command=f"echo {number}") for number in range(50)], Answer("Counted."))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        found = await client.event_at(one, seq=130, previous_id=None, timeout_seconds=SECONDS)

    assert found == agent_server.only_conversation.events[130]


# --- directories ------------------------------------------------------------------------------------------------------------


async def test_a_directory_is_copied_with_everything_in_it_and_nothing_is_run(agent_server, tmp_path):
    source = tmp_path / "it's a $(touch pwned) template"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file.txt").write_text("content")
    (source / ".hidden").write_text("dot")
    (source / "link").symlink_to("/nowhere")
    target = tmp_path / "new; touch pwned" / "workspace"
    async with client_of(agent_server) as client:
        await client.copy_directory(str(source), str(target), timeout_seconds=SECONDS)
        await client.copy_directory(f"{source}/", f"{target}/", timeout_seconds=SECONDS)

    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        ".hidden",
        "deep",
        "deep/file.txt",
        "link",
    ]
    assert (target / "link").readlink() == Path("/nowhere")
    assert not list(tmp_path.rglob("pwned"))


async def test_a_directory_that_is_not_there_is_told(agent_server, tmp_path):
    async with client_of(agent_server) as client:
        with pytest.raises(CommandFailed, match="No such file") as failed:
            await client.copy_directory(f"{tmp_path}/none", f"{tmp_path}/new", timeout_seconds=SECONDS)

    assert failed.value.exit_code == 1


@pytest.mark.parametrize(
    ("source", "target", "name"), [("a", "/b", "source"), ("/a", "b", "target"), ("/a", "/\0", "t")]
)
async def test_directories_are_named_absolutely(agent_server, source, target, name):
    async with client_of(agent_server) as client:
        with pytest.raises(ValueError, match=f"{name}.* must be an absolute path"):
            await client.copy_directory(source, target, timeout_seconds=SECONDS)


async def test_a_conversations_directory_is_deleted_with_all_in_it_and_a_second_time_too(agent_server, tmp_path):
    conversation_id = uuid.uuid4()
    directory = tmp_path / "root; touch pwned" / "7" / str(conversation_id)
    cache = directory / "read-only" / "deeper"
    cache.mkdir(parents=True)
    (cache / "file.txt").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept.txt").write_text("x")
    (directory / "link").symlink_to(tmp_path / "outside")
    cache.chmod(0o500)
    cache.parent.chmod(0o500)
    neighbour = directory.parent / str(uuid.uuid4())
    neighbour.mkdir()
    named = {"root": f"{tmp_path}/root; touch pwned/", "tenant_id": 7, "conversation_id": conversation_id}
    async with client_of(agent_server) as client:
        await client.delete_directory(str(directory), **named, timeout_seconds=SECONDS)
        await client.delete_directory(str(directory), **named, timeout_seconds=SECONDS)

    assert [path.name for path in directory.parent.iterdir()] == [neighbour.name]
    assert (tmp_path / "outside" / "kept.txt").exists()
    assert not list(tmp_path.rglob("pwned"))


async def test_a_link_in_a_directorys_place_is_removed_and_not_followed(agent_server, tmp_path):
    conversation_id = uuid.uuid4()
    directory = tmp_path / "7" / str(conversation_id)
    directory.parent.mkdir()
    (tmp_path / "outside").mkdir(mode=0o500)
    directory.symlink_to(tmp_path / "outside")
    async with client_of(agent_server) as client:
        await client.delete_directory(
            str(directory), root=str(tmp_path), tenant_id=7, conversation_id=conversation_id, timeout_seconds=SECONDS
        )

    assert not directory.is_symlink()
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o500


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/srv", "/srv/7"),
        ("/srv", "/srv/8/{id}"),
        ("/srv", "/srv/7/{id}/"),
        ("/srv", "/srv/7/{id}/.."),
        ("/srv", "/srv/7/../7/{id}"),
        ("/srv", "/etc"),
        ("/srv/..", "/srv/../7/{id}"),
        ("srv", "srv/7/{id}"),
        ("/sr\0v", "/sr\0v/7/{id}"),
        ("", "/7/{id}"),
    ],
)
async def test_no_other_directory_is_ever_deleted(agent_server, root, path):
    conversation_id = uuid.uuid4()
    async with client_of(agent_server) as client:
        with pytest.raises(ValueError, match=r"must be an absolute path|is not the directory of conversation"):
            await client.delete_directory(
                path.format(id=conversation_id), root=root, tenant_id=7, conversation_id=conversation_id,
                timeout_seconds=SECONDS,
            )  # fmt: skip

    assert agent_server.requests == []


async def test_two_conversations_at_once_do_not_mix(agent_server: FakeAgentServer):
    agent_server.on_message = lambda conversation, text: [Answer(f"{conversation.id} says so")]
    async with client_of(agent_server) as client:
        ids = [await a_conversation(client) for _ in range(8)]
        turns = await asyncio.gather(*(ask(client, one) for one in ids))

    assert [streamed(frames) for frames, _ in turns] == [f"{one} says so" for one in ids]


async def test_a_gate_holds_a_run_until_it_is_opened(agent_server):
    gate = Gate()
    agent_server.script(Answer("one two three", gate=gate, hold_after=1))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            await asyncio.to_thread(gate.wait_until_reached)
            held = await client.conversation(one, timeout_seconds=SECONDS)
            gate.open()
            agent_server.wait_until(lambda: agent_server.only_conversation.status == "finished")

    assert (held.execution_status, feed.first_state) == ("running", "idle")
