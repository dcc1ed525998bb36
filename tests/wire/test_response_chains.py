"""How responses go on after one another, alone and mixed with chat completions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI

from chatgateway import finding
from chatgateway.models import Conversation
from chatgateway.openai_api.responses_input import parse_input
from chatgateway.search import Named
from profiles import access
from profiles.models import Profile
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.chatting import CHAT, CONVERSATION, MATCH, agent_of, user
from tests.wire.test_responses import RESPONSES, ask


@pytest.fixture(autouse=True)
def _talkative(agent_server: FakeAgentServer) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"Heard: {text[-20:]}")]


class Talk:
    """Sends one response after another and looks at where they went."""

    def __init__(self, http: httpx.Client, agent_server: FakeAgentServer) -> None:
        self._http = http
        self._agents = agent_server

    def say(self, text: Any, *, after: str | None = None, **more: Any) -> httpx.Response:
        reply = self._http.post(RESPONSES, json=ask() | {"input": text, "previous_response_id": after} | more)
        assert reply.status_code == 200, reply.text
        return reply

    def heard(self, reply: httpx.Response) -> list[str]:
        """What users had said to the agent of a reply's conversation, by the time it answered last."""
        return [text for role, text in agent_of(reply.headers[CONVERSATION], self._agents).prompt if role == "user"]


@pytest.fixture
def talk(http: httpx.Client, agent_server: FakeAgentServer) -> Talk:
    return Talk(http, agent_server)


def id_of(reply: httpx.Response) -> str:
    return str(reply.json()["id"])


# --- previous_response_id ------------------------------------------------------------------------------------------


def test_r7_after_the_latest_response_the_same_agent_goes_on_and_is_sent_only_what_is_new(talk: Talk) -> None:
    first = talk.say("one")
    second = talk.say("two", after=id_of(first))
    third = talk.say("three", after=id_of(second))

    assert len({reply.headers[CONVERSATION] for reply in (first, second, third)}) == 1
    assert [reply.headers[MATCH] for reply in (first, second, third)] == ["new", "header", "header"]
    assert talk.heard(third) == ["one", "two", "three"]
    assert second.json()["previous_response_id"] == id_of(first)


def test_after_an_older_response_the_agent_is_forked_there(talk: Talk) -> None:
    first = talk.say("one")
    second = talk.say("two", after=id_of(first))

    branch = talk.say("instead", after=id_of(first))
    on = talk.say("and on", after=id_of(branch))

    assert branch.headers[MATCH] == "fork"
    assert on.headers[CONVERSATION] == branch.headers[CONVERSATION] != second.headers[CONVERSATION]
    assert talk.heard(on) == ["one", "instead", "and on"]
    assert talk.heard(second) == ["one", "two"]


def test_of_two_at_once_after_one_response_the_second_is_a_branch(talk: Talk, agent_server: FakeAgentServer) -> None:
    first = talk.say("one")
    gate = Gate()
    agent_server.on_message = lambda _, text: [Answer(f"Heard: {text}", gate=gate if text == "two" else None)]
    second = talk.say("two", after=id_of(first), background=True)
    gate.wait_until_reached()

    other = talk.say("instead", after=id_of(first))
    gate.open()

    assert (second.headers[MATCH], other.headers[MATCH]) == ("header", "fork")
    assert other.headers[CONVERSATION] != second.headers[CONVERSATION]
    assert talk.heard(other) == ["one", "instead"]


def test_the_tenth_response_is_gone_on_with_as_cheaply_as_the_first(talk: Talk, served: LiveGateway) -> None:
    """What was said before is read when an agent has to be told it, and not before."""
    caller, profile = access.caller_for(served.key, now=timezone.now()), Profile.objects.get(slug="chat")
    transcript = parse_input("on", stored={}, accepts_images=False, accepts_remote_images=False)
    chain = [id_of(talk.say("one"))]
    chain.append(id_of(talk.say("on", after=chain[-1])))

    def queries() -> int:
        named = Named(previous_response_id=chain[-1], instructions="")
        with CaptureQueriesContext(connection) as captured, transaction.atomic():
            finding.find_for(caller=caller, profile=profile, named=named, transcript=transcript)
        return len(captured)

    few = queries()
    for _ in range(8):
        chain.append(id_of(talk.say("on", after=chain[-1])))

    assert queries() == few


def test_where_the_agent_is_gone_a_new_one_is_told_what_was_said_up_to_there(talk: Talk) -> None:
    first = talk.say("one")
    second = talk.say("two", after=id_of(first))
    talk.say("three", after=id_of(second))
    Conversation.objects.update(state="lost", agent_server=None, incarnation=1)

    again = talk.say("instead", after=id_of(second))

    [told] = talk.heard(again)
    assert again.headers[MATCH] == "replay"
    assert [told.count(text) for text in ("one", "Heard: one", "two", "Heard: two", "instead")] == [2, 1, 2, 1, 1]
    assert "three" not in told


