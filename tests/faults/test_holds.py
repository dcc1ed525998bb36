"""What a key's open turns hold of its ceilings when processes die: nothing is lost, and nothing stays held.

Every way to call takes part: chat streamed and collected, Responses streamed and collected, and in the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
from django.db.models import Sum

from chatgateway.models import DailyUsage, LedgerEntry, Turn
from profiles.models import ApiKey
from tests.fakes.agent_script import Answer, Gate, Usage
from tests.faults import calls
from tests.faults.processes import GatewayProcess
from tests.faults.site import Site
from tests.waiting import eventually

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
# Path and body of each way to call, for a question.
KINDS: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "chat, collected": lambda token: (CHAT, {"messages": calls.question(token)}),
    "chat, streamed": lambda token: (CHAT, {"messages": calls.question(token), "stream": True}),
    "responses, collected": lambda token: (RESPONSES, {"input": calls.question(token)}),
    "responses, streamed": lambda token: (RESPONSES, {"input": calls.question(token), "stream": True}),
    "responses, background": lambda token: (RESPONSES, {"input": calls.question(token), "background": True}),
}
PER_TURN = Decimal("0.01")
# With the factory's prices, 1 and 2 USD per million tokens.
USAGE = Usage(input=1000, output=500)
COST = Decimal("0.002")
# A key's row is believed for so long by default; here what a test changes counts at once.
UNCACHED = {"GATEWAY_CACHE_SECONDS": "0"}
LOST = -1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(50) as threads:
        yield threads


class Callers:
    """Whoever calls with the site's one key, once, and reads the reply to its end."""

    def __init__(self, site: Site, pool: ThreadPoolExecutor) -> None:
        self._headers = {"Authorization": f"Bearer {site.key}"}
        self._pool = pool

    def ask(self, gateway: GatewayProcess, kind: str) -> Future[tuple[int, str]]:
        """The status, LOST if the line went dead, and the reply."""
        return self._pool.submit(self._ask, gateway.url, *KINDS[kind](calls.new_token()))

    def _ask(self, url: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
        asked = body | {"model": calls.MODEL}
        try:
            reply = httpx.post(url + path, json=asked, headers=self._headers, timeout=100)
        except httpx.HTTPError as error:
            return LOST, repr(error)
        return reply.status_code, reply.text


def waiting(site: Site) -> Gate:
    """Have every agent stop at the gate and then cost what is said above."""
    gate = Gate()
    site.plays(lambda token: [Answer(calls.answer_to(token), gate=gate, hold_after=2, usage=USAGE)])
    return gate


def enough_for(turns: int) -> None:
    """Give the key money for so many turns at once, and no more than so many at once."""
    ApiKey.objects.update(
        max_usd_per_turn=PER_TURN, max_usd_per_day=turns * PER_TURN + PER_TURN / 2, max_open_turns=turns
    )


def assert_refused(callers: Callers, gateway: GatewayProcess) -> None:
    status, text = callers.ask(gateway, "chat, collected").result(60)
    assert status == 429, text
    assert "rate_limit_exceeded" in text


def assert_settled(turns: int) -> None:
    """The record, the ledger and the day's sum all say what the turns really cost."""
    cost = turns * COST
    assert Turn.objects.aggregate(usd=Sum("cost_usd"))["usd"] == cost
    assert LedgerEntry.objects.aggregate(usd=Sum("cost_usd"))["usd"] == cost
    assert DailyUsage.objects.get().cost_usd == cost
    assert not Turn.objects.open().filter(held_usd__isnull=False).exists()


@pytest.mark.scenario("kill -9 of whoever drives turns of a key with ceilings, each way to call")
@pytest.mark.parametrize("dies", ["gateway", "gateway and worker"])
def test_a_killed_process_leaks_no_hold(site: Site, pool: ThreadPoolExecutor, dies: str) -> None:
    agent = site.agent()
    enough_for(len(KINDS))
    gate = waiting(site)
    first, second = (site.gateway(is_ready=False, **UNCACHED) for _ in range(2))
    callers = Callers(site, pool)
    first.wait_until_ready()
    asking = [callers.ask(first, kind) for kind in KINDS]
    gate.wait_until_reached(by=len(KINDS))
    eventually(lambda: Turn.objects.open().filter(user_event_seq__isnull=False).count() == len(KINDS))
    second.wait_until_ready()
    first.kill()
    for one in asking:
        one.result(60)
    if dies == "gateway and worker":
        second.kill()
        worker = site.worker()
        site.let_leases_run_out(by_seconds=60)
        worker.run("chatgateway.tasks.recover_turns")
        eventually(lambda: Turn.objects.open().filter(lease_generation=2).count() == len(KINDS))
        worker.kill()
        second = site.gateway(**UNCACHED)

    # Whoever drives them, or nobody: they are open, and hold what they may cost.
    assert_refused(callers, second)
    ApiKey.objects.update(max_open_turns=None)
    assert_refused(callers, second)
    enough_for(len(KINDS))
    site.let_leases_run_out()
    gate.open()
    agent.wait_until(lambda: agent.running == 0)
    eventually(lambda: Turn.objects.filter(outcome="answered").count() == len(KINDS))

    assert_settled(len(KINDS))
    ApiKey.objects.update(max_usd_per_day=len(KINDS) * COST + PER_TURN * 2, max_open_turns=1)
    for kind in KINDS:
        status, text = callers.ask(second, kind).result(60)
        assert status == 200, text
        eventually(lambda: not Turn.objects.open().exists())  # one in the background goes on after its reply
    assert_settled(2 * len(KINDS))
    site.settle(answered=2 * len(KINDS))


@pytest.mark.scenario("50 calls at once at two web processes, with money for 3 turns")
@pytest.mark.parametrize("kind", [*KINDS, "all of them"])
def test_parallel_calls_never_begin_more_turns_than_there_is_money_for(
    site: Site, pool: ThreadPoolExecutor, kind: str
) -> None:
    agent = site.agent(capacity=50)
    enough_for(3)
    ApiKey.objects.update(max_open_turns=None)
    gate = waiting(site)
    gateways = [site.gateway(is_ready=False, **UNCACHED) for _ in range(2)]
    callers = Callers(site, pool)
    for one in gateways:
        one.wait_until_ready()
    kinds = list(KINDS) if kind == "all of them" else [kind]

    asking = [callers.ask(gateways[number % 2], kinds[number % len(kinds)]) for number in range(50)]
    gate.wait_until_reached(by=3)
    eventually(lambda: Turn.objects.filter(outcome="refused").count() == 47)
    begun = sum(len(one.posted) for one in agent.conversations.values())
    gate.open()
    replies = [one.result(100) for one in asking]

    assert begun == 3
    assert sorted(status for status, _ in replies) == [200] * 3 + [429] * 47
    assert all("set aside" in text for status, text in replies if status == 429)
    eventually(lambda: not Turn.objects.open().exists())
    assert_settled(3)
    site.settle(answered=3)
