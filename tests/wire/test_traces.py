"""OpenTelemetry traces, as a collector gets them from a gateway process."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from django.db.models.functions import Now
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from chatgateway.models import Turn
from tests import factories
from tests.fakes.agent_script import Answer, Fail, Gate, Usage
from tests.fakes.agent_server import FakeAgentServer
from tests.fakes.otlp_receiver import OtlpReceiver, attributes_of
from tests.faults.processes import ROOT, GatewayProcess, environment
from tests.waiting import eventually
from tests.wire.conftest import question

CHAT = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver().start()
    yield receiver
    receiver.stop()


class Traced:
    """Gateway processes that send their traces, one agent-server, one profile (`chat`), one key."""

    def __init__(self, directory: Path, agent_server: FakeAgentServer, endpoint: str) -> None:
        factories.agent_server(url=agent_server.url, session_api_key=agent_server.session_api_key)
        factories.profile(slug="chat")
        self._directory = directory
        self._endpoint = endpoint
        self.headers = {"Authorization": f"Bearer {factories.api_key().text}"}
        self.processes: list[GatewayProcess] = []

    def gateway(self) -> GatewayProcess:
        process = GatewayProcess(data_dir=self._directory, OTEL_EXPORTER_OTLP_ENDPOINT=self._endpoint)
        self.processes.append(process)
        return process.wait_until_ready()

    def ask(self, gateway: GatewayProcess, **headers: str) -> httpx.Response:
        return httpx.post(
            f"{gateway.url}{CHAT}",
            json=question(messages=[{"role": "user", "content": "The secret question"}]),
            headers=self.headers | headers,
            timeout=60,
        )

    def end(self) -> None:
        """Every process ends, and has then sent what it had."""
        for process in self.processes:
            process.end()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()


@pytest.fixture
def traced(
    transactional_db: None, tmp_path: Path, agent_server: FakeAgentServer, collector: OtlpReceiver
) -> Iterator[Traced]:
    made = Traced(tmp_path, agent_server, collector.url)
    yield made
    made.kill()


def test_a_turn_is_part_of_its_callers_trace_and_tells_no_text(
    traced: Traced, collector: OtlpReceiver, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Answer("The secret answer.", usage=Usage(input=1200, output=34)))

    reply = traced.ask(traced.gateway(), **TRACEPARENT)
    traced.end()

    assert reply.status_code == 200
    turn = Turn.objects.get()
    request, asked, run = map(collector.named, (f"POST {CHAT}", "invoke_agent chat", "run on agent-server"))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert request.parent_span_id.hex() == CALLER
    assert (asked.parent_span_id, run.parent_span_id) == (request.span_id, asked.span_id)
    assert request.start_time_unix_nano <= asked.start_time_unix_nano <= run.start_time_unix_nano
    assert run.end_time_unix_nano <= asked.end_time_unix_nano
    assert [request.kind, asked.kind, run.kind] == [
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_INTERNAL,
        Span.SPAN_KIND_CLIENT,
    ]
    assert [event.name for event in run.events] == ["message accepted", "first text"]
    told = attributes_of(asked)
    assert (
        told
        | {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "chat",
            "gen_ai.conversation.id": str(turn.conversation_id),
            "gen_ai.request.model": "openhands_chat",
            "gen_ai.response.id": reply.json()["id"],
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.usage.input_tokens": 1200,
            "gen_ai.usage.output_tokens": 34,
            "gateway.turn.id": str(turn.pk),
            "gateway.turn.outcome": "answered",
            "gateway.request.id": reply.headers["x-request-id"],
        }
        == told
    )
    assert attributes_of(request)["http.response.status_code"] == 200
    assert collector.services == {"openhands-gateway"}
    assert not [body for body in collector.bodies if b"secret" in body]
    assert f"trace_id={TRACE}" in traced.processes[0].output()


def test_a_failed_turn_is_an_error_with_its_code(
    traced: Traced, collector: OtlpReceiver, agent_server: FakeAgentServer
) -> None:
    agent_server.script(Fail.wrong_key())

    reply = traced.ask(traced.gateway())
    traced.end()

    asked, request = collector.named("invoke_agent chat"), collector.named(f"POST {CHAT}")
    assert asked.status.code == request.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(asked)["error.type"] == reply.json()["error"]["code"]
    assert attributes_of(request)["http.response.status_code"] == reply.status_code == 502


def test_probes_and_scrapes_are_not_traced(traced: Traced, collector: OtlpReceiver) -> None:
    gateway = traced.gateway()

    for path in ("/health", "/ready", "/metrics"):
        httpx.get(f"{gateway.url}{path}", timeout=30)
    httpx.get(f"{gateway.url}/v1/models", headers=traced.headers, timeout=30)
    traced.end()

    assert [span.name for span in collector.spans] == ["GET /v1/models"]


def test_a_repeated_request_has_a_span_of_its_own_that_points_to_the_turn(
    traced: Traced, collector: OtlpReceiver
) -> None:
    gateway = traced.gateway()
    key = {"Idempotency-Key": "the same call"}

    traced.ask(gateway, **key, **TRACEPARENT)
    traced.ask(gateway, **key)
    traced.end()

    first, second = (span for span in collector.spans if span.name == f"POST {CHAT}")
    [link] = second.links
    assert (link.trace_id.hex(), link.span_id) == (TRACE, first.span_id)
    assert second.trace_id.hex() != TRACE
    assert collector.named("invoke_agent chat").parent_span_id == first.span_id


def test_a_turn_that_another_process_takes_over_stays_in_its_trace(
    traced: Traced, collector: OtlpReceiver, agent_server: FakeAgentServer
) -> None:
    gate = Gate()
    agent_server.script(Answer("After the crash.", gate=gate))
    first = traced.gateway()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(traced.ask, first, **TRACEPARENT)
        gate.wait_until_reached()
        eventually(lambda: Turn.objects.filter(phase="running").exists())
        first.kill()
        assert isinstance(asking.exception(60), httpx.HTTPError)
    Turn.objects.update(lease_expires_at=Now() - dt.timedelta(seconds=1))
    traced.gateway()
    eventually(lambda: Turn.objects.filter(lease_generation=2).exists(), timeout_seconds=60)
    gate.open()
    eventually(lambda: Turn.objects.filter(outcome="answered").exists(), timeout_seconds=60)
    traced.end()

    asked = collector.named("invoke_agent chat")
    assert asked.trace_id.hex() == TRACE
    assert attributes_of(asked)["gateway.turn.outcome"] == "answered"


def test_a_collector_that_is_gone_costs_no_turn_and_no_end(
    traced: Traced, collector: OtlpReceiver, agent_server: FakeAgentServer
) -> None:
    gateway = traced.gateway()
    collector.stop()

    assert [traced.ask(gateway).status_code for _ in range(3)] == [200, 200, 200]

    assert gateway.end(within_seconds=60) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")]
)
def test_what_could_not_be_sent_is_refused_at_the_start(tmp_path: Path, name: str, value: str) -> None:
    ended = manage("check", tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317", **{name: value})

    assert ended.returncode == 2
    assert f"{name}={value!r}" in ended.stderr


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}],
)
def test_without_a_collector_nothing_of_it_is_loaded(tmp_path: Path, variables: dict[str, str]) -> None:
    look = "import sys, gateway_project.asgi; sys.exit([name for name in sys.modules if 'opentelemetry' in name] or 0)"

    ended = subprocess.run(
        [sys.executable, "-c", look],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "GATEWAY_READ_DOTENV": "false", "GATEWAY_DATA_DIR": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr


def manage(command: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", command],
        cwd=ROOT,
        env=environment(directory) | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
