"""Titles, tags and the like that chat UIs ask for by themselves are answered without an agent, and are in the record."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone
from openai import OpenAI
from pytest_django import Settings

from chatgateway import audit
from chatgateway.models import Conversation, LedgerEntry, Turn
from profiles.models import Profile
from tests.chatgateway.openai_api import test_housekeeping as prompts
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.fakes.llm_socket import FakeLlmSocket
from tests.waiting import eventually
from tests.wire.chatting import CONVERSATION, MATCH, ChatClient, user
from tests.wire.conftest import question
from tests.wire.test_ceilings import limit
from tests.wire.test_chat import CHAT, set_profile

HOUSEKEEPING = "X-Gateway-Housekeeping"


@pytest.fixture
def llm(tmp_path: Path, settings: Settings) -> Iterator[FakeLlmSocket]:
    """Answers in place of the llm process."""
    with FakeLlmSocket(tmp_path) as fake:
        settings.GATEWAY_LLM_SOCKET = str(fake.path)
        yield fake


@pytest.fixture
def no_llm(tmp_path: Path, settings: Settings) -> None:
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "nobody" / "llm.sock")


def title(**more: Any) -> dict[str, Any]:
    return question(messages=[user(prompts.OPEN_WEBUI_TITLE)], **more)


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_a_title_is_answered_by_the_llm_alone(
    client: OpenAI, llm: FakeLlmSocket, agent_server: FakeAgentServer
) -> None:
    llm.answer('{"title": "Bread"}', input_tokens=400, output_tokens=9, cached_tokens=100)

    raw = client.chat.completions.with_raw_response.create(**title(max_completion_tokens=1000))

    completion = raw.parse()
    assert completion.choices[0].message.content == '{"title": "Bread"}'
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (400, 9)
    assert raw.headers[HOUSEKEEPING] == "title"
    assert CONVERSATION not in raw.headers
    assert MATCH not in raw.headers
    [call] = llm.calls
    assert call["messages"] == [user(prompts.OPEN_WEBUI_TITLE)]
    assert (call["model"], call["api_key"], call["max_output_tokens"]) == (
        "openai/scripted",
        "sk-provider-secret",
        1000,
    )
    assert agent_server.requests == []
    assert not Conversation.objects.exists()


def test_it_is_a_turn_of_the_record_with_its_cost(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.answer('{"title": "Bread"}', input_tokens=400, output_tokens=10)

    response = http.post(CHAT, json=title())

    turn = Turn.objects.get()
    assert (turn.kind, turn.housekeeping_task, turn.answered_by) == ("housekeeping", "title", "llm")
    assert (turn.outcome, turn.phase, turn.http_status, turn.finish_reason) == ("answered", "closed", 200, "stop")
    assert turn.answer == content(response)
    assert turn.reply_id == response.json()["id"]
    assert (turn.conversation, turn.agent_server, turn.run_ended_at is not None) == (None, None, True)
    assert (turn.input_tokens, turn.output_tokens) == (400, 10)
    assert turn.cost_usd == Decimal("0.00042")
    assert turn.profile_snapshot["slug"] == "chat"
    assert audit.rebuild_request(turn)["messages"] == [user(prompts.OPEN_WEBUI_TITLE)]
    assert http.get(f"{CHAT}/{turn.reply_id}").json() == response.json()


def test_a_cheaper_model_answers_at_its_own_price(http: httpx.Client, llm: FakeLlmSocket) -> None:
    prices = {"input_price": "0.1", "output_price": "0.4"}
    set_profile(utility_llm_model="openai/small", utility_catalogue=prices)
    llm.answer("Bread", input_tokens=1000, output_tokens=100)

    http.post(CHAT, json=title())

    turn = Turn.objects.get()
    assert llm.calls[0]["model"] == "openai/small"
    assert (turn.answered_by, turn.cost_usd) == ("utility_llm", Decimal("0.00014"))
    assert turn.profile_snapshot["utility_llm_model"] == "openai/small"


def test_streamed_if_the_client_asks_for_it(client: OpenAI, llm: FakeLlmSocket) -> None:
    llm.answer('{"title": "Bread"}')

    chunks = list(client.chat.completions.create(**title(stream=True, stream_options={"include_usage": True})))

    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == '{"title": "Bread"}'
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 100
    assert Turn.objects.get().kind == "housekeeping"


# --- without the LLM --------------------------------------------------------------------------------------------------


def test_without_an_llm_process_a_template_answers(http: httpx.Client, no_llm: None) -> None:
    response = http.post(CHAT, json=title())

    assert json.loads(content(response)) == {"title": "How do I bake bread"}
    turn = Turn.objects.get()
    assert (turn.outcome, turn.answered_by, turn.input_tokens) == ("answered", "template", 0)
    assert "llm process" in turn.error_detail
    assert response.json()["usage"]["total_tokens"] == 0


def test_a_provider_that_fails_is_in_the_record_and_not_in_the_reply(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.fail("call_failed", "quota of account 1234 is used up", name="RateLimitError")

    response = http.post(CHAT, json=title())

    assert json.loads(content(response)) == {"title": "How do I bake bread"}
    assert "1234" not in response.text
    assert Turn.objects.get().error_detail == "RateLimitError: quota of account 1234 is used up"


def test_an_empty_answer_is_replaced_and_paid_for(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.answer("", finish_reason="length", input_tokens=100, output_tokens=1000, reasoning_tokens=1000)

    response = http.post(CHAT, json=title())

    assert json.loads(content(response)) == {"title": "How do I bake bread"}
    turn = Turn.objects.get()
    assert (turn.answered_by, turn.output_tokens, turn.reasoning_tokens) == ("template", 1000, 1000)
    assert (turn.cost_usd, turn.is_usage_estimated) == (Decimal("0.0021"), False)


def test_an_llm_that_is_late_is_not_waited_for(http: httpx.Client, llm: FakeLlmSocket, settings: Settings) -> None:
    settings.GATEWAY_HOUSEKEEPING_SECONDS = 0.3
    llm.hang()

    response = http.post(CHAT, json=title())

    assert json.loads(content(response)) == {"title": "How do I bake bread"}
    turn = Turn.objects.get()
    assert turn.error_detail == "no answer within 0.3 s"
    assert turn.is_usage_estimated
    assert turn.input_tokens == len(prompts.OPEN_WEBUI_TITLE) // 4


def test_the_demo_has_no_llm_worth_asking(http: httpx.Client, llm: FakeLlmSocket) -> None:
    set_profile(source=Profile.Source.DEMO)

    response = http.post(CHAT, json=title())

    assert json.loads(content(response)) == {"title": "How do I bake bread"}
    assert llm.calls == []


# --- what goes to the agent all the same ------------------------------------------------------------------------------


def test_a_profile_may_have_its_agent_answer_them(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    set_profile(answers_housekeeping=False)
    agent_server.script(Answer("An agent's title."))

    response = http.post(CHAT, json=title())

    assert content(response) == "An agent's title."
    assert HOUSEKEEPING not in response.headers
    assert (response.headers[MATCH], Turn.objects.get().kind) == ("new", "agent")


def test_who_names_a_conversation_means_its_agent(
    http: httpx.Client, agent_server: FakeAgentServer, llm: FakeLlmSocket
) -> None:
    first = http.post(CHAT, json=question())

    second = http.post(CHAT, json=title(), headers={CONVERSATION: first.headers[CONVERSATION]})

    assert second.headers[MATCH] == "header"
    assert HOUSEKEEPING not in second.headers
    assert agent_server.only_conversation.prompt[2] == ("user", prompts.OPEN_WEBUI_TITLE)


def test_a_users_own_task_reaches_the_agent(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    http.post(CHAT, json=question(messages=[user("### Task:\nRename my files.")]))

    assert agent_server.only_conversation.prompt[0] == ("user", "### Task:\nRename my files.")


# --- beside agents ----------------------------------------------------------------------------------------------------


def test_the_calls_between_turns_do_not_disturb_the_conversation(
    http: httpx.Client, agent_server: FakeAgentServer, llm: FakeLlmSocket
) -> None:
    chat = ChatClient(http=http, headers={"X-OpenWebUI-Chat-Id": "chat-1"})
    replies = []
    for text in ("a", "b", "c"):
        replies.append(chat.say(text))
        llm.answer("Letters")
        named = http.post(CHAT, json=title(), headers=chat.headers)
        assert named.headers[HOUSEKEEPING] == "title"

    assert [reply.match for reply in replies] == ["new", "client-id", "client-id"]
    assert [text for role, text in agent_server.only_conversation.prompt if role == "user"] == ["a", "b", "c"]


def test_a_title_waits_for_no_agent_and_no_agent_waits_for_a_title(
    http: httpx.Client, agent_server: FakeAgentServer, llm: FakeLlmSocket
) -> None:
    llm.hang()
    titles: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: titles.append(http.post(CHAT, json=title())))
    waiting.start()
    eventually(lambda: len(llm.calls) == 1)

    answered = http.post(CHAT, json=question())
    [open_turn] = Turn.objects.filter(outcome="open")
    llm.go_on.set()
    waiting.join(60)

    assert answered.status_code == 200
    assert open_turn.kind == "housekeeping"
    assert content(titles[0]) == "too late"


def test_its_cost_counts_against_the_keys_ceiling_and_its_price_must_be_known(
    http: httpx.Client, llm: FakeLlmSocket
) -> None:
    limit(usd_per_day=Decimal("0.01"))
    llm.answer("Bread", input_tokens=8000, output_tokens=1000)

    first, second = (http.post(CHAT, json=title()) for _ in range(2))
    set_profile(utility_llm_model="openai/small", utility_catalogue={})
    third = http.post(CHAT, json=title())

    assert content(first) == "Bread"
    assert LedgerEntry.objects.get().cost_usd == Decimal("0.01")
    assert second.json()["error"]["code"] == "insufficient_quota"
    assert third.json()["error"]["code"] == "price_unknown"
    assert len(llm.calls) == 1


def test_it_is_none_of_the_turns_of_which_a_key_may_have_so_many_at_once(
    http: httpx.Client, agent_server: FakeAgentServer, llm: FakeLlmSocket
) -> None:
    limit(open_turns=1)
    llm.hang()
    titles: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: titles.append(http.post(CHAT, json=title())))
    waiting.start()
    eventually(lambda: len(llm.calls) == 1)

    answered = http.post(CHAT, json=question())
    llm.go_on.set()
    waiting.join(60)

    assert (answered.status_code, titles[0].status_code) == (200, 200)


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_a_repeat_with_an_idempotency_key_gets_the_same_answer_for_the_same_money(
    http: httpx.Client, llm: FakeLlmSocket
) -> None:
    llm.answer("Bread")
    key = {"Idempotency-Key": "title-1"}

    first, second = (http.post(CHAT, json=title(), headers=key) for _ in range(2))

    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers[HOUSEKEEPING] == "title"
    assert len(llm.calls) == 1
    assert Turn.objects.get().attempts.count() == 2


def test_a_counted_repeat_joins_the_open_call(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.hang()
    replies: list[httpx.Response] = []

    def ask(count: str) -> threading.Thread:
        headers = {"X-Stainless-Retry-Count": count}
        thread = threading.Thread(target=lambda: replies.append(http.post(CHAT, json=title(), headers=headers)))
        thread.start()
        return thread

    first = ask("0")
    eventually(lambda: len(llm.calls) == 1)
    second = ask("1")
    eventually(lambda: Turn.objects.get().attempts.count() == 2)
    llm.go_on.set()
    first.join(60)
    second.join(60)

    assert [content(reply) for reply in replies] == ["too late", "too late"]
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert len(llm.calls) == 1


def test_two_equal_calls_are_two(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.answer("One")
    llm.answer("Two")

    assert [content(http.post(CHAT, json=title())) for _ in range(2)] == ["One", "Two"]


# --- ends -------------------------------------------------------------------------------------------------------------


def test_it_can_be_cancelled(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.hang()
    replies: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: replies.append(http.post(CHAT, json=title())))
    waiting.start()
    eventually(lambda: len(llm.calls) == 1)

    cancelled = http.post(f"{CHAT}/{Turn.objects.get().reply_id}/cancel")
    waiting.join(60)

    assert cancelled.json()["status"] == "cancelled"
    assert replies[0].json()["error"]["code"] == "cancelled"
    turn = Turn.objects.get()
    assert (turn.outcome, turn.cancel_reason, turn.is_usage_estimated) == ("cancelled", "request", True)


def test_whoever_goes_away_leaves_a_call_that_is_paid_for_and_recorded(http: httpx.Client, llm: FakeLlmSocket) -> None:
    llm.hang()
    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=title(), timeout=0.5)

    llm.go_on.set()

    eventually(lambda: Turn.objects.filter(outcome="answered").exists())
    assert Turn.objects.get().input_tokens == 100


def test_the_call_of_a_process_that_died_is_answered_from_the_template(http: httpx.Client, llm: FakeLlmSocket) -> None:
    """Whether the LLM was asked nobody knows, so it is not asked again."""
    llm.answer("Bread")
    http.post(CHAT, json=title(), headers={"Idempotency-Key": "title-1"})
    LedgerEntry.objects.all().delete()
    Turn.objects.update(
        outcome="open", phase="running", closed_at=None, answer="", answered_by="", lease_owner="somebody who died",
        lease_expires_at=timezone.now() - dt.timedelta(minutes=1), run_ended_at=None,
    )  # fmt: skip

    repeated = http.post(CHAT, json=title(), headers={"Idempotency-Key": "title-1"})

    assert json.loads(content(repeated)) == {"title": "How do I bake bread"}
    turn = Turn.objects.get()
    assert (turn.answered_by, turn.is_usage_estimated, len(llm.calls)) == ("template", True, 1)
