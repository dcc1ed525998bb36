"""Turns of a real agent on a real agent-server, through the stock OpenAI client."""

from __future__ import annotations

import time

import httpx
import pytest
from openai import APIStatusError, APITimeoutError, OpenAI

from chatgateway.models import Turn
from profiles import access
from profiles.models import OnDisconnect, Profile
from tests.live.agent_process import AgentServerProcess
from tests.live.conftest import Ask
from tests.live.scripted_llm import Answer, ScriptedLlm, Usage, terminal
from tests.waiting import eventually

pytestmark = pytest.mark.live


def test_an_answer_comes_through(ask: Ask) -> None:
    assert ask("openhands_chat", "hello #script:plain") == "This is a plain answer."


def test_tokens_arrive_as_the_model_writes_them(sdk: OpenAI, llm: ScriptedLlm) -> None:
    llm.script("held", Answer(chunks=("One. ", "Two."), hold_after=1))
    stream = sdk.chat.completions.create(
        model="openhands_chat", messages=[{"role": "user", "content": "#script:held"}], stream=True
    )
    pieces = (chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content)

    first = next(pieces)  # the model has not finished: it waits for the release below
    llm.wait_for(lambda one: one.script == "held" and one.pieces_sent == 1).release()

    assert first == "One. "
    assert "".join(pieces) == "Two."


def test_a_tool_runs_in_the_conversations_own_directory_and_is_shown_beside_the_answer(sdk: OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model="openhands_agent", messages=[{"role": "user", "content": "where are you? #script:thought"}]
    )

    message = reply.choices[0].message
    turn = Turn.objects.get()
    assert message.content == "I looked."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "Let me look.\nRunning: pwd\n"
    assert message.tool_calls is None
    output = eventually(lambda: turn.events.filter(kind="ObservationEvent").first()).raw["observation"]["content"][0][
        "text"
    ]
    assert str(turn.conversation_id) in output


def test_the_same_conversation_goes_on_by_its_header_and_gets_only_the_new_message(
    sdk: OpenAI, llm: ScriptedLlm
) -> None:
    first = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat", messages=[{"role": "user", "content": "first #script:plain"}]
    )
    conversation = first.headers["X-OpenHands-ServerConversation-ID"]

    second = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat",
        messages=[{"role": "user", "content": "second #script:plain"}],
        extra_headers={"X-OpenHands-ServerConversation-ID": conversation},
    )

    heard = [message["role"] for message in llm.requests[-1].messages]
    assert second.headers["X-OpenHands-ServerConversation-ID"] == conversation
    assert heard == ["system", "user", "assistant", "user"]


def test_a_new_conversation_is_told_the_history_the_client_sent(sdk: OpenAI, llm: ScriptedLlm) -> None:
    sdk.chat.completions.create(
        model="openhands_chat",
        messages=[
            {"role": "system", "content": "Speak like a pirate."},
            {"role": "user", "content": "My name is Bob. #script:plain"},
            {"role": "assistant", "content": "Aye, Bob."},
            {"role": "user", "content": "What is my name? #script:plain"},
        ],
    )

    heard = llm.requests[-1]
    assert heard.system_text.count("Speak like a pirate.") == 1
    told = heard.last_user_text
    assert [told.count(text) for text in ("My name is Bob.", "Aye, Bob.", "What is my name?")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("401", 502, "upstream_error"),
        ("404", 502, "upstream_error"),
        ("429", 429, "rate_limit_exceeded"),
        ("500", 502, "upstream_error"),
        ("400-context", 400, "context_length_exceeded"),
    ],
)
def test_a_provider_that_fails_becomes_a_clear_error_without_its_own_words(
    sdk: OpenAI, script: str, status: int, code: str
) -> None:
    with pytest.raises(APIStatusError) as raised:
        sdk.chat.completions.create(model="openhands_chat", messages=[{"role": "user", "content": f"#script:{script}"}])

    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert "litellm" not in str(raised.value)
    assert Turn.objects.get().outcome == Turn.Outcome.FAILED


