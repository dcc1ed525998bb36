"""`/v1/conversations`, through the stock client: made, named by responses, listed, deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from openai import BadRequestError, NotFoundError, OpenAI

from chatgateway import stored_items
from chatgateway.models import Conversation
from tests import factories
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.wire.chatting import CHAT, CONVERSATION, assistant, user
from tests.wire.test_responses import RESPONSES, ask


@pytest.fixture(autouse=True)
def _talkative(agent_server: FakeAgentServer) -> None:
    agent_server.on_message = lambda _, text: [Answer(f"Heard: {text[-20:]}")]


@pytest.fixture
def strict(client_with: Callable[..., OpenAI]) -> OpenAI:
    return client_with(_strict_response_validation=True)


def texts(items: Any) -> list[str]:
    return [part.text for item in items if item.type == "message" for part in item.content]


def test_a_conversation_is_made_first_and_named_by_responses(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    made = strict.conversations.create(metadata={"topic": "numbers"})

    first = strict.responses.create(**ask("one", conversation=made.id))
    second = strict.responses.create(**ask("two", conversation={"id": made.id}))

    assert made.metadata == {"topic": "numbers"}
    assert first.conversation.id == second.conversation.id == made.id
    assert [text for role, text in agent_server.only_conversation.prompt if role == "user"] == ["one", "two"]
    listed = list(strict.conversations.items.list(made.id, order="asc"))
    assert texts(listed) == ["one", "Heard: one", "two", "Heard: two"]
    assert strict.conversations.items.retrieve(listed[1].id, conversation_id=made.id) == listed[1]


def test_a_conversation_may_begin_with_items(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    made = strict.conversations.create(
        items=[
            {"type": "message", "role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": "My name is Bob."},
        ]
    )
    added = strict.conversations.items.create(
        made.id, items=[{"type": "message", "role": "user", "content": "I am 7."}]
    )

    strict.responses.create(**ask("Who am I?", conversation=made.id))

    agent = agent_server.only_conversation
    [told] = [text for role, text in agent.prompt if role == "user"]
    assert [told.count(text) for text in ("My name is Bob.", "I am 7.", "Who am I?")] == [1, 1, 1]
    assert agent.agent["agent_context"]["system_message_suffix"] == "Be brief."
    assert texts(added.data) == ["I am 7."]
    assert len(list(strict.conversations.items.list(made.id))) == 5


def test_items_come_in_pages_the_newest_first(strict: OpenAI) -> None:
    made = strict.conversations.create()
    for text in ("one", "two", "three"):
        strict.responses.create(**ask(text, conversation=made.id))

    page = strict.conversations.items.list(made.id, limit=4)

    assert texts(page.data) == ["Heard: three", "three", "Heard: two", "two"]
    assert page.has_more
    assert texts(page.get_next_page().data) == ["Heard: one", "one"]


def test_chats_and_responses_are_items_of_one_conversation(http: httpx.Client, strict: OpenAI) -> None:
    first = http.post(CHAT, json={"model": "openhands_chat", "messages": [user("one")]})
    history = [user("one"), {"role": "assistant", "content": "Heard: one"}, user("two")]
    http.post(CHAT, json={"model": "openhands_chat", "messages": history})
    named = first.headers[CONVERSATION]

    third = strict.responses.create(**ask("three", conversation=named))

    assert third.conversation.id == "conv_" + named.replace("-", "")
    assert texts(strict.conversations.items.list(third.conversation.id, order="asc")) == [
        "one", "Heard: one", "two", "Heard: two", "three", "Heard: three",
    ]  # fmt: skip


def test_a_long_conversation_is_listed_with_as_few_queries_as_a_short_one(http: httpx.Client, strict: OpenAI) -> None:
    history: list[Any] = [user("one")]
    first = http.post(CHAT, json={"model": "openhands_chat", "messages": history})
    conversation = Conversation.objects.get()

    def listed() -> tuple[int, list[str]]:
        with CaptureQueriesContext(connection) as captured:
            items = stored_items.conversation_items(conversation)
        return len(captured), [item["content"][0]["text"] for item in items]

    strict.responses.create(**ask("and", conversation=first.headers[CONVERSATION]))
    few, _ = listed()
    history += [assistant("Heard: one"), user("and"), assistant("Heard: and")]
    for text in ("two", "three", "four"):
        http.post(CHAT, json={"model": "openhands_chat", "messages": [*history, user(text)]})
        history += [user(text), assistant(f"Heard: {text}")]
    strict.responses.create(**ask("five", conversation=first.headers[CONVERSATION]))

    assert listed() == (few, [m["content"] for m in history] + ["five", "Heard: five"])


def test_metadata_can_be_changed(strict: OpenAI) -> None:
    made = strict.conversations.create(metadata={"a": "1"})

    strict.conversations.update(made.id, metadata={"b": "2"})

    assert strict.conversations.retrieve(made.id).metadata == {"b": "2"}


def test_a_deleted_conversation_is_gone_and_stops_its_agent(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    made = strict.conversations.create()
    first = strict.responses.create(**ask("one", conversation=made.id))

    gone = strict.conversations.delete(made.id)

    assert (gone.deleted, gone.object) == (True, "conversation.deleted")
    with pytest.raises(NotFoundError):
        strict.conversations.retrieve(made.id)
    with pytest.raises(NotFoundError):
        strict.responses.create(**ask("two", conversation=made.id))
    with pytest.raises(BadRequestError) as raised:
        strict.responses.create(**ask("two", previous_response_id=first.id))
    assert raised.value.code == "previous_response_not_found"


def test_a_conversation_is_its_tenants_alone(client: OpenAI, client_with: Callable[..., OpenAI]) -> None:
    made = client.conversations.create()
    stranger = client_with(api_key=factories.api_key().text)

    for look in (stranger.conversations.retrieve, stranger.conversations.delete, stranger.conversations.items.list):
        with pytest.raises(NotFoundError) as raised:
            look(made.id)
        assert raised.value.code == "conversation_not_found"


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "", {"metadata": {"a": 1}}, "metadata"),
        ("POST", "", {"items": "text"}, "items"),
        ("POST", "/{id}/items", {"items": []}, "items"),
        ("POST", "", {"items": {}}, "items"),
        ("POST", "", {"items": [{"type": "compaction"}]}, "items.0.type"),
        ("POST", "", {"items": [{"role": "king", "content": ""}]}, "items.0.role"),
        ("POST", "", [], None),
        ("GET", "/{id}/items?limit=0", None, "limit"),
        ("GET", "/{id}/items?limit=101", None, "limit"),
        ("GET", "/{id}/items?order=up", None, "order"),
        ("GET", "/{id}/items?after=msg_1", None, "after"),
        ("GET", "/{id}/items?before=msg_1", None, "before"),
        ("GET", "/{id}/items?include=everything", None, "include.0"),
    ],
)
def test_what_is_wrong_is_named(http: httpx.Client, method: str, path: str, body: Any, param: str | None) -> None:
    made = http.post("/v1/conversations", json={}).json()["id"]

    reply = http.request(method, f"/v1/conversations{path.format(id=made)}", json=body)

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_nothing_can_be_slipped_into_a_conversation_that_has_begun(http: httpx.Client) -> None:
    made = http.post("/v1/conversations", json={}).json()["id"]
    http.post(RESPONSES, json=ask("one", conversation=made))

    reply = http.post(f"/v1/conversations/{made}/items", json={"items": [user("psst")]})

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "items")


def test_the_last_item_can_be_taken_back_until_there_is_a_turn(strict: OpenAI) -> None:
    items: Any = [user("one"), user("two")]
    made = strict.conversations.create(items=items)
    first, last = strict.conversations.items.list(made.id, order="asc").data

    assert strict.conversations.items.delete(last.id, conversation_id=made.id).id == made.id
    with pytest.raises(NotFoundError) as gone:
        strict.conversations.items.delete(last.id, conversation_id=made.id)
    assert gone.value.code == "item_not_found"
    assert strict.conversations.items.list(made.id).data == [first]

    strict.responses.create(**ask("three", conversation=made.id))
    for item in strict.conversations.items.list(made.id).data:
        with pytest.raises(BadRequestError) as raised:
            strict.conversations.items.delete(item.id, conversation_id=made.id)
        assert raised.value.code == "unsupported_endpoint"


def test_only_the_last_item_can_be_taken_back(strict: OpenAI) -> None:
    items: Any = [user("one"), user("two")]
    made = strict.conversations.create(items=items)
    first = strict.conversations.items.list(made.id, order="asc").data[0]

    with pytest.raises(BadRequestError) as raised:
        strict.conversations.items.delete(first.id, conversation_id=made.id)

    assert raised.value.code == "unsupported_endpoint"
