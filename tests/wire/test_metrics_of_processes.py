"""`GET /metrics` of two gateway processes: what is counted adds up to the record, and the gauges say the same at both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from django.db.models import Sum

from chatgateway.models import Attempt, Turn
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.faults.processes import GatewayProcess
from tests.waiting import eventually
from tests.wire.conftest import question
from tests.wire.test_metrics import read

CHAT = "/v1/chat/completions"


@pytest.fixture
def clients(transactional_db: None, agent_server: FakeAgentServer, tmp_path: Path) -> Iterator[list[httpx.Client]]:
    """A client at each of two gateways, with one key."""
    factories.agent_server(
        name="one", url=agent_server.url, session_api_key=agent_server.session_api_key, health="up", capacity=9
    )
    factories.profile(slug="chat")
    headers = {"Authorization": f"Bearer {factories.api_key().text}"}
    started = [GatewayProcess(data_dir=tmp_path) for _ in range(2)]
    opened = [httpx.Client(base_url=one.wait_until_ready().url, headers=headers, timeout=100) for one in started]
    yield opened
    for http, process in zip(opened, started, strict=True):
        http.close()
        process.kill()


def added_up(clients: list[httpx.Client]) -> Counter[tuple[str, frozenset[tuple[str, str]]]]:
    total: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
    for http in clients:
        total.update(read(str(http.base_url).rstrip("/")))
    return total


def test_counters_of_two_processes_add_up_to_the_record(
    clients: list[httpx.Client], agent_server: FakeAgentServer
) -> None:
    first, second = clients
    for http in (first, first, second):
        assert http.post(CHAT, json=question()).status_code == 200
    agent_server.script(Fail.wrong_key())
    assert second.post(CHAT, json=question()).status_code == 502
    assert second.post(CHAT, json={"model": "openhands_chat"}).status_code == 400

    total = added_up(clients)

    def turns(outcome: str) -> float:
        name = "gateway_turns_total"
        return sum(n for (of, labels), n in total.items() if of == name and ("outcome", outcome) in labels)

    outcomes = Counter(Turn.objects.values_list("outcome", flat=True))
    assert {outcome: turns(outcome) for outcome in outcomes} == outcomes == {"answered": 3, "failed": 1, "refused": 1}
    sums = Turn.objects.aggregate(tokens=Sum("input_tokens"), usd=Sum("cost_usd"))
    assert total["gateway_tokens_total", frozenset({("profile", "chat"), ("kind", "input")})] == sums["tokens"]
    assert total["gateway_cost_usd_total", frozenset({("profile", "chat")})] == pytest.approx(float(sums["usd"]))
    assert total["gateway_turn_seconds_count", frozenset({("profile", "chat")})] == 4


def test_a_repeat_that_joins_at_the_other_process_is_counted_there_and_the_turn_once(
    clients: list[httpx.Client], agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.script(Answer("one two three", gate=gate, hold_after=1))
    key = {"Idempotency-Key": "the same"}
    pool = ThreadPoolExecutor(2)
    asking = [pool.submit(http.post, CHAT, json=question(), headers=key) for http in clients]
    gate.wait_until_reached()
    eventually(lambda: Attempt.objects.count() == 2)

    per_process = [read(str(http.base_url).rstrip("/")) for http in clients]
    for samples in per_process:  # the same, whoever is asked
        assert samples["gateway_open_turns", frozenset({("phase", "running")})] == 1
        assert samples["gateway_agent_server_slots_used", frozenset({("server", "one")})] == 1
        assert samples["gateway_agent_server_slots", frozenset({("server", "one")})] == 9
    gate.open()
    replies = [one.result(60) for one in asking]
    pool.shutdown()

    assert [reply.json()["choices"][0]["message"]["content"] for reply in replies] == ["one two three"] * 2
    assert replies[0].json()["id"] == replies[1].json()["id"]
    eventually(lambda: not Turn.objects.open().exists())
    total = added_up(clients)
    answered = {("outcome", "answered"), ("profile", "chat"), ("endpoint", "chat.completions")}
    assert total["gateway_turns_total", frozenset(answered)] == 1
    assert total["gateway_joined_requests_total", frozenset()] == 1