def test_a_branch_that_was_lost_is_told_of_the_time_before_it_too(talk: Talk) -> None:
    first = talk.say("one")
    talk.say("two", after=id_of(first))
    branch = talk.say("instead", after=id_of(first))
    Conversation.objects.filter(pk=branch.headers[CONVERSATION]).update(
        state="expired", agent_server=None, incarnation=1
    )

    on = talk.say("and on", after=id_of(branch))

    assert on.headers[CONVERSATION] == branch.headers[CONVERSATION]
    told = talk.heard(on)[-1]
    assert [text in told for text in ("one", "two", "instead", "and on")] == [True, False, True, True]


def test_a_response_that_failed_can_be_gone_on_with(talk: Talk, http, agent_server: FakeAgentServer) -> None:
    first = talk.say("one")
    agent_server.on_message = lambda *_: [Fail.wrong_key()]
    body = ask("two", previous_response_id=id_of(first), stream=True)
    failed = http.post(RESPONSES, json=body).text.rpartition("data: ")[2]
    agent_server.on_message = lambda *_: [Answer("Good.")]

    on = talk.say("three", after=json.loads(failed)["response"]["id"])

    assert on.headers[CONVERSATION] == first.headers[CONVERSATION]
    assert "two" in talk.heard(on)[-1]
    assert talk.heard(on)[0] == "one"


@pytest.mark.parametrize("what", ["unknown", "foreign", "unstored", "deleted", "a chat's"])
def test_r7_what_cannot_be_gone_on_with_is_one_error(
    client: OpenAI, client_with: Callable[..., OpenAI], what: str
) -> None:
    stranger = client_with(api_key=factories.api_key().text)
    deleted = client.responses.create(**ask())
    client.responses.delete(deleted.id)
    ids = {
        "unknown": "resp_" + "0" * 32,
        "foreign": stranger.responses.create(**ask()).id,
        "unstored": client.responses.create(**ask(store=False)).id,
        "deleted": deleted.id,
        "a chat's": client.chat.completions.create(
            model="openhands_chat", messages=[{"role": "user", "content": "Hi"}]
        ).id,
    }

    with pytest.raises(BadRequestError) as raised:
        client.responses.create(**ask("on", previous_response_id=ids[what]))

    assert (raised.value.code, raised.value.param) == ("previous_response_not_found", "previous_response_id")
    assert "There is no such response to go on after." in raised.value.message


def test_r8_a_response_and_a_conversation_are_not_named_together(client: OpenAI) -> None:
    first = client.responses.create(**ask())
    conversation = client.conversations.create()

    with pytest.raises(BadRequestError) as raised:
        client.responses.create(**ask("on", previous_response_id=first.id, conversation=conversation.id))

    assert (raised.value.code, raised.value.param) == ("unsupported_value", "previous_response_id")


