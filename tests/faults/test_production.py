"""Production as the page on it has it: PostgreSQL, a broker, two web processes, two workers, beat, three agent-servers.

One of each goes while calls come in. Nobody's call fails: what is refused says when to come again, and the proxy sends
it to the process that is left.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from django.utils import timezone

from chatgateway.models import AgentServer, TaskRun, Turn
from tests.fakes.agent_server import FakeAgentServer
from tests.faults import calls
from tests.faults.calls import Call
from tests.faults.site import Site, lasting
from tests.requirements import need
from tests.waiting import eventually

# Where the brokers are that .ci/run starts, or yours: a Redis database and a RabbitMQ virtual host that nobody uses.
BROKERS = {"redis": "GATEWAY_TEST_REDIS_URL", "rabbitmq": "GATEWAY_TEST_AMQP_URL"}
CALLERS = 12
FIRST, AFTER = 72, 24
RUN_SECONDS = 0.6
MOST_REFUSALS = 500
# On a machine with much else to do a turn takes seconds; a stream that outlasts the grace is told so, and not repeated.
GRACE_SECONDS = "40"
# Until a process has read again which agent-servers there are.
NOTICE_SECONDS = 6.0
SWEEP = "chatgateway.tasks.probe_servers"

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("postgres")]


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.full)])
def broker(request: pytest.FixtureRequest) -> str:
    url = os.environ.get(BROKERS[request.param], "")
    need(bool(url), request.param, f"set {BROKERS[request.param]} to a broker that nobody else uses")
    return url


class Front:
    """A proxy and OpenAI's SDK behind it, as far as the gateways can tell: each call goes to the next process; where it
    is refused with a time to come again, or nobody listens any more, it goes to another one then, and says that it does
    so. One that a process handed over has been begun: not marked as a repeat, it would be another call."""

    def __init__(self, site: Site, urls: list[str]) -> None:
        self._site, self._urls = site, urls
        self._turn = count()
        self.refusals: list[str] = []
        self._pool = ThreadPoolExecutor(CALLERS, thread_name_prefix="front")

    def ask_all(self, number: int) -> list[Future[Call]]:
        return [self._pool.submit(self._ask) for _ in range(number)]

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self) -> Call:
        token, number, tries = calls.new_token(), next(self._turn), 0
        stream = number % 4 < 2
        call = self._send(token, number, stream=stream, tries=tries)
        while (pause := _told_to_come_again(call)) is not None and len(self.refusals) < MOST_REFUSALS:
            self.refusals.append(call.told.code or call.told.kind)
            time.sleep(min(pause, 1.0))
            tries += 1
            call = self._send(token, number + tries, stream=stream, tries=tries)
        self._site.calls.append(call)
        return call

    def _send(self, token: str, number: int, *, stream: bool, tries: int) -> Call:
        repeated = {"X-Stainless-Retry-Count": str(tries)}  # as the SDK itself counts, at one address
        with self._site.client(self._urls[number % len(self._urls)], max_retries=0) as client:
            return calls.ask(client, token, stream=stream, extra_headers=repeated)


def _told_to_come_again(call: Call) -> float | None:
    if call.told is None:
        return None
    if call.told.kind == "APIConnectionError":
        return 0.1  # nobody listened, or the line went dead
    return float(call.told.headers["retry-after"]) if call.told.status in {429, 503} else None


def runs_of(agent: FakeAgentServer) -> int:
    return sum(len(one.posted) for one in (*agent.conversations.values(), *agent.deleted))


def sweeps_since(moment: dt.datetime) -> Any:
    return TaskRun.objects.filter(name=SWEEP, outcome="done", finished_at__gt=moment).first()


@pytest.mark.scenario("Production: a web process ends, a worker is killed, a server is drained")
def test_one_of_each_goes_and_no_call_fails(site: Site, broker: str) -> None:
    agents = [site.agent() for _ in range(3)]
    site.plays(lasting(RUN_SECONDS))
    settings = {"GATEWAY_CELERY_BROKER_URL": broker}
    webs = [site.gateway(GATEWAY_SHUTDOWN_GRACE_SECONDS=GRACE_SECONDS, **settings) for _ in range(2)]
    workers = [site.worker(f"worker-{number}", has_beat=False, **settings) for number in (1, 2)]
    site.beat(**settings)
    front = Front(site, [web.url for web in webs])

    asked = front.ask_all(FIRST)
    eventually(lambda: Turn.objects.filter(outcome="answered").count() >= FIRST // 6)
    AgentServer.objects.filter(url=agents[0].url).update(state=AgentServer.State.DRAINING)
    drained_at = time.monotonic()
    workers[0].kill()
    killed_at = timezone.now()
    eventually(lambda: Turn.objects.filter(outcome="answered").count() >= FIRST // 3)
    webs[0].send(signal.SIGTERM)
    answered = [future.result(120) for future in asked]
    time.sleep(max(0.0, drained_at + NOTICE_SECONDS - time.monotonic()))
    on_the_drained = runs_of(agents[0])
    answered += [future.result(120) for future in front.ask_all(AFTER)]
    front.close()

    assert [call.told for call in answered if not call.is_answered] == []
    assert webs[0].end() == -signal.SIGTERM  # by the signal, and not by ours that follows an impatient minute
    assert {agent.url: runs_of(agent) > 0 for agent in agents} == dict.fromkeys((agent.url for agent in agents), True)
    assert runs_of(agents[0]) == on_the_drained
    assert eventually(lambda: sweeps_since(killed_at + dt.timedelta(seconds=5)))
    balance = site.settle(answered=FIRST + AFTER)
    assert (balance.told, balance.cut) == (0, 0)