def test_a_failed_turn_does_not_reach_the_model_again(sdk: OpenAI, llm: ScriptedLlm) -> None:
    first = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat", messages=[{"role": "user", "content": "good one #script:plain"}]
    )
    header = {"X-OpenHands-ServerConversation-ID": first.headers["X-OpenHands-ServerConversation-ID"]}
    with pytest.raises(APIStatusError):
        sdk.chat.completions.create(
            model="openhands_chat", messages=[{"role": "user", "content": "bad one #script:401"}], extra_headers=header
        )

    sdk.chat.completions.create(
        model="openhands_chat", messages=[{"role": "user", "content": "last one #script:plain"}], extra_headers=header
    )

    heard = str(llm.requests[-1].messages)
    assert "good one" in heard
    assert "bad one" not in heard


def test_a_conversation_whose_first_turn_failed_goes_on(sdk: OpenAI, llm: ScriptedLlm) -> None:
    with pytest.raises(APIStatusError) as raised:
        sdk.chat.completions.create(
            model="openhands_chat", messages=[{"role": "user", "content": "bad one #script:401"}]
        )
    header = {"X-OpenHands-ServerConversation-ID": raised.value.response.headers["X-OpenHands-ServerConversation-ID"]}

    sdk.chat.completions.create(
        model="openhands_chat", messages=[{"role": "user", "content": "good one #script:plain"}], extra_headers=header
    )

    assert "bad one" not in str(llm.requests[-1].messages)


def test_a_provider_that_recovers_is_asked_again(ask: Ask, sdk: OpenAI) -> None:
    Profile.objects.update(llm_retries=2)
    access.forget_all()

    assert ask("openhands_chat", "#script:500-then-plain") == "This is a plain answer."


def test_usage_and_cost_are_the_turns_own(sdk: OpenAI, llm: ScriptedLlm) -> None:
    usage = Usage(prompt=1_000, completion=100, cached=400, reasoning=30)
    llm.script("counted", Answer(text="Counted.", usage=usage))
    first = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat", messages=[{"role": "user", "content": "#script:counted"}]
    )

    second = sdk.chat.completions.create(
        model="openhands_chat",
        messages=[{"role": "user", "content": "#script:counted"}],
        extra_headers={
            "X-OpenHands-ServerConversation-ID": first.headers["X-OpenHands-ServerConversation-ID"],
        },
    )

    assert second.usage is not None
    assert second.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": 1_000,
        "completion_tokens": 100,
        "total_tokens": 1_100,
    }
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == 400
    assert second.usage.completion_tokens_details is not None
    assert second.usage.completion_tokens_details.reasoning_tokens == 30
    assert [str(turn.cost_usd) for turn in Turn.objects.order_by("arrival")] == ["0.00120000", "0.00120000"]


def test_all_turns_together_used_what_the_provider_served(sdk: OpenAI, llm: ScriptedLlm) -> None:
    before = len(llm.served_usage)
    usage = Usage(prompt=1_003, completion=101, cached=407, reasoning=31)
    llm.script(
        "steps",
        Answer(text="First.", tool_calls=(terminal("echo 1"),), usage=usage),
        Answer(tool_calls=(terminal("echo 2"),), usage=usage),
        Answer(text="Done.", usage=usage),
    )

    def ask(model: str, script: str, header: dict[str, str] | None = None, **more: object) -> dict[str, str]:
        reply = sdk.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": f"#script:{script}"}], extra_headers=header, **more
        )  # type: ignore[call-overload]
        if more:
            list(reply.parse())
        return {"X-OpenHands-ServerConversation-ID": reply.headers["X-OpenHands-ServerConversation-ID"]}

    conversation = ask("openhands_agent", "steps")
    ask("openhands_agent", "steps", conversation, stream=True)
    ask("openhands_agent", "plain", conversation)
    ask("openhands_chat", "plain", ask("openhands_chat", "plain"))

    served = llm.served_usage[before:]
    turns = list(Turn.objects.all())
    assert len(served) == 9
    assert not any(turn.is_usage_estimated for turn in turns)
    assert sum(turn.input_tokens for turn in turns) == sum(one.prompt for one in served)
    assert sum(turn.output_tokens for turn in turns) == sum(one.completion for one in served)
    assert sum(turn.cached_tokens for turn in turns) == sum(one.cached for one in served)
    assert sum(turn.reasoning_tokens for turn in turns) == sum(one.reasoning for one in served)