def test_a_response_that_has_not_ended_is_not_gone_on_with(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.on_message = lambda *_: [Answer("Late.", gate=gate)]
    client = client_with(max_retries=2)
    running = client.responses.create(**ask(background=True))

    with pytest.raises(ConflictError) as raised:
        client.responses.create(**ask("on", previous_response_id=running.id))
    gate.open()

    assert raised.value.code == "conversation_busy"
    assert raised.value.response.headers["x-should-retry"] == "false"


# --- instructions --------------------------------------------------------------------------------------------------


def system_text(reply: httpx.Response, agent_server: FakeAgentServer) -> str:
    return str(agent_of(reply.headers[CONVERSATION], agent_server).agent["agent_context"]["system_message_suffix"])


def test_r18_instructions_are_for_one_response(talk: Talk, agent_server: FakeAgentServer) -> None:
    first = talk.say("one", instructions="Speak like a pirate.")
    had = system_text(first, agent_server)

    second = talk.say("two", after=id_of(first))

    assert had == "Speak like a pirate."
    assert "pirate" not in json.dumps(agent_of(second.headers[CONVERSATION], agent_server).requested)
    assert second.headers[CONVERSATION] == first.headers[CONVERSATION]
    [told] = talk.heard(second)
    assert [text in told for text in ("one", "two", "pirate")] == [True, True, False]
    assert (first.json()["instructions"], second.json()["instructions"]) == ("Speak like a pirate.", None)


def test_the_same_instructions_again_keep_the_agent(talk: Talk, agent_server: FakeAgentServer) -> None:
    first = talk.say("one", instructions="Speak like a pirate.")
    second = talk.say("two", after=id_of(first), instructions="Speak like a pirate.")
    third = talk.say("three", after=id_of(second), instructions="Speak like a queen.")

    assert talk.heard(third)[-1].endswith("three")
    assert system_text(third, agent_server) == "Speak like a queen."
    assert Conversation.objects.get().incarnation == 1


def test_what_a_conversation_began_with_stays(talk: Talk, agent_server: FakeAgentServer) -> None:
    system = {"role": "system", "content": "The house is red."}
    first = talk.say([system, user("one")])
    second = talk.say("two", after=id_of(first), instructions="Be brief.")
    third = talk.say("three", after=id_of(second))

    assert system_text(third, agent_server) == "The house is red."
    assert second.headers[CONVERSATION] == third.headers[CONVERSATION]


# --- histories, and chats ---------------------------------------------------------------------------------------------


def test_a_client_that_sends_its_items_again_goes_on_with_its_agent(talk: Talk, client: OpenAI) -> None:
    items: list[Any] = [user("one")]
    first = client.responses.create(model="openhands_chat", input=items, instructions="Be kind.")
    items += [item.to_dict() for item in first.output] + [user("two")]

    second = talk.say(items, instructions="Be kind.")

    assert second.headers[MATCH] == "history"
    assert talk.heard(second) == ["one", "two"]


def test_an_item_may_be_named_instead_of_sent(talk: Talk) -> None:
    first = talk.say("one")
    [message] = first.json()["output"]
    reference = {"type": "item_reference", "id": message["id"]}

    second = talk.say([user("one"), reference, user("two")])

    assert second.headers[MATCH] == "history"
    assert talk.heard(second) == ["one", "two"]


def test_responses_and_chats_take_turns_in_one_conversation(talk: Talk, http: httpx.Client) -> None:
    first = talk.say("one")
    named = first.headers[CONVERSATION]
    chat = http.post(CHAT, json={"model": "openhands_chat", "messages": [user("two")]}, headers={CONVERSATION: named})
    third = talk.say("three", conversation=named)
    fourth = talk.say("four", after=id_of(third))
    chat_again = http.post(
        CHAT,
        json={
            "model": "openhands_chat",
            "messages": [
                message
                for text in ("one", "two", "three", "four")
                for message in (user(text), {"role": "assistant", "content": f"Heard: {text}"})
            ]
            + [user("five")],
        },
    )

    assert {reply.headers[CONVERSATION] for reply in (chat, third, fourth, chat_again)} == {named}
    assert chat_again.headers[MATCH] == "history"
    assert talk.heard(first) == ["one", "two", "three", "four", "five"]


def test_a_metadata_pair_or_a_header_names_the_conversation_as_in_chats(talk: Talk, http: httpx.Client) -> None:
    first = talk.say("one")
    named = first.headers[CONVERSATION]

    by_header = http.post(RESPONSES, json=ask("two"), headers={CONVERSATION: named})
    by_metadata = talk.say("three", metadata={"conversation_id": named})

    assert by_header.headers[CONVERSATION] == by_metadata.headers[CONVERSATION] == named
    assert talk.heard(by_metadata) == ["one", "two", "three"]


def test_a_foreign_conversation_does_not_exist(client: OpenAI, client_with: Callable[..., OpenAI]) -> None:
    stranger = client_with(api_key=factories.api_key().text)
    foreign = stranger.responses.with_raw_response.create(**ask()).headers[CONVERSATION]

    for conversation in (foreign, "conv_" + "0" * 32, "nonsense"):
        with pytest.raises(NotFoundError) as raised:
            client.responses.create(**ask(conversation=conversation))
        assert raised.value.code == "conversation_not_found"


def test_another_model_goes_on_with_what_was_said(talk: Talk) -> None:
    factories.profile(slug="other")
    access.forget_all()
    first = talk.say("one")

    second = talk.say("two", after=id_of(first), model="openhands_other")

    assert second.headers[MATCH] == "replay"
    assert second.headers[CONVERSATION] != first.headers[CONVERSATION]
    assert ["one" in talk.heard(second)[0], "two" in talk.heard(second)[0]] == [True, True]


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@pytest.mark.parametrize("takes_them", [True, False])
def test_an_image_reaches_a_profile_that_takes_them(
    http: httpx.Client, agent_server: FakeAgentServer, takes_them: bool
) -> None:
    Profile.objects.update(accepts_images=takes_them)
    access.forget_all()
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": PIXEL}]

    reply = http.post(RESPONSES, json=ask() | {"input": [{"role": "user", "content": parts}]})

    got = [part for conversation in agent_server.conversations.values() for part in conversation.posted[0]]
    assert (reply.status_code, PIXEL in json.dumps(got)) == ((200, True) if takes_them else (400, False))
