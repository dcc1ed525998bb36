"""Clients that send their history and nothing else go on with the agent that wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chatgateway import servers
from chatgateway.models import AgentServer, Conversation, Message, Turn
from profiles import access
from profiles.models import ApiKey
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.chatting import ChatClient, agent_of, assistant, heard, user
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, PIXEL, set_profile


@pytest.fixture
def chat(http: httpx.Client) -> ChatClient:
    return ChatClient(http=http)


@pytest.fixture
def second_server() -> Iterator[FakeAgentServer]:
    """An agent-server that the gateway does not know of yet."""
    with FakeAgentServer() as other:
        yield other


def told(answer: str) -> list[dict[str, Any]]:
    return [user("Hi"), assistant(answer), user("More.")]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_three_turns_without_a_header_are_one_conversation_told_each_message_once(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer("One."))
    agent_server.script(Answer("Two."))
    agent_server.script(Answer("Three."))

    replies = [chat.say(text) for text in ("a", "b", "c")]

    assert [reply.match for reply in replies] == ["new", "history", "history"]
    assert len({reply.conversation_id for reply in replies}) == 1
    assert agent_server.only_conversation.prompt == [
        ("user", "a"),
        ("assistant", "One."),
        ("user", "b"),
        ("assistant", "Two."),
        ("user", "c"),
        ("assistant", "Three."),
    ]
    first, second, third = Turn.objects.order_by("arrival")
    assert (first.parent, second.parent, third.parent) == (None, first, second)


def test_a_streamed_answer_is_recognised_as_it_was_delivered(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    """A thought longer than the holdback went out as part of the answer; the answer alone does not have it."""
    set_profile(tools=["terminal"], answer_holdback_chars=10)
    ApiKey.objects.update(used_by_one_person=True)
    access.forget_all()
    agent_server.script(Step(thought="This thought is longer than ten."), Answer("All done."))

    chat.say_and_stop("a", after="This thought is longer than ten.\n\nAll done.")
    reply = chat.say("b")

    assert Turn.objects.order_by("arrival")[0].answer == "All done."
    assert reply.match == "history"


@pytest.mark.parametrize(
    "messages",
    [
        [user([{"type": "text", "text": "Hi"}]), assistant("One. Two."), user("More.")],
        [user("Hi"), assistant([{"type": "text", "text": "One. Two."}]), user("More.")],
        [user("Hi\n"), assistant("One. Two."), user("More.")],
        [user("Hi"), assistant("One. Two.\n"), user("More.")],
        [user("Hi"), assistant("  One. Two."), user("More.")],
        [user("Hi"), assistant("<think>\nHm.\n</think>\nOne. Two."), user("More.")],
        [
            user("Hi"),
            assistant('<details type="reasoning" done="true" duration="2">\n<summary>…</summary>\n> Hm.\n</details>\nOne. Two.'),
            user("More."),
        ],
        [user("Hi"), {**assistant("One. Two."), "reasoning_content": "Hm.", "name": "agent"}, user("More.")],
        [user("Hi"), assistant("One. Two."), user("More."), {"role": "system", "content": ""}],
    ],
)  # fmt: skip
def test_what_clients_change_on_the_way_does_not_count(
    chat: ChatClient, agent_server: FakeAgentServer, messages: list[dict[str, Any]]
) -> None:
    agent_server.script(Answer("One. Two."))
    first = chat.send([user("Hi")])

    second = chat.send(messages)

    assert (second.match, second.conversation_id) == ("history", first.conversation_id)
    assert heard(second, agent_server)[-2] == ("user", "More.")


@pytest.mark.parametrize(
    "messages",
    [
        [user("Hi"), assistant("One. Two!"), user("More.")],
        [user("Hi"), assistant("One.  Two."), user("More.")],
        [user("Hi"), assistant("One."), user("More.")],
        [user("hi"), assistant("One. Two."), user("More.")],
        [user("Hi"), assistant("One. <think>Hm.</think>Two."), user("More.")],
        [user("Hi"), user("Hi"), assistant("One. Two."), user("More.")],
        [assistant("One. Two."), user("More.")],
        [user("Hi"), assistant("One. Two."), assistant("One. Two."), user("More.")],
        [{"role": "tool", "content": "Hi"}, assistant("One. Two."), user("More.")],
        [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("One. Two."), user("More.")],
    ],
)
def test_anything_else_is_another_history(
    chat: ChatClient, agent_server: FakeAgentServer, messages: list[dict[str, Any]]
) -> None:
    agent_server.script(Answer("One. Two."))
    first = chat.send([user("Hi")])

    second = chat.send(messages)

    assert second.match == "replay"
    assert second.conversation_id != first.conversation_id


def test_images_and_the_system_text_belong_to_the_history(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    set_profile(accepts_images=True)
    shown = user([{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": PIXEL}}])
    other = user(
        [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]
    )
    system = {"role": "system", "content": "Be brief."}
    agent_server.script(Answer("I see."))
    chat.send([system, shown])

    same = chat.send([{**system, "content": "Be brief.\n"}, shown, assistant("I see."), user("More.")])
    matches = [
        chat.send([*messages, assistant("I see."), user("More.")]).match
        for messages in ([system, other], [system, user("See:")], [shown], [{**system, "content": "Be long."}, shown])
    ]

    assert same.match == "history"
    assert matches == ["replay"] * 4


# --- whose history it is ----------------------------------------------------------------------------------------------


def other_caller(http: httpx.Client, **fields: Any) -> ChatClient:
    made = factories.api_key(**fields)
    return ChatClient(http=http, headers={"Authorization": f"Bearer {made.text}"})


def test_another_key_of_the_tenant_goes_on_and_another_tenants_does_not(chat: ChatClient, http: httpx.Client) -> None:
    first = chat.send([user("Hi")])
    tenant = ApiKey.objects.get().tenant
    history = told(first.text)

    foreign = other_caller(http).send(history)
    narrow = other_caller(http, tenant=tenant, only_own_conversations=True).send(history)
    colleague = other_caller(http, tenant=tenant).send(history)

    assert (foreign.match, narrow.match) == ("replay", "replay")
    assert (colleague.match, colleague.conversation_id) == ("history", first.conversation_id)


def test_another_profile_is_another_agent(chat: ChatClient) -> None:
    factories.profile(slug="other")
    first = chat.send([user("Hi")])

    chat.body = {"model": "openhands_other"}
    second = chat.send(told(first.text))

    assert second.match == "replay"


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({"user": "anna"}, {"user": "anna"}, "history"),
        ({"user": "anna"}, {"safety_identifier": "anna"}, "history"),
        ({"user": "anna"}, {"user": "bob"}, "replay"),
        ({"user": "anna"}, {}, "replay"),
        ({}, {"user": "anna"}, "replay"),
    ],
)
def test_another_end_user_is_another_person(
    chat: ChatClient, first: dict[str, str], second: dict[str, str], match: str
) -> None:
    chat.body = first
    reply = chat.send([user("Hi")])

    chat.body = second

    assert chat.send(told(reply.text)).match == match


@pytest.mark.parametrize(("name", "match"), [("anna", "history"), ("bob", "replay")])
def test_a_chat_uis_header_names_the_end_user_too(chat: ChatClient, name: str, match: str) -> None:
    first = chat.send([user("Hi")], X_OpenWebUI_User_Id="anna")

    second = chat.send(told(first.text), X_OpenWebUI_User_Id=name)

    assert second.match == match
    assert list(Turn.objects.order_by("arrival").values_list("end_user", flat=True)) == ["anna", name]


@pytest.mark.parametrize(
    ("one_person", "body", "match"),
    [(False, {}, "replay"), (True, {}, "history"), (False, {"user": "anna"}, "history")],
)
def test_with_tools_the_history_of_nobody_in_particular_reaches_nobodys_files(
    chat: ChatClient, agent_server: FakeAgentServer, one_person: bool, body: dict[str, str], match: str
) -> None:
    set_profile(tools=["terminal"])
    ApiKey.objects.update(used_by_one_person=one_person)
    access.forget_all()
    chat.body = body

    first = chat.send([user("Hi")])
    second = chat.send(told(first.text))

    assert second.match == match


def test_a_profile_may_be_told_not_to_look(chat: ChatClient) -> None:
    set_profile(continues_by_history=False)
    first = chat.send([user("Hi")])

    assert chat.send(told(first.text)).match == "replay"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"llm_model": "openai/another", "llm_api_key": "sk-new", "temperature": 0.5}, "history"),
        ({"system_prompt": "You are a pirate."}, "replay"),
        ({"tools": ["task_tracker"]}, "replay"),
    ],
)
@pytest.mark.parametrize("names", [{}, {"X_Conversation_Id": "chat-1"}])
def test_a_changed_llm_is_switched_and_a_changed_agent_is_told_anew(
    chat: ChatClient, agent_server: FakeAgentServer, fields: dict[str, Any], match: str, names: dict[str, str]
) -> None:
    ApiKey.objects.update(used_by_one_person=True)
    access.forget_all()
    first = chat.send([user("Hi")], **names)
    set_profile(**fields)

    second = chat.send(told(first.text), **names)
    third = chat.send([*told(first.text), assistant(second.text), user("And?")], **names)

    expected = "client-id" if names and match == "history" else match
    assert second.match == expected
    assert third.match == ("client-id" if names else "history")
    assert third.conversation_id == second.conversation_id
    assert (second.conversation_id == first.conversation_id) == (match == "history")
    assert agent_of(second, agent_server).llm["model"] == fields.get("llm_model", "openai/scripted")


# --- edit and regenerate ----------------------------------------------------------------------------------------------


def test_an_edited_message_forks_the_agent_and_leaves_the_old_branch_alone(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    replies = [chat.say(text) for text in ("a", "b", "c")]
    before = heard(replies[0], agent_server)

    edited = chat.send([*chat.messages[:2], user("b, but otherwise")])

    assert edited.match == "fork"
    assert edited.conversation_id != replies[0].conversation_id
    assert heard(edited, agent_server) == [*before[:2], ("user", "b, but otherwise"), ("assistant", edited.text)]
    assert heard(replies[0], agent_server) == before
    turn = edited.turn
    assert turn.parent == Turn.objects.order_by("arrival")[0]
    assert edited.conversation.branched_at == turn.parent
    assert edited.conversation.working_dir == replies[0].conversation.working_dir
    assert (turn.input_tokens, turn.output_tokens) == (100, 10)
    assert agent_of(edited, agent_server).llm["api_key"] == "sk-provider-secret"


def test_both_branches_go_on(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"You said {text}.")]
    old = [chat.say(text) for text in ("a", "b")][-1]
    branch = ChatClient(http=chat.http, messages=list(chat.messages[:2]))
    new = branch.say("c")

    further = [branch.say("d"), chat.say("e")]

    assert new.match == "fork"
    assert [reply.match for reply in further] == ["history", "history"]
    assert [reply.conversation_id for reply in further] == [new.conversation_id, old.conversation_id]
    assert [text for role, text in heard(new, agent_server) if role == "user"] == ["a", "c", "d"]
    assert [text for role, text in heard(old, agent_server) if role == "user"] == ["a", "b", "e"]


def test_an_answer_written_anew_is_a_fork_too_and_so_is_a_second_one(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    chat.say("a")
    last = chat.say("b")

    again = [chat.send(chat.messages[:3]) for _ in range(2)]

    assert [reply.match for reply in again] == ["fork", "fork"]
    assert len({last.conversation_id, *(reply.conversation_id for reply in again)}) == 3
    assert [len(heard(reply, agent_server)) for reply in again] == [4, 4]


def test_the_first_answer_written_anew_is_a_new_conversation(chat: ChatClient) -> None:
    first = chat.send([user("Hi")])

    second = chat.send([user("Hi")])

    assert (second.match, second.conversation_id != first.conversation_id) == ("new", True)


def test_a_fork_of_a_fork_and_of_a_later_turn_of_it(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"You said {text}.")]
    [chat.say(text) for text in ("a", "b")]
    branch = ChatClient(http=chat.http, messages=list(chat.messages[:2]))
    [branch.say(text) for text in ("c", "d", "e")]

    leaf = branch.send([*branch.messages[:4], user("f")])

    assert leaf.match == "fork"
    assert [text for role, text in heard(leaf, agent_server) if role == "user"] == ["a", "c", "f"]
    assert leaf.conversation.root == Conversation.objects.order_by("created_at")[0]


@pytest.mark.parametrize("how", ["expired", "forgotten", "another incarnation"])
def test_where_there_is_nothing_to_fork_the_history_is_told(
    chat: ChatClient, agent_server: FakeAgentServer, how: str
) -> None:
    chat.say("a")
    chat.say("b")
    match how:
        case "expired":
            Conversation.objects.update(state="expired")
        case "forgotten":
            agent_server.forget_conversations()
        case "another incarnation":
            Conversation.objects.update(incarnation=1)

    edited = chat.send([*chat.messages[:2], user("c")])
    further = chat.send([*chat.messages[:2], user("c"), assistant(edited.text), user("d")])

    first = Turn.objects.order_by("arrival")[2]
    assert (first.match, first.conversation) == ("replay", edited.conversation)
    assert edited.conversation.branched_at is None
    text = heard(edited, agent_server)[0][1]
    assert [text.count(part) for part in (">\na\n<", ">\nHello from the agent.\n<", "\n\nc")] == [1, 1, 1]
    assert (further.match, further.conversation_id) == ("history", edited.conversation_id)


def test_a_server_that_takes_no_new_conversations_takes_no_forks(
    chat: ChatClient, agent_server: FakeAgentServer, second_server: FakeAgentServer
) -> None:
    chat.say("a")
    chat.say("b")
    factories.agent_server(url=second_server.url, session_api_key=second_server.session_api_key)
    AgentServer.objects.filter(url=agent_server.url).update(state="draining")
    servers.forget()

    edited = chat.send([*chat.messages[:2], user("c")])

    assert edited.match == "replay"
    assert heard(edited, second_server)[0][1].count("<message-") == 2


def test_a_fork_whose_server_fails_is_told_elsewhere(
    chat: ChatClient, agent_server: FakeAgentServer, second_server: FakeAgentServer
) -> None:
    chat.say("a")
    chat.say("b")
    factories.agent_server(url=second_server.url, session_api_key=second_server.session_api_key, capacity=1)
    for _ in range(2):
        agent_server.fail_next("POST", "/fork", status=500)

    edited = chat.send([*chat.messages[:2], user("c")])

    assert heard(edited, second_server)[0][1].count("<message-") == 2
    assert edited.conversation.branched_at is None


def test_a_fork_whose_answer_was_lost_is_found_again(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    chat.say("a")
    chat.say("b")
    agent_server.lose_next_answer("POST", "/fork")

    edited = chat.send([*chat.messages[:2], user("c")])

    assert edited.match == "fork"
    assert [text for role, text in heard(edited, agent_server) if role == "user"][-1].endswith("c")


# --- turns that failed ------------------------------------------------------------------------------------------------


def test_a_failed_turn_gives_its_place_back(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    first = chat.say("a")
    agent_server.script(Fail.unknown_model())
    failed = chat.http.post(CHAT, json=question(messages=[*chat.messages, user("b")]))

    again = chat.say("b", X_Stainless_Retry_Count="0")  # of a client whose repeats are known: this is none

    assert failed.status_code >= 400
    assert (again.match, again.conversation_id) == ("history", first.conversation_id)
    assert [text for role, text in heard(again, agent_server) if role == "user"] == ["a", "b"]


@pytest.mark.parametrize("resent", ["", "It broke", None])
def test_a_client_that_goes_on_after_a_failure_has_it_told(
    chat: ChatClient, agent_server: FakeAgentServer, resent: str | None
) -> None:
    first = chat.say("a")
    agent_server.script(Fail.unavailable(streamed="It broke off"))
    chat.http.post(CHAT, json=question(messages=[*chat.messages, user("b")], stream=True))
    answer = [] if resent is None else [assistant(resent)]

    reply = chat.send([*chat.messages, user("b"), *answer, user("c")])

    said = [text for role, text in heard(reply, agent_server) if role == "user"]
    assert (reply.match, reply.conversation_id) == ("history", first.conversation_id)
    assert said[0] == "a"
    assert [said[1].count(text) for text in (">\nb\n<", "\n\nc")] == [1, 1]
    assert said[1].count("It broke") == (1 if resent else 0)


def test_a_first_turn_that_failed_is_gone_on_with(chat: ChatClient, agent_server: FakeAgentServer) -> None:
    agent_server.script(Fail.unknown_model())
    chat.http.post(CHAT, json=question(messages=[user("a")]))

    reply = chat.send([user("a"), user("b")])

    assert reply.match == "history"
    said = [text for role, text in heard(reply, agent_server) if role == "user"]
    assert [said[0].count(text) for text in (">\na\n<", "\n\nb")] == [1, 1]


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_record_grows_by_what_is_new(chat: ChatClient) -> None:
    for number in range(6):
        chat.say(f"message {number}")

    assert Message.objects.count() == 11
    assert Conversation.objects.count() == 1


def test_two_gateways_never_go_on_with_one_agent_at_once(
    chat: ChatClient, served: LiveGateway, agent_server: FakeAgentServer
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    agent_server.on_message = lambda _, text: [Answer(f"You said {text}.", delay_seconds=0.02)]
    chat.say("a")
    second_gateway = LiveGateway()
    second_gateway.start()
    with httpx.Client(base_url=second_gateway.url, headers=chat.http.headers, timeout=100) as beside:
        clients = [ChatClient(http=chat.http), ChatClient(http=beside)]
        with ThreadPoolExecutor(8) as pool:
            calls = [
                pool.submit(clients[number % 2].send, [*chat.messages, user(f"word {number}")]) for number in range(8)
            ]
            replies = [call.result() for call in calls]
    second_gateway.stop()

    assert sorted(reply.match for reply in replies) == ["fork"] * 7 + ["history"]
    assert len({reply.conversation_id for reply in replies}) == 8
    for number, reply in enumerate(replies):
        assert reply.text == f"You said word {number}."
        said = [text for role, text in heard(reply, agent_server) if role == "user"]
        assert said == ["a", f"word {number}"]