def test_a_stream_that_is_closed_stops_the_agent_and_keeps_what_it_wrote(sdk: OpenAI, llm: ScriptedLlm) -> None:
    stream = sdk.chat.completions.create(
        model="openhands_chat", messages=[{"role": "user", "content": "#script:slow"}], stream=True
    )
    next(chunk for chunk in stream if chunk.choices[0].delta.content)

    started = time.monotonic()
    stream.close()
    llm.wait_for(lambda one: one.script == "slow" and one.outcome == "left", timeout_seconds=5)
    stopped_after = time.monotonic() - started

    turn = eventually(lambda: Turn.objects.exclude(outcome="open").first())
    assert stopped_after < 2
    assert turn.outcome == Turn.Outcome.CANCELLED
    assert turn.answer.startswith("word1")
    assert turn.is_usage_estimated
    assert turn.run_ended_at is not None


def test_a_detached_turn_is_finished_without_its_caller(real: object, sdk: OpenAI) -> None:
    Profile.objects.update(on_disconnect=OnDisconnect.DETACH)
    access.forget_all()

    with pytest.raises(APITimeoutError):
        sdk.with_options(timeout=1).chat.completions.create(
            model="openhands_chat", messages=[{"role": "user", "content": "#script:slow"}]
        )

    turn = eventually(lambda: Turn.objects.exclude(outcome="open").first())
    assert turn.outcome == Turn.Outcome.ANSWERED
    assert turn.answer.endswith("word30")


def test_a_turn_beyond_its_time_limit_is_stopped(sdk: OpenAI) -> None:
    Profile.objects.update(time_limit_seconds=1)
    access.forget_all()

    with pytest.raises(APIStatusError) as raised:
        sdk.chat.completions.create(model="openhands_chat", messages=[{"role": "user", "content": "#script:hang"}])

    assert (raised.value.status_code, raised.value.code) == (504, "agent_timeout")
    assert Turn.objects.get().outcome == Turn.Outcome.TIMED_OUT


def test_a_request_for_another_llm_setting_reaches_the_live_conversation(sdk: OpenAI, llm: ScriptedLlm) -> None:
    first = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat", messages=[{"role": "user", "content": "#script:plain"}]
    )
    Profile.objects.filter(slug="chat").update(llm_model="openai/other-model", temperature=0.5)
    access.forget_all()

    sdk.chat.completions.create(
        model="openhands_chat",
        messages=[{"role": "user", "content": "#script:plain"}],
        extra_headers={"X-OpenHands-ServerConversation-ID": first.headers["X-OpenHands-ServerConversation-ID"]},
    )

    heard = llm.requests[-1].body
    assert (heard["model"], heard["temperature"]) == ("other-model", 0.5)
    assert len(heard["messages"]) == 4


def test_a_conversation_that_was_deleted_behind_the_gateways_back_is_told_again(
    sdk: OpenAI, real_agent_server: AgentServerProcess, llm: ScriptedLlm
) -> None:
    """The agent-server does not end the event feed of a conversation that it deletes, and the gateway has kept it."""
    first = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat", messages=[{"role": "user", "content": "My name is Bob. #script:plain"}]
    )
    conversation = first.headers["X-OpenHands-ServerConversation-ID"]
    gone = httpx.delete(
        f"{real_agent_server.url}/api/conversations/{conversation}",
        headers={"X-Session-API-Key": real_agent_server.session_api_key},
        timeout=100,
    )

    again = sdk.chat.completions.with_raw_response.create(
        model="openhands_chat",
        messages=[{"role": "user", "content": "Who am I? #script:plain"}],
        extra_headers={"X-OpenHands-ServerConversation-ID": conversation},
    )

    assert gone.status_code == 200
    assert again.headers["X-OpenHands-ServerConversation-ID"] == conversation
    assert "My name is Bob." in llm.requests[-1].last_user_text
