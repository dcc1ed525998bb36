"""What Prometheus reads at /metrics."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from chatgateway import metrics
from chatgateway.models import AgentServer, Turn
from gateway_project.logs import JsonFormatter
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.wire.conftest import question

CHAT = "/v1/chat/completions"
ROOT = Path(__file__).parents[2]


def read(url: str, **headers: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    reply = httpx.get(f"{url}/metrics", headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    families = text_string_to_metric_families(reply.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def test_a_turn_is_counted_with_its_tokens_and_times(served: LiveGateway, http: httpx.Client) -> None:
    before = read(served.url)

    http.post(CHAT, json=question()).raise_for_status()

    after = read(served.url)
    labels = {"outcome": "answered", "profile": "chat", "endpoint": "chat.completions"}
    assert value(after, "gateway_turns_total", **labels) == value(before, "gateway_turns_total", **labels) + 1
    turn = Turn.objects.get()
    for kind in ("input", "output"):
        grown = [value(samples, "gateway_tokens_total", profile="chat", kind=kind) for samples in (before, after)]
        assert grown[1] - grown[0] == getattr(turn, f"{kind}_tokens") > 0
    for name in ("gateway_turn_seconds_count", "gateway_first_text_seconds_count", "gateway_queue_wait_seconds_count"):
        assert value(after, name, profile="chat") == value(before, name, profile="chat") + 1


def test_a_refusal_is_counted_by_its_code_and_not_by_what_the_caller_wrote(
    served: LiveGateway, http: httpx.Client
) -> None:
    before = read(served.url)

    http.post(CHAT, json=question(model="openhands_of-my-own-making"))

    after = read(served.url)
    assert value(after, "gateway_errors_total", code="model_not_found") == (
        value(before, "gateway_errors_total", code="model_not_found") + 1
    )
    assert not any("of-my-own-making" in text for _, labels in after for _, text in labels)


def test_the_gauges_say_how_the_whole_gateway_stands(served: LiveGateway) -> None:
    AgentServer.objects.update(name="one", capacity=7, health="up")
    # A turn of a process that lives elsewhere, by its lease.
    turn = Turn.objects.create(lease_expires_at=timezone.now() + dt.timedelta(hours=1), lease_owner="elsewhere")

    samples = read(served.url)

    assert value(samples, "gateway_open_turns", phase="queued") == 1
    assert value(samples, "gateway_queue_oldest_seconds") >= 0
    assert value(samples, "gateway_agent_server_slots", server="one") == 7
    assert value(samples, "gateway_agent_server_up", server="one") == 1
    assert value(samples, "gateway_database_up") == 1
    turn.delete()


def test_without_a_token_only_this_machine_reads_them(served: LiveGateway) -> None:
    assert httpx.get(f"{served.url}/metrics").status_code == 200

    # A proxy beside the gateway says for whom it asks.
    for header in ("X-Forwarded-For", "Forwarded", "Via"):
        reply = httpx.get(f"{served.url}/metrics", headers={header: "for=203.0.113.9"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "permission_denied")


def test_with_a_token_whoever_has_it_reads_them(served: LiveGateway, settings) -> None:
    settings.GATEWAY_METRICS_TOKEN = "a token of the operator's"

    assert httpx.get(f"{served.url}/metrics").status_code == 401
    assert httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {served.key}"}).status_code == 401
    read(served.url, **{"Authorization": "Bearer a token of the operator's", "X-Forwarded-For": "203.0.113.9"})


class Keeping(logging.Handler):
    def __init__(self, found: list[logging.LogRecord]) -> None:
        super().__init__()
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []
    handler = Keeping(found)
    logger = logging.getLogger(metrics.__name__)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield found
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_turn_leaves_one_log_line_without_what_was_said(
    served: LiveGateway, http: httpx.Client, agent_server: FakeAgentServer, lines: list[logging.LogRecord]
) -> None:
    agent_server.script(Answer("The secret plan."))

    reply = http.post(CHAT, json=question(messages=[{"role": "user", "content": "Tell me the plan"}]))

    [record] = lines
    line = json.loads(JsonFormatter().format(record))
    assert line["request_id"] == reply.headers["x-request-id"]
    assert (line["outcome"], line["status"], line["profile"]) == ("answered", 200, "chat")
    assert "plan" not in json.dumps(line)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"gateway_[a-z_]+", text))


def test_the_dashboard_and_the_docs_name_metrics_that_exist(served: LiveGateway) -> None:
    served_names = set(re.findall(r"^# TYPE (\S+)", metrics.exposition().decode(), re.MULTILINE))
    served_names = {name for name in served_names if not name.endswith("_created")}

    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    asked = names_in(" ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]))
    assert {re.sub(r"_bucket$", "", name) for name in asked} - served_names == set()
    rows = re.findall(r"^\| `(gateway_[a-z_]+)` \|", (ROOT / "docs/how-to/monitor.md").read_text(), re.MULTILINE)
    assert {name for name in served_names if not name.startswith("gateway_process_")} == set(rows)
