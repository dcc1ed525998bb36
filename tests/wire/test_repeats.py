"""A request that is made again: it joins the turn it repeats, and the agent runs once."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.db.models import F
from openai import ConflictError, OpenAI

from chatgateway.models import Attempt, Turn
from profiles.models import ApiKey, OnDisconnect, Profile
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Gate, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire.conftest import question
from tests.wire.cutting_proxy import CuttingProxy
from tests.wire.test_chat import CHAT, CONVERSATION, set_profile
from tests.wire.test_stream import deltas, events

KEY = {"Idempotency-Key": "order 66"}
FIRST = {"X-Stainless-Retry-Count": "0"}
SECOND = {"X-Stainless-Retry-Count": "1"}
Pool = ThreadPoolExecutor


@pytest.fixture
def pool() -> Iterator[Pool]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def other_gateway(served: LiveGateway) -> Iterator[LiveGateway]:
    """Another gateway on the same database. It has drivers of its own, as another process would."""
    running = LiveGateway()
    running.key = served.key
    running.start()
    yield running
    running.stop()


def held_answer(agent_server: FakeAgentServer) -> Gate:
    """Two pieces of text; the agent waits between them until the gate opens."""
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    return gate


def runs(agent_server: FakeAgentServer) -> int:
    return sum(len(conversation.posted) for conversation in agent_server.conversations.values())


def text_of(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def lose(http: httpx.Client, **headers: str) -> None:
    """Make the request and go away before there is an answer."""
    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=question(), headers=headers, timeout=0.5)


# --- Idempotency-Key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_same_key_twice_at_once_is_one_run_and_one_answer(
    http: httpx.Client, agent_server: FakeAgentServer, pool: Pool, is_stream: bool
) -> None:
    gate = held_answer(agent_server)

    calls = [pool.submit(http.post, CHAT, json=question(stream=is_stream), headers=KEY) for _ in range(2)]
    eventually(lambda: Attempt.objects.count() == 2)
    gate.wait_until_reached()
    assert (len(agent_server.handshakes), len(agent_server.calls("GET"))) == (1, 0)  # joining asks the agent nothing
    gate.open()
    replies = [call.result(timeout=60) for call in calls]

    assert replies[0].text.replace(": ping\n\n", "") == replies[1].text.replace(": ping\n\n", "")
    assert runs(agent_server) == 1
    assert Turn.objects.count() == 1


def test_a_key_whose_turn_has_ended_gets_the_same_answer_and_is_told_so(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    first = http.post(CHAT, json=question(), headers=KEY)
    again = http.post(CHAT, json=question(), headers=KEY)

    assert again.json() == first.json()
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert again.headers[CONVERSATION] == first.headers[CONVERSATION]
    assert runs(agent_server) == 1
    assert Turn.objects.get().attempts.count() == 2


def test_a_replayed_stream_holds_the_whole_answer(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    body = question(stream=True, stream_options={"include_usage": True})
    first, again = (events(http.post(CHAT, json=body, headers=KEY)) for _ in range(2))

    assert deltas(again, "content") == deltas(first, "content") == "Hello from the agent."
    assert again[-1]["usage"] == first[-1]["usage"]
    assert {chunk["id"] for chunk in again} == {chunk["id"] for chunk in first}
    assert runs(agent_server) == 1


def test_an_error_is_replayed_as_it_was(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Fail.wrong_key())

    first, again = (http.post(CHAT, json=question(), headers=KEY) for _ in range(2))

    assert first.status_code == again.status_code == 502
    assert first.json() == again.json()
    assert again.headers["x-should-retry"] == "false"
    assert runs(agent_server) == 1


def test_a_key_names_one_request(client_with: Callable[..., OpenAI], agent_server: FakeAgentServer) -> None:
    client = client_with(max_retries=2)
    client.chat.completions.create(**question(), extra_headers=KEY)  # type: ignore[call-overload]

    with pytest.raises(ConflictError) as refused:
        client.chat.completions.create(**question(user="anna"), extra_headers=KEY)  # type: ignore[call-overload]

    assert refused.value.code == "idempotency_mismatch"
    assert Turn.objects.filter(outcome="refused").count() == 1  # the SDK did not try again
    assert runs(agent_server) == 1


def test_a_key_belongs_to_its_api_key(http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer) -> None:
    http.post(CHAT, json=question(), headers=KEY)
    stranger = {"Authorization": f"Bearer {factories.api_key().text}"}

    reply = http.post(CHAT, json=question(), headers=KEY | stranger)

    assert "Idempotent-Replayed" not in reply.headers
    assert runs(agent_server) == 2


def test_a_key_is_free_again_after_a_day(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    http.post(CHAT, json=question(), headers=KEY)
    Turn.objects.update(opened_at=F("opened_at") - dt.timedelta(hours=25))

    http.post(CHAT, json=question(), headers=KEY)

    assert runs(agent_server) == 2


def test_a_key_is_free_again_when_its_request_was_refused(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.crash()
    refused = http.post(CHAT, json=question(), headers=KEY)
    agent_server.come_back()

    again = http.post(CHAT, json=question(), headers=KEY)

    assert (refused.status_code, again.status_code) == (503, 200)


def test_a_key_that_is_too_long_is_named(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=question(), headers={"Idempotency-Key": "x" * 256})

    assert reply.status_code == 400
    assert "Idempotency-Key" in reply.json()["error"]["message"]


# --- the SDK's own retries ----------------------------------------------------------------------------------------------


def test_an_sdk_that_times_out_and_tries_again_gets_the_answer_of_the_one_run(
    client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer("Slow but sure.", delay_seconds=1.0))

    reply = client_with(max_retries=2, timeout=1.2).chat.completions.create(**question())  # type: ignore[call-overload]

    assert reply.choices[0].message.content == "Slow but sure."
    assert runs(agent_server) == 1
    assert Turn.objects.get().attempts.count() > 1


def test_an_answer_that_never_arrived_is_delivered_to_the_second_attempt(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    gate = held_answer(agent_server)
    lose(http, **FIRST)
    gate.open()
    eventually(lambda: Turn.objects.get().outcome == "answered")

    again = http.post(CHAT, json=question(), headers=SECOND)

    assert text_of(again) == "One. Two."
    assert again.headers["Idempotent-Replayed"] == "true"
    assert runs(agent_server) == 1


def test_equal_questions_that_are_all_repeated_each_find_a_turn_of_their_own(
    http: httpx.Client, agent_server: FakeAgentServer, pool: Pool
) -> None:
    gates = [held_answer(agent_server) for _ in range(3)]
    for call in [pool.submit(lose, http, **FIRST) for _ in gates]:
        call.result(timeout=60)
    eventually(lambda: not Attempt.objects.filter(detached_at=None).exists())

    repeats = [pool.submit(http.post, CHAT, json=question(), headers=SECOND) for _ in gates]
    eventually(lambda: Attempt.objects.count() == 6)
    for gate in gates:
        gate.open()

    assert [text_of(reply.result(timeout=60)) for reply in repeats] == ["One. Two."] * 3
    assert {turn.attempts.count() for turn in Turn.objects.all()} == {2}
    assert runs(agent_server) == 3


@pytest.mark.parametrize("headers", [FIRST, {}])
def test_two_equal_requests_are_two_runs(
    http: httpx.Client, agent_server: FakeAgentServer, headers: dict[str, str]
) -> None:
    for _ in range(2):
        http.post(CHAT, json=question(), headers=headers)

    assert runs(agent_server) == 2


def test_a_second_attempt_after_an_answer_that_arrived_is_a_request_of_its_own(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    http.post(CHAT, json=question(), headers=FIRST)
    eventually(lambda: Attempt.objects.get().delivered_at)

    http.post(CHAT, json=question(), headers=SECOND)

    assert runs(agent_server) == 2


def test_the_same_words_in_another_conversation_are_another_request(
    http: httpx.Client, agent_server: FakeAgentServer, pool: Pool
) -> None:
    here, there = (http.post(CHAT, json=question(user=name)).headers[CONVERSATION] for name in ("a", "b"))
    gate = held_answer(agent_server)
    call = pool.submit(http.post, CHAT, json=question(), headers=FIRST | {CONVERSATION: here})
    gate.wait_until_reached()

    agent_server.script(Answer("Of the other conversation."))
    other = http.post(CHAT, json=question(), headers=SECOND | {CONVERSATION: there})
    gate.open()

    assert text_of(other) == "Of the other conversation."
    assert text_of(call.result(timeout=60)) == "One. Two."


def test_a_reply_that_was_cut_in_mid_body_is_sent_again_without_another_run(
    served: LiveGateway, client_with: Callable[..., OpenAI], agent_server: FakeAgentServer
) -> None:
    with CuttingProxy(served.port, cut_after=400) as proxy:
        client = client_with(base_url=f"http://127.0.0.1:{proxy.port}/v1", max_retries=2)

        reply = client.chat.completions.create(**question())  # type: ignore[call-overload]

    assert reply.choices[0].message.content == "Hello from the agent."
    assert proxy.cuts == 1
    assert runs(agent_server) == 1


# --- clients that mark nothing ------------------------------------------------------------------------------------------


def test_an_error_is_repeated_twice_to_a_client_that_marks_nothing(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.wrong_key())

    replies = [http.post(CHAT, json=question()) for _ in range(4)]

    assert [reply.status_code for reply in replies] == [502, 502, 502, 200]
    assert replies[0].json() == replies[1].json() == replies[2].json()
    assert runs(agent_server) == 2


def test_an_error_of_a_while_ago_is_not_repeated(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Fail.wrong_key())
    http.post(CHAT, json=question())
    Turn.objects.update(closed_at=F("closed_at") - dt.timedelta(seconds=11))

    assert http.post(CHAT, json=question()).status_code == 200


# --- from another process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_turn_is_joined_from_another_process(
    http: httpx.Client, other_gateway: LiveGateway, agent_server: FakeAgentServer, pool: Pool, is_stream: bool
) -> None:
    gate = held_answer(agent_server)
    body = question(stream=is_stream)
    first: Future[httpx.Response] = pool.submit(http.post, CHAT, json=body, headers=KEY)
    gate.wait_until_reached()

    second = pool.submit(http.post, other_gateway.url + CHAT, json=body, headers=KEY)
    eventually(lambda: Attempt.objects.count() == 2)
    gate.open()
    replies = [call.result(timeout=60) for call in (first, second)]

    def said(reply: httpx.Response) -> str:
        return deltas(events(reply), "content") if is_stream else text_of(reply)

    assert [said(reply) for reply in replies] == ["One. Two."] * 2
    assert replies[0].headers[CONVERSATION] == replies[1].headers[CONVERSATION]
    assert runs(agent_server) == 1


def test_whoever_joins_from_another_process_sees_the_text_as_it_is_written(
    http: httpx.Client, other_gateway: LiveGateway, agent_server: FakeAgentServer, pool: Pool
) -> None:
    step, answer = Gate(), Gate()
    agent_server.script(
        Step(command="ls", gate=step), Answer(chunks=("One. ", "Two. ", "Three."), gate=answer, hold_after=2)
    )
    first = pool.submit(http.post, CHAT, json=question(stream=True), headers=KEY)
    step.wait_until_reached()

    with http.stream("POST", other_gateway.url + CHAT, json=question(stream=True), headers=KEY) as joined:
        lines = (line for line in joined.iter_lines() if "content" in line)
        assert "assistant" in next(lines)
        assert "Running: ls" in next(lines)
        step.open()
        assert "One. " in next(lines)  # the run waits in mid-answer
        answer.open()
        rest = "".join(lines)

    assert "Three." in rest
    assert first.result(timeout=60).status_code == 200
    assert runs(agent_server) == 1


def test_a_failure_is_told_to_whoever_joined_from_another_process(
    http: httpx.Client, other_gateway: LiveGateway, agent_server: FakeAgentServer, pool: Pool
) -> None:
    gate = held_answer(agent_server)
    first = pool.submit(http.post, CHAT, json=question(), headers=KEY)
    gate.wait_until_reached()
    second = pool.submit(http.post, other_gateway.url + CHAT, json=question(), headers=KEY)
    eventually(lambda: Attempt.objects.count() == 2)

    http.post(f"{CHAT}/{Turn.objects.get().reply_id}/cancel")

    replies = [call.result(timeout=60) for call in (first, second)]
    assert [reply.status_code for reply in replies] == [502, 502]
    assert {reply.json()["error"]["code"] for reply in replies} == {"cancelled"}


# --- when the client goes away --------------------------------------------------------------------------------------------


def test_an_unstreamed_request_that_may_be_repeated_gets_a_grace(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    set_profile(disconnect_grace_seconds=1)
    held_answer(agent_server)

    lose(http, **FIRST)

    threading.Event().wait(0.5)
    assert agent_server.only_conversation.interrupts == 0
    assert eventually(lambda: Turn.objects.get().outcome == "cancelled", timeout_seconds=3)
    assert (Turn.objects.get().cancel_reason, Turn.objects.get().answer) == ("disconnect", "One. ")


def test_a_client_that_never_repeats_gets_none(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    held_answer(agent_server)

    lose(http)

    assert eventually(lambda: Turn.objects.get().outcome == "cancelled", timeout_seconds=2)


@pytest.mark.parametrize(
    ("of_profile", "of_key", "outcome"),
    [("cancel", "", "cancelled"), ("detach", "", "answered"), ("cancel", "detach", "answered")],
)
def test_the_key_decides_before_the_profile_what_becomes_of_a_turn_without_a_caller(
    http: httpx.Client, agent_server: FakeAgentServer, of_profile: str, of_key: str, outcome: str
) -> None:
    set_profile(on_disconnect=of_profile)
    ApiKey.objects.update(on_disconnect=of_key)
    gate = held_answer(agent_server)

    lose(http)
    threading.Event().wait(1.0)
    gate.open()

    assert eventually(lambda: Turn.objects.exclude(outcome="open").first()).outcome == outcome


def test_a_turn_that_somebody_else_waits_for_is_not_stopped(
    http: httpx.Client, other_gateway: LiveGateway, agent_server: FakeAgentServer, pool: Pool
) -> None:
    set_profile(disconnect_grace_seconds=0)
    gate = held_answer(agent_server)
    joined = pool.submit(http.post, other_gateway.url + CHAT, json=question(), headers=KEY)
    gate.wait_until_reached()

    lose(http, **KEY)
    threading.Event().wait(0.5)
    gate.open()

    assert text_of(joined.result(timeout=60)) == "One. Two."


def test_the_last_who_waits_for_another_processes_turn_stops_it_by_leaving(
    http: httpx.Client, other_gateway: LiveGateway, agent_server: FakeAgentServer
) -> None:
    set_profile(disconnect_grace_seconds=1)
    held_answer(agent_server)
    lose(http, **KEY)
    with pytest.raises(httpx.ReadTimeout):
        http.post(other_gateway.url + CHAT, json=question(), headers=KEY, timeout=0.5)

    assert eventually(lambda: Turn.objects.get().outcome == "cancelled", timeout_seconds=5)


# --- GET and cancel -----------------------------------------------------------------------------------------------------


def test_an_answer_that_nobody_got_can_be_fetched(
    client: OpenAI, http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    set_profile(on_disconnect=OnDisconnect.DETACH)
    gate = held_answer(agent_server)
    lose(http)
    reply_id = Turn.objects.get().reply_id
    early = http.get(f"{CHAT}/{reply_id}")
    gate.open()
    eventually(lambda: Turn.objects.get().outcome == "answered")

    fetched = client.chat.completions.retrieve(reply_id)

    assert (early.status_code, early.json()["error"]["code"]) == (409, "completion_in_progress")
    assert fetched.id == reply_id
    assert fetched.choices[0].message.content == "One. Two."


def test_a_completion_is_its_tenants_own(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    made = http.post(CHAT, json=question()).json()["id"]
    unstored = http.post(CHAT, json=question(store=False)).json()["id"]
    stranger = {"Authorization": f"Bearer {factories.api_key().text}"}

    replies = [
        http.get(f"{CHAT}/{made}", headers=stranger),
        http.post(f"{CHAT}/{made}/cancel", headers=stranger),
        http.get(f"{CHAT}/{unstored}"),
        http.get(f"{CHAT}/chatcmpl-{'0' * 32}"),
        http.get(f"{CHAT}/nonsense"),
    ]

    assert {reply.status_code for reply in replies} == {404}
    assert len({reply.text for reply in replies}) == 1
    assert http.get(f"{CHAT}/{made}").json()["id"] == made


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_turn_is_cancelled_within_two_seconds_from_any_process(
    http: httpx.Client, other_gateway: LiveGateway, agent_server: FakeAgentServer, pool: Pool, elsewhere: bool
) -> None:
    gate = held_answer(agent_server)
    call = pool.submit(http.post, CHAT, json=question())
    gate.wait_until_reached()
    eventually(lambda: Turn.objects.get().user_event_seq is not None)
    place = other_gateway.url if elsewhere else ""

    stopped = http.post(f"{place}{CHAT}/{Turn.objects.get().reply_id}/cancel", timeout=2)
    again = http.post(f"{CHAT}/{Turn.objects.get().reply_id}/cancel")

    assert stopped.json() == again.json()
    assert stopped.json()["status"] == "cancelled"
    assert call.result(timeout=5).json()["error"]["code"] == "cancelled"
    assert (Turn.objects.get().cancel_reason, Turn.objects.get().answer) == ("request", "One. ")
    assert Turn.objects.count() == 1


# --- a busy conversation --------------------------------------------------------------------------------------------------


def test_a_busy_conversation_is_refused_at_once_where_the_profile_says_so(
    client_with: Callable[..., OpenAI], http: httpx.Client, agent_server: FakeAgentServer, pool: Pool
) -> None:
    set_profile(when_busy=Profile.WhenBusy.REJECT)
    conversation = {CONVERSATION: http.post(CHAT, json=question()).headers[CONVERSATION]}
    gate = held_answer(agent_server)
    call = pool.submit(http.post, CHAT, json=question(), headers=conversation)
    gate.wait_until_reached()

    with pytest.raises(ConflictError) as busy:
        client_with(max_retries=2).chat.completions.create(**question(), extra_headers=conversation)  # type: ignore[call-overload]
    gate.open()

    assert busy.value.code == "conversation_busy"
    assert Turn.objects.filter(error_code="conversation_busy").count() == 1
    assert text_of(call.result(timeout=60)) == "One. Two."


# --- long silence ---------------------------------------------------------------------------------------------------------


def test_a_long_wait_is_filled_with_white_space(
    http: httpx.Client, agent_server: FakeAgentServer, settings: Any, pool: Pool
) -> None:
    settings.GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS = 0.2
    settings.GATEWAY_PING_SECONDS = 0.2
    gate = held_answer(agent_server)
    call = pool.submit(http.post, CHAT, json=question(), headers=FIRST)
    gate.wait_until_reached()
    threading.Event().wait(1.0)
    gate.open()
    reply = call.result(timeout=60)

    assert reply.content.startswith(b" \n \n")
    assert reply.headers["content-type"] == "application/json"
    assert text_of(reply) == "One. Two."
    assert eventually(lambda: Attempt.objects.get().delivered_at)


def test_a_failure_after_white_space_is_an_error_beside_no_choices(
    client: OpenAI, http: httpx.Client, agent_server: FakeAgentServer, settings: Any
) -> None:
    settings.GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS = 0.1
    gate = held_answer(agent_server)
    call = Pool(1).submit(http.post, CHAT, json=question())
    gate.wait_until_reached()
    threading.Event().wait(0.3)
    http.post(f"{CHAT}/{Turn.objects.get().reply_id}/cancel")

    reply = call.result(timeout=60)

    assert reply.status_code == 200
    assert reply.json()["choices"] == []
    assert reply.json()["error"]["code"] == "cancelled"
