"""What was asked and answered can be searched for from the moment a turn ends until its texts are removed."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.db.models.functions import Now

from chatgateway import retention, tasks
from chatgateway.models import Turn, TurnText
from tests import factories
from tests.chatgateway.openai_api import test_housekeeping as prompts
from tests.chatgateway.test_turn_texts import found, what_the_index_holds
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire.chatting import CHAT, user
from tests.wire.conftest import question
from tests.wire.test_repeats import held_answer
from tests.wire.test_retention import aged, ask, erase, keep

ASKED, ANSWERED = "confidential petition", "classified verdict"


def both() -> tuple[set[Any], set[Any]]:
    return found(ASKED), found(f'"{ANSWERED}"')


def test_a_turn_is_found_by_its_question_and_its_answer(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(f"The {ANSWERED.upper()}."))

    ask(http, user(f"A {ASKED}!"))

    assert both() == ({Turn.objects.get().pk},) * 2


def test_a_response_and_a_refused_request_are_found_too(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(f"The {ANSWERED}."))

    http.post("/v1/responses", json={"model": "openhands_chat", "input": ASKED})
    refused = http.post(CHAT, json={"model": "nobody's", "messages": [user(f"Another {ASKED}")]})

    response = Turn.objects.get(outcome="answered")
    assert refused.status_code == 404
    assert both() == ({response.pk, Turn.objects.get(outcome="refused").pk}, {response.pk})


def test_a_housekeeping_call_is_found_too(http: httpx.Client) -> None:
    http.post(CHAT, json=question(messages=[user(prompts.OPEN_WEBUI_TITLE)]))

    assert found("chat title") == {Turn.objects.get(kind="housekeeping").pk}


def test_a_turn_that_another_process_ends_is_found_by_its_question_too(
    http: httpx.Client, served: LiveGateway, agent_server: FakeAgentServer, settings: Any
) -> None:
    settings.GATEWAY_SHUTDOWN_GRACE_SECONDS = 0.1
    gate = held_answer(agent_server)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(http.post, CHAT, json=question(messages=[user(ASKED)]))
        gate.wait_until_reached()
        eventually(lambda: Turn.objects.get().user_event_seq is not None)
        served.stop()
        Turn.objects.update(lease_expires_at=Now() - dt.timedelta(seconds=11))
        gate.open()
        assert found(ASKED) == set()

        assert tasks.recover_turns() == "1 turns taken over"

    assert found(f'{ASKED} "one two"') == {Turn.objects.get().pk}


@pytest.mark.parametrize("clocks", [{"keep_content_days": 30}, {"keep_content_days": 30, "keep_usage_days": 30}])
def test_what_is_no_longer_kept_is_no_longer_found(
    http: httpx.Client, agent_server: FakeAgentServer, clocks: dict[str, int]
) -> None:
    agent_server.script(Answer(f"The {ANSWERED}."))
    ask(http, user(ASKED))
    keep(**clocks)
    aged(31)
    agent_server.script(Answer("Of today."))
    ask(http, user("Something else"))

    retention.sweep()
    tasks.index_texts()

    assert both() == (set(), set())
    assert found("today else") == {Turn.objects.latest("opened_at").pk}
    assert [word for word in (*ASKED.split(), *ANSWERED.split()) if word in what_the_index_holds()] == []


def test_what_a_person_had_deleted_is_no_longer_found(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(f"The {ANSWERED}."))
    ask(http, user(ASKED), user="anna")
    agent_server.script(Answer("Of Bob."))
    ask(http, user("Something else"), user="bob")

    erase("anna")

    assert both() == (set(), set())
    assert TurnText.objects.count() == 1
    assert [word for word in (*ASKED.split(), *ANSWERED.split()) if word in what_the_index_holds()] == []
    assert found("bob") == {Turn.objects.get(end_user="bob").pk}


def test_two_keys_words_are_both_found(served: LiveGateway, http: httpx.Client) -> None:
    other = {"Authorization": f"Bearer {factories.api_key().text}"}

    ask(http, user(ASKED))
    ask(http, user(ASKED), headers=other)

    assert found(ASKED) == set(Turn.objects.values_list("pk", flat=True))
