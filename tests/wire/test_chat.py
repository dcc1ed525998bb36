"""`POST /v1/chat/completions`, collected, and what the agent-server gets to see of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import httpx
import pytest
from openai import APIStatusError, OpenAI
from openai.types.chat import ChatCompletion

from chatgateway.models import Turn
from chatgateway.openai_api.chat_request import PARAMETERS
from profiles import access
from profiles.models import Profile
from tests import factories
from tests.chatgateway.openai_api.test_parameters import ACCEPTED
from tests.fakes.agent_script import Answer, Confirm, Fail, Finish, Step, Usage
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.conftest import question

CHAT = "/v1/chat/completions"
CONVERSATION = "X-OpenHands-ServerConversation-ID"
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def set_profile(**fields: object) -> None:
    Profile.objects.update(**fields)
    access.forget_all()


def texts(parts: list[dict[str, object]]) -> str:
    return "".join(str(part.get("text", "")) for part in parts)


def test_a_reply_is_a_chat_completion_to_the_strictest_reader(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=question()).json()

    ChatCompletion.model_validate(reply, strict=True)
    assert reply["model"] == "openhands_chat"
    assert reply["choices"][0]["message"]["content"] == "Hello from the agent."
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_usage_is_the_turns_own_and_whole_numbers(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("One.", usage=Usage(input=100, output=20, cached=40, reasoning=5)))
    agent_server.script(Answer("Two.", usage=Usage(input=150, output=10, cached=100)))

    first = client.chat.completions.with_raw_response.create(**question())  # type: ignore[call-overload]
    second = client.chat.completions.create(
        **question(),
        extra_headers={CONVERSATION: first.headers[CONVERSATION]},  # type: ignore[call-overload]
    )

    assert second.usage.prompt_tokens == 150
    assert second.usage.completion_tokens == 10
    assert second.usage.total_tokens == 160
    assert second.usage.prompt_tokens_details.cached_tokens == 100


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": 5}, 400, "model", "invalid_type"),
        ({"model": "openhands_nope"}, 404, "model", "model_not_found"),
        ({"messages": None}, 400, "messages", "missing_required_parameter"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role", "invalid_value"),
        ({"n": 2}, 400, "n", "unsupported_value"),
        ({"logprobs": True}, 400, "logprobs", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, 400, "functions", "unsupported_parameter"),
        ({"temperature": 3}, 400, "temperature", "invalid_value"),
        ({"metadata": {str(n): "x" for n in range(17)}}, 400, "metadata", "invalid_value"),
        ({"metadata": {"a": "x" * 513}}, 400, "metadata", "invalid_value"),
        ({"metadata": {"a": 1}}, 400, "metadata", "invalid_type"),
        (
            {"response_format": {"type": "json_schema"}},
            400,
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
                    }
                ]
            },
            400,
            "messages.0.content.1",
            "unsupported_content",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}],
                    }
                ]
            },
            400,
            "messages.0.content.0",
            "unsupported_content",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain,a"}}],
                    }
                ]
            },
            400,
            "messages.0.content.0",
            "unsupported_content",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_leaves_a_refused_turn(
    http: httpx.Client, agent_server: FakeAgentServer, body: dict[str, object], status: int, param: str, code: str
) -> None:
    response = http.post(CHAT, json=question(**body))

    error = response.json()["error"]
    turn = Turn.objects.get()
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert (turn.outcome, turn.http_status, turn.error_param, turn.error_code) == ("refused", status, param, code)
    assert agent_server.calls("SEND", "/events") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"n": None, "logprobs": False, "tools": [], "tool_choice": "none", "stop": None},
        {"chat_id": "x", "foo": {"bar": 1}},
        {"seed": 1, "logit_bias": {}, "service_tier": "auto", "verbosity": "low", "frequency_penalty": 0.5},
        {"temperature": 0.1, "top_p": 1, "max_tokens": 10, "reasoning_effort": "low"},
        {"user": "somebody", "metadata": {"a": "b"}, "store": True, "parallel_tool_calls": True},
    ],
)
def test_what_clients_send_besides_is_accepted(http: httpx.Client, fields: dict[str, object]) -> None:
    assert http.post(CHAT, json=question(**fields)).status_code == 200


@pytest.mark.parametrize("name", [row.name for row in PARAMETERS if row.treatment == "ignore"])
def test_each_parameter_without_effect_is_accepted_alone_and_named(http: httpx.Client, name: str) -> None:
    response = http.post(CHAT, json=question(**{name: ACCEPTED[name][-1]}))

    assert response.status_code == 200
    assert response.headers["X-Gateway-Ignored"] == name
    assert Turn.objects.get().ignored_parameters == [name]


def test_what_has_no_effect_is_named_in_a_header(http: httpx.Client) -> None:
    response = http.post(CHAT, json=question(seed=1, temperature=0.5))

    assert response.headers["X-Gateway-Ignored"].split(", ") == ["temperature", "seed"]


def test_overrides_reach_the_llm_where_the_profile_permits(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    set_profile(allows_overrides=True)

    http.post(CHAT, json=question(temperature=0.5, top_p=0.9, max_tokens=50, reasoning_effort="low"))

    llm = agent_server.only_conversation.llm
    asked = {name: llm[name] for name in ("temperature", "top_p", "max_output_tokens", "reasoning_effort")}
    assert asked == {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 50, "reasoning_effort": "low"}


def test_tools_of_the_client_are_refused_or_ignored_as_the_profile_says(http: httpx.Client) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

    refused = http.post(CHAT, json=question(tools=tools))
    set_profile(client_tools=Profile.ClientTools.IGNORE)
    ignored = http.post(CHAT, json=question(tools=tools))

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert ignored.status_code == 200


def test_system_and_developer_texts_reach_the_agent_once_after_its_own_prompt(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    set_profile(system_suffix="The profile's own.")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    ]

    http.post(CHAT, json=question(messages=messages))

    conversation = agent_server.only_conversation
    assert conversation.agent["agent_context"]["system_message_suffix"] == (
        "The profile's own.\n\nBe brief.\n\nBe kind."
    )
    assert conversation.agent.get("system_prompt") is None
    assert texts(conversation.posted[0]) == "Hi"


def test_a_history_with_tool_calls_is_told_to_the_agent(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Nothing there."},
        {"role": "assistant", "content": "There is nothing."},
        {"role": "user", "content": "Sure?"},
    ]

    response = http.post(CHAT, json=question(messages=messages))

    told = texts(agent_server.only_conversation.posted[0])
    assert response.headers["X-Gateway-Conversation-Match"] == "replay"
    assert [told.count(text) for text in ("Look.", "Nothing there.", "There is nothing.", "Sure?")] == [1, 1, 1, 1]


def test_text_parts_are_joined_and_images_reach_a_profile_that_sees(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    set_profile(accepts_images=True)
    content = [
        {"type": "text", "text": "What"},
        {"type": "text", "text": "is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]

    response = http.post(CHAT, json=question(messages=[{"role": "user", "content": content}]))

    posted = agent_server.only_conversation.posted[0]
    assert response.status_code == 200
    assert [part["type"] for part in posted] == ["text", "image"]
    assert posted[0]["text"].split() == ["What", "is", "this?"]
    assert posted[1]["image_urls"] == [PIXEL]


def test_a_run_without_a_word_still_has_content(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Finish(message=""))

    assert http.post(CHAT, json=question()).json()["choices"][0]["message"]["content"]


def test_the_finish_tool_is_an_answer_too(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Finish(message="All done."))

    assert http.post(CHAT, json=question()).json()["choices"][0]["message"]["content"] == "All done."


def test_steps_are_shown_beside_the_answer_and_never_as_tool_calls(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    set_profile(tools=["terminal"])
    agent_server.script(Step(command="pytest -q", thought="Let me test."), Answer("Green."))

    message = http.post(CHAT, json=question()).json()["choices"][0]["message"]

    assert message["content"] == "Green."
    assert message["reasoning_content"] == "Let me test.\nRunning: pytest -q\n"
    assert "tool_calls" not in message


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Fail.wrong_key(), 502, "upstream_error"),
        (Fail.rate_limit(), 429, "rate_limit_exceeded"),
        (Fail.unavailable(), 502, "upstream_error"),
        (Fail.timeout(), 504, "agent_timeout"),
        (Fail.unknown_model(), 502, "upstream_error"),
        (Fail.context_window(), 400, "context_length_exceeded"),
    ],
)
def test_a_failed_run_is_told_without_the_providers_words_and_never_retried(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer, failure: Fail, status: int, code: str
) -> None:
    agent_server.script(failure)

    with pytest.raises(APIStatusError) as raised:
        client_with(max_retries=2).chat.completions.create(**question())  # type: ignore[call-overload]

    turn = Turn.objects.get()
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert "provider.example" not in str(raised.value)
    assert "provider.example" in turn.error_detail
    assert len(agent_server.calls("SEND", "/events")) == 1


def test_an_agent_failure_is_sent_once_by_the_sdk(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail(code="SomethingNew", kind="internal", is_retryable=False))

    with pytest.raises(APIStatusError) as raised:
        client_with(max_retries=2).chat.completions.create(**question())  # type: ignore[call-overload]

    assert (raised.value.status_code, raised.value.code) == (502, "agent_error")
    assert Turn.objects.count() == 1


def test_an_agent_server_that_is_gone_is_503_and_the_sdk_may_come_back(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    agent_server.stop()

    with pytest.raises(APIStatusError) as raised:
        client_with(max_retries=2).chat.completions.create(**question())  # type: ignore[call-overload]

    assert (raised.value.status_code, raised.value.code) == (503, "service_unavailable")
    assert 0 < int(raised.value.response.headers["retry-after"]) <= 60
    assert [turn.outcome for turn in Turn.objects.all()] == ["refused"] * 3


def test_a_gateway_without_agent_servers_says_what_to_do(http: httpx.Client) -> None:
    from chatgateway.models import AgentServer

    AgentServer.objects.all().delete()

    response = http.post(CHAT, json=question())

    assert response.status_code == 503
    assert "administrator" in response.json()["error"]["message"]


def test_the_conversation_header_continues_the_agent_with_the_new_turn_alone(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    first = http.post(CHAT, json=question())
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello from the agent."},
        {"role": "user", "content": "And now?"},
    ]

    second = http.post(CHAT, json=question(messages=history), headers={CONVERSATION: first.headers[CONVERSATION]})

    conversation = agent_server.only_conversation
    assert second.headers[CONVERSATION] == first.headers[CONVERSATION] == str(conversation.id)
    assert second.headers["X-Gateway-Conversation-Match"] == "header"
    assert [texts(parts) for parts in conversation.posted] == ["Hi", "And now?"]


def test_the_conversation_can_be_named_in_the_metadata(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    first = http.post(CHAT, json=question())

    second = http.post(CHAT, json=question(metadata={"conversation_id": first.headers[CONVERSATION]}))

    assert second.headers[CONVERSATION] == first.headers[CONVERSATION]
    assert len(agent_server.only_conversation.posted) == 2


def test_a_changed_system_text_starts_a_new_agent_that_knows_the_history(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    first = http.post(CHAT, json=question())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And now?"}]

    second = http.post(CHAT, json=question(messages=messages), headers={CONVERSATION: first.headers[CONVERSATION]})

    assert second.headers[CONVERSATION] != first.headers[CONVERSATION]
    assert second.headers["X-Gateway-Conversation-Match"] == "replay"
    told = texts(agent_server.conversations[uuid.UUID(second.headers[CONVERSATION])].posted[0])
    assert [told.count(text) for text in ("Hi", "Hello from the agent.", "And now?")] == [1, 1, 1]


def test_a_conversation_that_the_agent_server_lost_is_told_again_under_its_id(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    first = http.post(CHAT, json=question())
    agent_server.forget_conversations()

    second = http.post(
        CHAT,
        json=question(messages=[{"role": "user", "content": "And now?"}]),
        headers={CONVERSATION: first.headers[CONVERSATION]},
    )

    told = texts(agent_server.only_conversation.posted[0])
    assert second.status_code == 200
    assert second.headers[CONVERSATION] == first.headers[CONVERSATION]
    assert [told.count(text) for text in ("Hi", "Hello from the agent.", "And now?")] == [1, 1, 1]


@pytest.mark.parametrize("named", ["foreign", "unknown", "no id"])
def test_unknown_and_foreign_conversations_are_the_same_404(
    served: LiveGateway, http: httpx.Client, named: str
) -> None:
    foreign_key = factories.api_key()
    foreign = httpx.post(
        served.url + CHAT, json=question(), headers={"Authorization": f"Bearer {foreign_key.text}"}, timeout=20
    )
    ids = {"foreign": foreign.headers[CONVERSATION], "unknown": str(uuid.uuid4()), "no id": "../../etc"}

    response = http.post(CHAT, json=question(), headers={CONVERSATION: ids[named]})

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "conversation_not_found"
    assert ids[named] not in response.text


def test_errors_of_a_turn_carry_its_conversation(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Fail.wrong_key())

    response = http.post(CHAT, json=question())

    assert response.headers[CONVERSATION] == str(agent_server.only_conversation.id)


def test_the_whole_agent_travels_with_the_conversation(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    set_profile(tools=["terminal"], system_prompt="You are a test.", max_iterations=7)

    http.post(CHAT, json=question())

    conversation = agent_server.only_conversation
    assert conversation.agent["tools"] == [{"name": "terminal"}]
    assert conversation.agent["system_prompt"] == "You are a test."
    assert conversation.agent["include_default_tools"] == []
    assert conversation.requested["max_iterations"] == 7
    assert conversation.working_dir.startswith("/srv/workspaces/")
    assert str(conversation.id) in conversation.working_dir


def test_an_agent_that_asks_for_a_confirmation_is_told_no(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Confirm())

    response = http.post(CHAT, json=question())

    assert response.status_code == 502
    assert agent_server.calls("POST", "/respond_to_confirmation")[0].body["accept"] is False
