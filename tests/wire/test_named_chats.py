"""A conversation chosen by its id, or by a chat id of the client's own; the history then chooses the place in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from chatgateway.models import Attempt, ClientChat, Conversation, Turn
from profiles import access
from profiles.models import ApiKey
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.chatting import CONVERSATION, ChatClient, assistant, heard, user
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, set_profile


@pytest.fixture
def chat(http: httpx.Client, agent_server: FakeAgentServer) -> ChatClient:
    """A client without a name for its chat, whose agent repeats the last word it hears."""
    agent_server.on_message = lambda _, text: [Answer(f"You said {text.split()[-1]}.")]
    return ChatClient(http=http)


@pytest.fixture
def ui(chat: ChatClient) -> ChatClient:
    """One that names it."""
    chat.headers = {"X-OpenWebUI-Chat-Id": "chat-1"}
    return chat


def said(reply: Any, server: FakeAgentServer) -> list[str]:
    return [text for role, text in heard(reply, server) if role == "user"]


# --- by the client's own id -------------------------------------------------------------------------------------------


def test_a_chat_id_alone_is_enough(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    replies = [ui.send([user(text)]) for text in ("a", "b", "c")]

    assert [reply.match for reply in replies] == ["new", "client-id", "client-id"]
    assert len({reply.conversation_id for reply in replies}) == 1
    assert said(replies[0], agent_server) == ["a", "b", "c"]
    assert ClientChat.objects.get().chat_id == "chat-1"


def test_with_a_history_that_fits_it_goes_on(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    replies = [ui.say(text) for text in ("a", "b", "c")]

    assert [reply.match for reply in replies] == ["new", "client-id", "client-id"]
    assert said(replies[0], agent_server) == ["a", "b", "c"]


@pytest.mark.parametrize("second", [{}, {"X-Conversation-Id": "chat-2"}])
def test_the_same_words_in_another_chat_are_another_chat(
    ui: ChatClient, agent_server: FakeAgentServer, second: dict[str, str]
) -> None:
    """Two people behind one key, with tools: a greeting must not lead to the other one's files."""
    set_profile(tools=["terminal"])
    first = ui.say("a")

    ui.headers = second
    other = ui.send([*ui.messages, user("b")])

    assert other.match == "replay"
    assert other.conversation_id != first.conversation_id


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"body": {"user": "bob"}}, id="end user"),
        pytest.param({"body": {"model": "openhands_other"}}, id="profile"),
        pytest.param({"key": True}, id="tenant"),
    ],
)
def test_an_id_means_another_chat_for_another(chat: ChatClient, change: dict[str, Any]) -> None:
    factories.profile(slug="other")
    chat.headers = {"X-Conversation-Id": "1"}
    chat.body = {"user": "anna"}
    first = chat.send([user("a")])

    chat.body = chat.body | change.get("body", {})
    if "key" in change:
        chat.headers["Authorization"] = f"Bearer {factories.api_key().text}"
    second = chat.send([user("b")])

    assert second.match == "new"
    assert second.conversation_id != first.conversation_id
    assert ClientChat.objects.count() == 2


def test_a_key_that_sees_only_its_own_has_chats_of_its_own(ui: ChatClient, http: httpx.Client) -> None:
    first = ui.send([user("a")])
    narrow = factories.api_key(tenant=ApiKey.objects.get().tenant, only_own_conversations=True)
    other = ChatClient(http=http, headers=ui.headers | {"Authorization": f"Bearer {narrow.text}"})

    theirs = [other.send([user(text)]) for text in ("b", "c")]
    mine = ui.send([user("d")])

    assert [reply.match for reply in theirs] == ["new", "client-id"]
    assert (mine.match, mine.conversation_id) == ("client-id", first.conversation_id)


