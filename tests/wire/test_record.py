"""The rows a request leaves: enough to rebuild it exactly, and no more than it brought."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from chatgateway import audit
from chatgateway.models import Attempt, Conversation, Event, Image, Message, Turn
from profiles import access
from profiles.models import OnDisconnect, Profile
from tests import factories
from tests.fakes.agent_script import Answer, Gate, Step, Usage
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT, CONVERSATION, PIXEL, set_profile

HOSTILE = "NUL \x00 gone, </message> <script>alert(1)</script>, 岩 🌕, \\ \" '"


def test_a_turn_tells_who_asked_what_and_how_it_went(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Step(command="ls"), Answer("Two files.", usage=Usage(input=1_000, output=500, cached=400)))
    headers = {"User-Agent": "OpenAI/Python 2.54.0", "X-Stainless-Retry-Count": "0"}

    reply = http.post(CHAT, json=question(user="anna"), headers=headers)

    turn = Turn.objects.get()
    attempt = Attempt.objects.get()
    assert turn.outcome == Turn.Outcome.ANSWERED
    assert turn.reply_id == reply.json()["id"]
    assert (turn.tenant_name, turn.key_name, turn.model_id) == (
        turn.tenant.name,
        turn.api_key.name,
        "openhands_chat",
    )
    assert (turn.end_user, turn.client, turn.address) == ("anna", "OpenAI/Python 2.54.0", "127.0.0.1")
    assert (turn.answer, turn.finish_reason, turn.http_status) == ("Two files.", "stop", 200)
    assert (turn.input_tokens, turn.output_tokens, turn.cached_tokens) == (1_100, 510, 400)
    assert str(turn.cost_usd) == "0.00212000"
    assert turn.prices == {"input": "1.000000", "output": "2.000000", "cached": "1.000000"}
    assert turn.opened_at <= turn.started_at <= turn.accepted_at <= turn.first_text_at <= turn.closed_at
    assert turn.profile_snapshot["llm_model"] == "openai/scripted"
    assert "sk-provider-secret" not in str(turn.profile_snapshot)
    assert attempt.retry_count == 0
    assert eventually(lambda: Attempt.objects.get().delivered_at)


def test_every_event_of_a_turn_is_kept_in_order(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Step(command="pytest -q", output="2 passed"), Answer("Green."))

    http.post(CHAT, json=question())

    eventually(lambda: Event.objects.filter(kind="ConversationStateUpdateEvent", raw__value="finished").exists())
    events = list(Turn.objects.get().events.all())
    assert [event.seq for event in events] == list(range(len(events)))
    shown = [(event.kind, event.tool, event.summary) for event in events if event.tool]
    assert shown == [
        ("ActionEvent", "terminal", "Running: pytest -q"),
        ("ObservationEvent", "terminal", "exit code 0"),
    ]


def test_events_are_in_the_record_while_the_agent_is_at_work(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Step(command="make", gate=gate), Answer("Made."))

    with ThreadPoolExecutor() as pool:
        call = pool.submit(http.post, CHAT, json=question())
        gate.wait_until_reached()
        seen = eventually(lambda: Event.objects.filter(kind="ActionEvent").first(), timeout_seconds=3)
        gate.open()
        assert call.result(timeout=60).status_code == 200

    assert seen.summary == "Running: make"


def test_a_price_that_nobody_knows_is_unknown_and_not_zero(http: httpx.Client) -> None:
    Profile.objects.update(input_price=None, output_price=None, catalogue={})
    access.forget_all()

    http.post(CHAT, json=question())

    assert Turn.objects.get().cost_usd is None


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": HOSTILE.replace("\x00", "")}],
        [
            {"role": "system", "content": "Be brief.", "name": "boss"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "x": [1, 2.5]}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "result"},
            {"role": "user", "content": "and?"},
        ],
    ],
)
def test_the_request_can_be_rebuilt_exactly(http: httpx.Client, messages: list[dict[str, object]]) -> None:
    body = question(messages=messages, temperature=0.1, seed=7, metadata={"a": "b"}, stop=["x"], unknown={"y": None})

    response = http.post(CHAT, json=body)

    assert response.status_code == 200
    assert audit.rebuild_request(Turn.objects.get()) == body


def test_images_are_kept_once_and_put_back(http: httpx.Client) -> None:
    Profile.objects.update(accepts_images=True)
    access.forget_all()
    shown = [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}, {"type": "text", "text": "?"}]
    body = question(messages=[{"role": "user", "content": shown}])

    for _ in range(3):
        http.post(CHAT, json=body)

    assert Image.objects.count() == 1
    assert PIXEL not in str(Message.objects.get().body)
    assert audit.rebuild_request(Turn.objects.last()) == body


def test_a_hundred_turns_of_a_client_that_sends_its_whole_history_take_linear_space(http: httpx.Client) -> None:
    history: list[dict[str, object]] = []

    def answered(numbers: range) -> int:
        """What these turns added to the record, in characters."""
        before = _size_of_the_record()
        for number in numbers:
            history.append({"role": "user", "content": f"question {number:03} " + "and more words " * 20})
            reply = http.post(CHAT, json=question(messages=history)).json()
            history.append({"role": "assistant", "content": reply["choices"][0]["message"]["content"]})
        eventually(lambda: Event.objects.filter(kind="MessageEvent", source="agent").count() == numbers.stop)
        return _size_of_the_record() - before

    answered(range(20))  # the texts of the first are still shorter than what is kept of each event
    middle, last = answered(range(20, 60)), answered(range(60, 100))

    assert Message.objects.count() == 199
    assert last < 1.1 * middle
    assert len(audit.rebuild_request(Turn.objects.order_by("arrival").last())["messages"]) == 199


def _size_of_the_record() -> int:
    """The characters of all rows that a turn writes: every column, whatever it is."""
    models = (Turn, Attempt, Conversation, Message, Event, Image)
    return sum(len(str(row)) for model in models for row in model.objects.values_list())


def test_of_a_message_told_to_the_agent_the_event_keeps_the_ends_and_its_digest(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    set_profile(accepts_images=True)
    content = [{"type": "text", "text": "x" * 9_000}, {"type": "image_url", "image_url": {"url": PIXEL}}]

    http.post(CHAT, json=question(messages=[{"role": "user", "content": content}]))

    [text, image] = eventually(lambda: Event.objects.filter(source="user").first()).raw["llm_message"]["content"]
    assert text["text"] == "x" * 1_000 + "…" + "x" * 1_000
    assert text["$cut"] == {"chars": 9_000, "sha256": hashlib.sha256(b"x" * 9_000).hexdigest()}
    assert image["image_urls"] == [{"$image": Image.objects.get().sha256}]
    assert agent_server.only_conversation.posted[0][1]["image_urls"] == [PIXEL]


def test_the_same_words_of_two_tenants_are_two_messages(served: LiveGateway, http: httpx.Client) -> None:
    other = factories.api_key()

    http.post(CHAT, json=question())
    httpx.post(served.url + CHAT, json=question(), headers={"Authorization": f"Bearer {other.text}"}, timeout=100)

    assert Message.objects.count() == 2


def test_rows_outlive_what_they_point_to(http: httpx.Client) -> None:
    http.post(CHAT, json=question())

    Profile.objects.all().delete()

    turn = Turn.objects.get()
    assert turn.profile is None
    assert turn.profile_snapshot["slug"] == "chat"
    assert Conversation.objects.get().profile_slug == "chat"


@pytest.mark.parametrize(
    "body",
    [
        {"model": "openhands_chat", "messages": "\ud800 \x00" + "x" * 100_000},
        {"model": ["\x00"]},
        ["\ud800"],
        "x" * 100_000,
    ],
)
def test_a_refused_body_of_any_shape_is_kept_within_bounds(http: httpx.Client, body: object) -> None:
    import json

    response = http.post(CHAT, content=json.dumps(body), headers={"Content-Type": "application/json"})

    turn = Turn.objects.get()
    assert response.status_code == 400
    assert turn.outcome == Turn.Outcome.REFUSED
    assert len(str(turn.parameters)) < 30_000


# --- more than one at a time -----------------------------------------------------------------------------------------


def test_two_requests_to_one_conversation_each_get_their_own_answer_in_order(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    first = http.post(CHAT, json=question())
    gate = Gate()
    agent_server.script(Answer("Answer A.", gate=gate))
    agent_server.script(Answer("Answer B."))
    header = {CONVERSATION: first.headers[CONVERSATION]}

    with ThreadPoolExecutor() as pool:
        a = pool.submit(http.post, CHAT, json=question(messages=[{"role": "user", "content": "A"}]), headers=header)
        gate.wait_until_reached()
        b = pool.submit(http.post, CHAT, json=question(messages=[{"role": "user", "content": "B"}]), headers=header)
        eventually(lambda: Turn.objects.filter(phase="queued").exists())
        gate.open()
        answers = [one.result().json()["choices"][0]["message"]["content"] for one in (a, b)]

    assert answers == ["Answer A.", "Answer B."]


def test_a_full_agent_server_makes_the_next_turn_wait(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    from chatgateway.models import AgentServer

    AgentServer.objects.update(capacity=1)
    gate = Gate()
    agent_server.script(Answer("First.", gate=gate))

    with ThreadPoolExecutor() as pool:
        first = pool.submit(http.post, CHAT, json=question())
        gate.wait_until_reached()
        second = pool.submit(http.post, CHAT, json=question())
        waiting = eventually(lambda: Turn.objects.filter(phase="queued").first())
        gate.open()
        statuses = [first.result().status_code, second.result().status_code]

    assert waiting.agent_server is None
    assert statuses == [200, 200]


def test_a_wait_that_takes_too_long_is_429(http: httpx.Client, agent_server: FakeAgentServer, settings) -> None:
    from chatgateway.models import AgentServer

    settings.GATEWAY_QUEUE_TIMEOUT_SECONDS = 0.3
    AgentServer.objects.update(capacity=1)
    gate = Gate()
    agent_server.script(Answer("First.", gate=gate))

    with ThreadPoolExecutor() as pool:
        first = pool.submit(http.post, CHAT, json=question())
        gate.wait_until_reached()
        second = http.post(CHAT, json=question())
        gate.open()
        first.result()

    assert second.status_code == 429
    assert int(second.headers["retry-after"]) <= 60
    assert Turn.objects.get(http_status=429).outcome == Turn.Outcome.REFUSED


def test_a_full_queue_is_429_at_once(http: httpx.Client, agent_server: FakeAgentServer, settings) -> None:
    from chatgateway.models import AgentServer

    AgentServer.objects.update(capacity=1)
    settings.GATEWAY_QUEUE_LIMIT = 0
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))

    with ThreadPoolExecutor() as pool:
        at_work = pool.submit(http.post, CHAT, json=question())
        gate.wait_until_reached()
        refused = http.post(CHAT, json=question(user="anna"))
        gate.open()
        assert at_work.result(timeout=60).status_code == 200  # it had a place and needed no queue

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    assert len(agent_server.conversations) == 1


def test_eight_callers_at_once_are_all_answered_and_no_slot_is_left_behind(http: httpx.Client) -> None:
    from chatgateway.models import AgentServer

    AgentServer.objects.update(capacity=2)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: http.post(CHAT, json=question()), range(8)))

    assert [reply.status_code for reply in replies] == [200] * 8
    assert not Turn.objects.holding_a_slot().exists()


def test_a_turn_that_a_stopped_gateway_left_is_finished_by_the_next(
    http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer, settings
) -> None:
    settings.GATEWAY_SHUTDOWN_GRACE_SECONDS = 0.1
    Profile.objects.update(on_disconnect=OnDisconnect.DETACH)
    access.forget_all()
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    caller = threading.Thread(target=lambda: http.post(CHAT, json=question()))
    caller.start()
    gate.wait_until_reached()
    eventually(lambda: Turn.objects.filter(user_event_seq__isnull=False).exists())

    served.stop()
    caller.join(10)
    gate.open()
    successor = LiveGateway()
    successor.start()
    try:
        turn = eventually(lambda: Turn.objects.exclude(outcome="open").first())
    finally:
        successor.stop()

    assert (turn.outcome, turn.answer, turn.lease_generation) == ("answered", "One. Two.", 2)
    assert turn.run_ended_at is not None


def test_revoking_a_key_stops_what_was_started_with_it(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    from profiles import issuing
    from profiles.models import ApiKey

    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))

    with ThreadPoolExecutor() as pool:
        call = pool.submit(http.post, CHAT, json=question())
        gate.wait_until_reached()
        issuing.revoke(ApiKey.objects.get(), reason="lost laptop")
        reply = call.result(timeout=60)

    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "cancelled"
    assert Turn.objects.get().cancel_reason == "key"
