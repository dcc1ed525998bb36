"""Responses in the background: begun at once, followed by whoever likes, stopped, deleted, gone on with."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from chatgateway.models import Turn
from profiles import access
from profiles.models import Profile
from tests.fakes.agent_script import Answer, Fail, Gate, Hang, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.waiting import eventually
from tests.wire.test_responses import RESPONSES, ask, events, with_tools


@pytest.fixture
def strict(client_with: Callable[..., OpenAI]) -> OpenAI:
    return client_with(_strict_response_validation=True)


def ended(client: OpenAI, response_id: str):
    def look():
        found = client.responses.retrieve(response_id)
        return found if found.status not in ("queued", "in_progress") else None

    return eventually(look, timeout_seconds=60)


def test_r9_it_is_queued_at_once_and_completed_later(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer("Done at last.", gate=gate))

    made = strict.responses.create(**ask(background=True))
    gate.wait_until_reached(60)
    working = strict.responses.retrieve(made.id)
    gate.open()
    done = ended(strict, made.id)

    assert (made.status, made.background, made.output) == ("queued", True, [])
    assert (working.status, working.usage) == ("in_progress", None)
    assert (done.status, done.output_text) == ("completed", "Done at last.")
    assert (done.id, done.created_at) == (made.id, made.created_at)


def test_nobody_has_to_wait_for_it(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    stream = strict.responses.create(**ask(background=True, stream=True))
    first = next(stream)
    stream.close()
    gate.wait_until_reached(60)
    gate.open()

    assert ended(strict, first.response.id).output_text == "One. Two."
    assert agent_server.only_conversation.interrupts == 0


def test_its_stream_says_when_it_has_left_the_queue(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Hello."))

    found = events(http.post(RESPONSES, json=ask(background=True, stream=True)).text)

    assert [event["type"] for event in found[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in found[:3]] == ["queued", "queued", "in_progress"]
    assert found == events(http.get(f"{RESPONSES}/{found[0]['response']['id']}", params={"stream": "true"}).text)


def test_r10_a_stream_is_joined_in_the_middle_and_followed_live(client: OpenAI, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer(chunks=("One. ", "Two. ", "Three."), gate=gate, hold_after=2))
    made = client.responses.create(**ask(background=True))
    gate.wait_until_reached(60)
    first = client.responses.retrieve(made.id, stream=True)
    seen = [next(first) for _ in range(6)]
    first.close()

    second = client.responses.retrieve(made.id, stream=True, starting_after=seen[-1].sequence_number)
    gate.open()
    rest = list(second)

    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert "".join(e.delta for e in [*seen, *rest] if e.type == "response.output_text.delta") == "One. Two. Three."
    assert rest[-1].type == "response.completed"


def test_the_stream_helper_resumes_by_id(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Hello there."))
    made = client.responses.create(**ask(background=True))

    with client.responses.stream(response_id=made.id, starting_after=0) as stream:
        types = [event.type for event in stream]

    assert types[0] == "response.queued"
    assert types[-1] == "response.completed"


def test_r11_cancelling_stops_the_agent_and_twice_is_the_same(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=Gate(), hold_after=1))
    made = strict.responses.create(**ask(background=True, stream=True))
    response_id = next(made).response.id
    next(event for event in made if event.type == "response.output_text.delta")

    stopped = strict.responses.cancel(response_id)
    again = strict.responses.cancel(response_id)
    last = list(made)[-1]

    assert stopped == again == strict.responses.retrieve(response_id)
    assert (stopped.status, stopped.error, stopped.output_text) == ("cancelled", None, "One. ")
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    assert agent_server.only_conversation.interrupts > 0
    assert Turn.objects.get().outcome == "cancelled"


def test_what_was_used_until_the_end_is_said_of_one_that_did_not_end_well(
    strict: OpenAI, agent_server: FakeAgentServer
) -> None:
    with_tools()
    gate = Gate()
    agent_server.script(Step(command="ls"), Answer(chunks=("One. ", "Two."), gate=gate, hold_after=1))
    agent_server.script(Step(command="ls"), Fail.unknown_model())
    made = strict.responses.create(**ask(background=True))
    gate.wait_until_reached()

    stopped = strict.responses.cancel(made.id)
    failed = ended(strict, strict.responses.create(**ask(background=True)).id)
    of_streams = [list(strict.responses.retrieve(one.id, stream=True))[-1].response for one in (stopped, failed)]

    turns = Turn.objects.order_by("arrival")
    assert [turn.outcome for turn in turns] == ["cancelled", "failed"]
    assert [one.usage.input_tokens for one in (stopped, failed)] == [turn.input_tokens for turn in turns]
    assert min(turn.input_tokens for turn in turns) > 0
    assert of_streams == [stopped, failed]


def test_a_finished_one_stays_what_it_is(client: OpenAI) -> None:
    made = ended(client, client.responses.create(**ask(background=True)).id)

    assert client.responses.cancel(made.id) == made


def test_what_somebody_waits_for_is_not_cancelled(client: OpenAI) -> None:
    made = client.responses.create(**ask())

    with pytest.raises(BadRequestError) as raised:
        client.responses.cancel(made.id)

    assert "background" in raised.value.message


def test_r14_one_that_fails_says_why(strict: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Fail.wrong_key())

    failed = ended(strict, strict.responses.create(**ask(background=True)).id)

    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert failed.error.message
    assert failed.usage is None


def test_one_that_never_got_a_place_has_failed(strict: OpenAI, agent_server: FakeAgentServer, settings) -> None:
    settings.GATEWAY_QUEUE_TIMEOUT_SECONDS = 0.3
    from chatgateway import servers
    from chatgateway.models import AgentServer

    AgentServer.objects.update(capacity=1)
    servers.forget()
    gate = Gate()
    agent_server.script(Hang(gate=gate))
    busy = strict.responses.create(**ask(background=True))
    gate.wait_until_reached(60)

    failed = ended(strict, strict.responses.create(**ask(background=True)).id)
    strict.responses.cancel(busy.id)

    assert (failed.status, failed.error.code) == ("failed", "rate_limit_exceeded")


def test_r12_deleting_stops_the_agent_and_hides_the_response(client: OpenAI, agent_server: FakeAgentServer) -> None:
    agent_server.script(Hang())
    made = client.responses.create(**ask(background=True))
    agent_server.wait_until(lambda: bool(agent_server.conversations), timeout_seconds=60)

    client.responses.delete(made.id)

    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(NotFoundError):
        client.responses.delete(made.id)
    assert eventually(lambda: Turn.objects.exclude(outcome="open").first(), timeout_seconds=60).outcome == "cancelled"


def test_r12_the_reply_to_a_deletion_is_openais(http: httpx.Client) -> None:
    made = http.post(RESPONSES, json=ask()).json()["id"]

    assert http.delete(f"{RESPONSES}/{made}").json() == {"id": made, "object": "response", "deleted": True}


def test_a_repeated_request_joins_the_response_that_is_there(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    gate = Gate()
    agent_server.script(Answer("Once.", gate=gate))
    key = {"Idempotency-Key": "abc"}

    first = http.post(RESPONSES, json=ask(background=True), headers=key).json()
    second = http.post(RESPONSES, json=ask(background=True), headers=key).json()
    gate.open()

    assert first["id"] == second["id"]
    assert Turn.objects.count() == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_repeated_request_gets_the_same_response_again(
    http: httpx.Client, agent_server: FakeAgentServer, stream: bool
) -> None:
    with_tools()
    agent_server.script(Step(command="ls"), Answer("Once."))
    key = {"Idempotency-Key": "abc"}

    first = http.post(RESPONSES, json=ask(stream=stream), headers=key)
    second = http.post(RESPONSES, json=ask(stream=stream), headers=key)

    assert second.headers["Idempotent-Replayed"] == "true"
    assert (events(first.text) if stream else first.json()) == (events(second.text) if stream else second.json())


def test_a_caller_who_goes_away_stops_a_response_in_the_foreground(
    client: OpenAI, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer(chunks=("One. ", "Two."), gate=Gate(), hold_after=1))
    stream = client.responses.create(**ask(stream=True))
    made = next(stream).response.id
    next(event for event in stream if event.type == "response.output_text.delta")
    stream.close()

    eventually(lambda: Turn.objects.filter(outcome="cancelled").exists(), timeout_seconds=60)
    assert client.responses.retrieve(made).status == "cancelled"
    assert client.responses.retrieve(made).output_text == "One. "


def test_silence_before_a_collected_response_is_filled(
    http: httpx.Client, agent_server: FakeAgentServer, settings
) -> None:
    settings.GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS = 0.1
    gate = Gate()
    agent_server.script(Answer("Late.", gate=gate))

    with http.stream("POST", RESPONSES, json=ask()) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        gate.open()
        rest = b"".join(pieces)

    assert first.strip() == b""
    assert b'"status":"completed"' in rest


# --- input items ----------------------------------------------------------------------------------------------------


def test_r13_input_items_come_in_pages_the_newest_first(strict: OpenAI) -> None:
    sent = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    made = strict.responses.create(model="openhands_chat", input=sent)

    page = strict.responses.input_items.list(made.id, limit=2)
    following = page.get_next_page()
    ascending = strict.responses.input_items.list(made.id, order="asc")

    assert [item.content[0].text for item in page.data] == ["c", "b"]
    assert [item.content[0].text for item in following.data] == ["a"]
    assert [item.content[0].text for item in ascending.data] == ["a", "b", "c"]
    last = ascending.data[-1].id
    assert (
        strict.responses.input_items.list(made.id, order="asc", extra_query={"before": last}).data == ascending.data[:2]
    )
    near = strict.responses.input_items.list(made.id, order="asc", limit=1, extra_query={"before": last})
    assert (near.data, near.has_more) == (ascending.data[1:2], True)
    assert len({item.id for item in ascending.data}) == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_1", "before=msg_1"])
def test_r13_a_page_that_cannot_be_is_refused(http: httpx.Client, query: str) -> None:
    made = http.post(RESPONSES, json=ask()).json()["id"]

    reply = http.get(f"{RESPONSES}/{made}/input_items?{query}")

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("path", ["", "/input_items"])
def test_what_could_be_included_is_taken_and_anything_else_is_named(http: httpx.Client, path: str) -> None:
    made = http.post(RESPONSES, json=ask()).json()["id"]

    known = http.get(f"{RESPONSES}/{made}{path}", params={"include[]": "message.input_image.image_url"})
    wrong = http.get(f"{RESPONSES}/{made}{path}", params={"include[]": ["reasoning.encrypted_content", "everything"]})

    assert known.status_code == 200
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "include.1")


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "99999999999999999999"])
def test_a_number_that_is_none_is_refused(http: httpx.Client, value: str) -> None:
    made = http.post(RESPONSES, json=ask()).json()["id"]

    reply = http.get(f"{RESPONSES}/{made}", params={"stream": "true", "starting_after": value})

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "starting_after")


@pytest.mark.parametrize("what", ["compact", "input_tokens"])
def test_what_agents_cannot_do_is_refused_by_name(http: httpx.Client, what: str) -> None:
    without_model = http.post(f"{RESPONSES}/{what}", json={"input": "Hi"}).json()["error"]
    refused = http.post(f"{RESPONSES}/{what}", json=ask())

    assert (without_model["code"], without_model["param"]) == ("missing_required_parameter", "model")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_endpoint")


def test_a_profile_can_hide_what_its_agent_does(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    with_tools()
    Profile.objects.update(activity="hidden", thoughts="hidden")
    access.forget_all()
    agent_server.script(Step(command="ls", thought="Hm."), Answer("Two."))

    assert [item["type"] for item in http.post(RESPONSES, json=ask()).json()["output"]] == ["message"]