def test_an_edit_forks_and_the_chat_goes_on_with_the_fork(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    [ui.say(text) for text in ("a", "b")]
    ui.messages = ui.messages[:2]

    edited = ui.say("c")
    further = ui.say("d")

    assert [edited.match, further.match] == ["fork", "client-id"]
    assert further.conversation_id == edited.conversation_id
    assert said(edited, agent_server) == ["a", "c", "d"]


def test_the_chat_goes_back_to_the_other_branch(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    old = [ui.say(text) for text in ("a", "b")][-1]
    branch = ChatClient(http=ui.http, headers=ui.headers, messages=ui.messages[:2])
    branch.say("c")

    back = ui.say("d")

    assert (back.match, back.conversation_id) == ("client-id", old.conversation_id)
    assert said(back, agent_server) == ["a", "b", "d"]


@pytest.mark.parametrize("chat_id", ["local", "local:Xy12", "new", "null", "{{LIBRECHAT_BODY_CONVERSATIONID}}"])
def test_an_id_that_many_chats_share_names_none(chat: ChatClient, chat_id: str) -> None:
    chat.headers = {"X-OpenWebUI-Chat-Id": chat_id}

    first, second = [chat.send([user(text)]) for text in ("a", "b")]
    third = chat.send([user("a"), assistant(first.text), user("c")])

    assert [first.match, second.match, third.match] == ["new", "new", "history"]
    assert ClientChat.objects.count() == 0


def test_a_history_that_fits_nothing_is_told_and_the_chat_goes_on_with_that(
    ui: ChatClient, agent_server: FakeAgentServer
) -> None:
    first = ui.say("a")

    other = ui.send([user("x"), assistant("y"), user("b")])
    further = ui.send([user("x"), assistant("y"), user("b"), assistant(other.text), user("c")])
    back = ui.say("d")

    assert [other.match, further.match, back.match] == ["replay", "client-id", "client-id"]
    assert other.conversation_id == further.conversation_id
    assert back.conversation_id == first.conversation_id


def test_another_system_text_in_the_chat_is_told_anew(ui: ChatClient) -> None:
    first = ui.say("a")
    system = {"role": "system", "content": "Be brief."}

    anew = ui.send([system, *ui.messages, user("b")])
    further = ui.send([system, *ui.messages, user("b"), assistant(anew.text), user("c")])

    assert [anew.match, further.match] == ["replay", "client-id"]
    assert anew.conversation_id == further.conversation_id != first.conversation_id


# --- its first message, edited or asked again -------------------------------------------------------------------------


def test_the_first_message_edited_begins_the_chat_again(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    old = [ui.say(text) for text in ("a", "b")][-1]
    before = ChatClient(http=ui.http, headers=ui.headers, messages=list(ui.messages))
    ui.messages = []

    edited = ui.say("c")
    further = ui.say("d")
    back = before.say("e")

    assert [edited.match, further.match, back.match] == ["new", "client-id", "client-id"]
    assert further.conversation_id == edited.conversation_id != old.conversation_id
    assert back.conversation_id == old.conversation_id
    assert said(edited, agent_server) == ["c", "d"]
    assert said(old, agent_server) == ["a", "b", "e"]


def test_the_first_answer_written_anew_twice_begins_the_chat_again_each_time(
    ui: ChatClient, agent_server: FakeAgentServer
) -> None:
    old = [ui.say(text) for text in ("a", "b")][-1]

    again = [ui.send([user("a")]) for _ in range(2)]

    assert [reply.match for reply in again] == ["new", "new"]
    assert len({old.conversation_id, *(reply.conversation_id for reply in again)}) == 3
    assert said(again[1], agent_server) == ["a"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Conversation-Id": "1", "X-Gateway-Sends-History": "true"},
        {"X-OpenWebUI-Chat-Id": "1", "X-OpenWebUI-User-Role": "user"},
    ],
)
def test_a_client_that_always_sends_its_history_begins_again_from_the_first_message_on(
    chat: ChatClient, agent_server: FakeAgentServer, headers: dict[str, str]
) -> None:
    chat.headers = headers
    first = chat.send([user("a")])

    again = chat.send([user("a")])
    edited = chat.say("b")
    further = chat.say("c")

    assert [reply.match for reply in (first, again, edited, further)] == ["new", "new", "new", "client-id"]
    assert said(further, agent_server) == ["b", "c"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Conversation-Id": "1", "X-OpenWebUI-User-Id": "anna"},
        {"X-Conversation-Id": "1", "X-Gateway-Sends-History": "false"},
    ],
)
def test_a_client_that_never_sends_its_history_may_say_the_same_thing_each_time(
    chat: ChatClient, agent_server: FakeAgentServer, headers: dict[str, str]
) -> None:
    chat.headers = headers

    replies = [chat.send([user("check")]) for _ in range(3)]

    assert [reply.match for reply in replies] == ["new", "client-id", "client-id"]
    assert said(replies[0], agent_server) == ["check"] * 3


def test_two_messages_in_one_are_no_history(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    replies = [ui.send([user(f"{text} is new:"), user(text)]) for text in ("a", "b")]
    replies.append(ui.send([user("c")]))

    assert [reply.match for reply in replies] == ["new", "client-id", "client-id"]


def test_a_stopped_first_message_that_is_sent_again_is_history(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    """Nothing was seen of its answer, and the client keeps no empty message: no answer shows that it sends history."""
    gate = Gate()
    moves = {"a": Answer("One.", gate=gate, hold_after=0)}
    agent_server.on_message = lambda _, text: [moves.get(text, Answer("Two."))]
    ui.say_and_stop("a", after="")

    further = ui.send([user("a"), user("b")])
    edited = ui.send([user("c")])
    gate.open()

    assert [further.match, edited.match] == ["client-id", "new"]
    assert said(edited, agent_server) == ["c"]


def test_an_edited_first_message_with_another_system_text_is_told_nothing(
    ui: ChatClient, agent_server: FakeAgentServer
) -> None:
    [ui.say(text) for text in ("a", "b")]

    edited = ui.send([{"role": "system", "content": "Be brief."}, user("c")])

    assert edited.match == "new"
    assert said(edited, agent_server) == ["c"]


def test_a_first_message_asked_twice_at_once_is_two_conversations(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    """A chat UI that asks two agents of one profile side by side, in one chat."""
    chat.headers = {"X-Conversation-Id": "1", "X-Gateway-Sends-History": "true"}
    with ThreadPoolExecutor(4) as pool:
        replies = [call.result() for call in [pool.submit(chat.send, [user("a")]) for _ in range(4)]]
    further = [chat.send([user("a"), assistant(replies[0].text), user(text)]) for text in ("b", "c")]

    assert {reply.match for reply in replies} == {"new"}
    assert len({reply.conversation_id for reply in replies}) == 4
    assert [said(reply, agent_server) for reply in further] == [["a", "b"], ["a", "c"]]
    assert ClientChat.objects.count() == 1


def test_a_first_message_that_failed_and_is_sent_again_is_heard_once(
    ui: ChatClient, agent_server: FakeAgentServer
) -> None:
    moves = [Fail.unknown_model()]
    agent_server.on_message = lambda _, text: [moves.pop() if moves else Answer(f"You said {text}.")]
    counted = {"X-Stainless-Retry-Count": "0"}  # of a client whose repeats are known: the next one is none
    failed = ui.http.post(CHAT, json=question(messages=[user("a")]), headers=ui.headers | counted)

    again = ui.say("a", X_Stainless_Retry_Count="0")
    further = ui.say("b")

    assert failed.status_code == 502
    assert (again.match, further.match) == ("client-id", "client-id")
    assert said(further, agent_server) == ["a", "b"]


def test_a_deleted_conversation_leaves_the_chat_to_a_new_one(ui: ChatClient) -> None:
    first = ui.send([user("a")])
    Conversation.objects.update(state="deleted")

    second = ui.send([user("b")])

    assert (second.match, second.conversation_id != first.conversation_id) == ("new", True)


def test_equal_words_in_two_chats_are_two_requests(ui: ChatClient, http: httpx.Client) -> None:
    """They are no repeat of each other, although everything but the chat is equal."""
    counted = {"X-Stainless-Retry-Count": "0"}
    first = http.post(CHAT, json=question(), headers={"X-Conversation-Id": "1", **counted})
    Attempt.objects.update(delivered_at=None)

    second = http.post(CHAT, json=question(), headers={"X-Conversation-Id": "2", "X-Stainless-Retry-Count": "1"})
    third = http.post(CHAT, json=question(), headers={"X-OpenWebUI-User-Id": "anna", "X-Stainless-Retry-Count": "1"})

    assert len({reply.headers[CONVERSATION] for reply in (first, second, third)}) == 3
    assert Turn.objects.count() == 3


def test_the_names_of_the_headers_are_settings(chat: ChatClient, settings: Any) -> None:
    settings.GATEWAY_CHAT_ID_HEADERS = ["X-Thread"]
    settings.GATEWAY_END_USER_HEADERS = ["X-Person"]
    chat.headers = {"X-Thread": "1", "X-Person": "anna", "X-Conversation-Id": "ignored"}

    replies = [chat.send([user(text)]) for text in ("a", "b")]

    assert [reply.match for reply in replies] == ["new", "client-id"]
    assert (ClientChat.objects.get().chat_id, ClientChat.objects.get().end_user) == ("1", "anna")


# --- by its id --------------------------------------------------------------------------------------------------------


def named(reply: Any) -> dict[str, str]:
    return {CONVERSATION.replace("-", "_"): reply.conversation_id}


def test_a_named_conversation_is_forked_where_the_history_leaves_it(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    first, _ = [chat.say(text) for text in ("a", "b")]

    edited = chat.send([*chat.messages[:2], user("c")], **named(first))
    latest = chat.send([*chat.messages, user("d")], **named(first))

    assert (edited.match, latest.match) == ("fork", "header")
    assert latest.conversation_id == first.conversation_id
    assert said(edited, agent_server) == ["a", "c"]


def test_a_history_that_fits_nothing_is_ignored_where_the_conversation_is_named(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    first = chat.say("a")
    other = [user("x"), assistant("y"), user("b")]

    second = chat.send(other, **named(first))
    third = chat.send([*other, assistant(second.text), user("c")], **named(first))

    assert (second.match, second.conversation_id) == ("header; history=ignored", first.conversation_id)
    assert (third.match, third.conversation_id) == ("header", first.conversation_id)
    assert said(third, agent_server) == ["a", "b", "c"]


def test_what_was_sent_without_a_history_is_known_when_it_is_sent_with_one(chat: ChatClient) -> None:
    first = chat.say("a")
    second = chat.send([user("b")], **named(first))

    third = chat.send([*chat.messages, user("b"), assistant(second.text), user("c")])

    assert (second.match, third.match) == ("header", "history")
    assert third.conversation_id == first.conversation_id


def test_the_id_wins_over_the_chat(ui: ChatClient, agent_server: FakeAgentServer) -> None:
    ui.headers = {}
    first = ui.send([user("a")])

    second = ui.send([user("b")], X_Conversation_Id="1", **named(first))

    assert (second.match, second.conversation_id) == ("header", first.conversation_id)


def test_turns_that_wait_for_one_another_each_have_a_parent_of_their_own(
    chat: ChatClient, agent_server: FakeAgentServer
) -> None:
    first = chat.say("a")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(chat.send, [user(text)], **named(first)) for text in ("b", "c", "d")]
        replies = [call.result() for call in calls]

    rows = list(Turn.objects.order_by("arrival"))
    assert {reply.match for reply in replies} == {"header"}
    assert [row.parent for row in rows] == [None, *rows[:3]]


def test_a_one_person_key_and_a_chat_with_tools(ui: ChatClient) -> None:
    """A chat that is not known yet, with a history that is: the key says whose it is."""
    set_profile(tools=["terminal"])
    ApiKey.objects.update(used_by_one_person=True)
    access.forget_all()
    headers, ui.headers = ui.headers, {}
    first = ui.say("a")

    ui.headers = headers
    second = ui.say("b")
    third = ui.say("c")

    assert [second.match, third.match] == ["history", "client-id"]
    assert first.conversation_id == second.conversation_id == third.conversation_id
