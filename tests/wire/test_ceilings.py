"""What a key and its tenant may use at most, seen by a client."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest
from django.db.models import Sum
from django.utils import timezone

from chatgateway.models import DailyUsage, LedgerEntry, Turn
from profiles import access
from profiles.models import ApiKey, Profile, Tenant
from tests.fakes.agent_script import Answer, Fail, Gate, Step, Usage
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.waiting import eventually
from tests.wire.conftest import question
from tests.wire.test_chat import texts

CHAT = "/v1/chat/completions"
# With the factory's prices, 1 and 2 USD per million tokens: exactly one cent.
A_CENT = Usage(input=8000, output=1000)


def limit(model: type[ApiKey | Tenant] = ApiKey, **ceilings: object) -> None:
    model.objects.update(**{f"max_{name}": value for name, value in ceilings.items()})
    access.forget_all()


def ask(http: httpx.Client, **more: object) -> httpx.Response:
    return http.post(CHAT, json=question(**more))


def error_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# --- counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [ApiKey, Tenant])
def test_requests_per_minute(http: httpx.Client, model: type[ApiKey | Tenant]) -> None:
    limit(model, requests_per_minute=2)

    first, second, third = (ask(http) for _ in range(3))

    assert [first.headers["x-ratelimit-remaining-requests"], second.headers["x-ratelimit-remaining-requests"]] == [
        "1",
        "0",
    ]
    assert error_of(third) == (429, "rate_limit_exceeded")
    assert "2 requests per minute" in third.json()["error"]["message"]
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert third.headers["x-ratelimit-reset-requests"].endswith("s")
    # What was refused consumed nothing: as soon as the first is a minute old there is room for one.
    Turn.objects.filter(outcome="answered").update(opened_at=timezone.now() - dt.timedelta(seconds=61))
    assert ask(http).status_code == 200


def test_whichever_ceiling_refuses_a_call_says_what_is_left_of_the_others(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    limit(requests_per_minute=9, tokens_per_minute=50_000, usd_per_day=Decimal("0.01"))
    agent_server.script(Answer("One.", usage=A_CENT))

    first, no_money = ask(http), ask(http)
    limit(usd_per_day=None, open_turns=1)
    gate = Gate()
    agent_server.script(Answer("Two.", gate=gate))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, http)
        gate.wait_until_reached()
        too_many = ask(http)
        gate.open()

    def left(reply: httpx.Response) -> tuple[str, str]:
        return reply.headers["x-ratelimit-remaining-requests"], reply.headers["x-ratelimit-remaining-tokens"]

    # What is refused is not counted.
    assert [left(one) for one in (first, no_money, running.result(60), too_many)] == [
        ("8", "50000"),
        ("8", "41000"),
        ("7", "41000"),
        ("7", "41000"),
    ]
    assert error_of(no_money) == (429, "insufficient_quota")
    assert error_of(too_many) == (429, "rate_limit_exceeded")


def test_tokens_per_minute(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    limit(tokens_per_minute=5000)
    agent_server.script(Answer("One.", usage=A_CENT))

    first, second = ask(http), ask(http)

    assert first.status_code == 200
    assert error_of(second) == (429, "rate_limit_exceeded")
    assert second.headers["x-ratelimit-remaining-tokens"] == "0"
    LedgerEntry.objects.update(at=timezone.now() - dt.timedelta(seconds=61))
    assert ask(http).status_code == 200


def test_turns_at_once(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    limit(open_turns=1)
    gate = Gate()
    agent_server.script(Answer("One.", gate=gate))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, http)
        gate.wait_until_reached()

        second = ask(http)

        gate.open()
        assert first.result(60).status_code == 200
    assert error_of(second) == (429, "rate_limit_exceeded")
    assert ask(http).status_code == 200


def test_a_repeat_is_not_counted_again(http: httpx.Client) -> None:
    limit(requests_per_minute=1)
    headers = {"Idempotency-Key": "the same"}

    replies = [http.post(CHAT, json=question(), headers=headers) for _ in range(3)]

    assert [reply.status_code for reply in replies] == [200] * 3


# --- money ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("model", [ApiKey, Tenant])
def test_money_that_is_used_up(
    http: httpx.Client, agent_server: FakeAgentServer, model: type[ApiKey | Tenant], period: str
) -> None:
    limit(model, **{f"usd_per_{period}": Decimal("0.01")})
    agent_server.script(Answer("One.", usage=A_CENT))

    first, second = ask(http), ask(http)

    assert first.status_code == 200
    assert error_of(second) == (429, "insufficient_quota")
    assert second.headers["x-should-retry"] == "false"
    assert f"0.01 USD per {period}" in second.json()["error"]["message"]
    DailyUsage.objects.update(day=timezone.now().date() - dt.timedelta(days=40))
    assert ask(http).status_code == 200


def test_parallel_calls_do_not_overshoot_together(
    served: LiveGateway, http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    limit(usd_per_turn=Decimal("0.01"), usd_per_day=Decimal("0.03"))
    gate = Gate()
    for _ in range(3):
        agent_server.script(Answer("One.", gate=gate, usage=Usage(input=7000, output=1000)))
    headers = {"Authorization": f"Bearer {served.key}"}

    def call(number: int) -> httpx.Response:
        body = question(messages=[{"role": "user", "content": f"Question {number}"}], stream=number % 2 == 0)
        return httpx.post(f"{served.url}{CHAT}", json=body, headers=headers, timeout=100)

    with ThreadPoolExecutor(50) as pool:
        calls = [pool.submit(call, number) for number in range(50)]
        gate.wait_until_reached(by=3)
        eventually(lambda: Turn.objects.filter(outcome="refused").count() == 47)
        gate.open()
        replies = [one.result(100) for one in calls]

    refused = [reply for reply in replies if reply.status_code != 200]
    assert len(refused) == 47
    assert {error_of(reply) for reply in refused} == {(429, "rate_limit_exceeded")}
    assert "set aside" in refused[0].json()["error"]["message"]
    assert not Turn.objects.open().exists()


def test_a_hold_ends_with_its_turn_however_that_ends(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    limit(usd_per_turn=Decimal("0.01"), usd_per_day=Decimal("0.01"))
    agent_server.script(Fail.wrong_key())

    failed = ask(http)
    next_one = ask(http, messages=[{"role": "user", "content": "Another question"}])

    assert failed.status_code == 502
    assert next_one.status_code == 200


def test_a_turn_that_used_up_its_money_is_stopped(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    limit(usd_per_turn=Decimal("0.005"))
    gate = Gate()
    agent_server.script(Step(usage=A_CENT), Answer("Never said.", gate=gate))

    reply = ask(http)

    turn = Turn.objects.get()
    assert error_of(reply) == (429, "insufficient_quota")
    assert reply.headers["x-should-retry"] == "false"
    assert (turn.outcome, turn.cancel_reason, turn.cost_usd) == ("failed", "ceiling", Decimal("0.01"))


def test_what_an_agent_wrote_before_its_money_was_used_up_is_delivered(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    limit(usd_per_turn=Decimal("0.005"))
    Profile.objects.update(thoughts="content")
    gate = Gate()
    agent_server.script(Step(thought="So far.", usage=A_CENT), Answer("Never said.", gate=gate))

    reply = ask(http)

    [choice] = reply.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("So far.", "length")
    assert Turn.objects.get().outcome == "answered"
    # The agent's log has nothing of an answer that was cut: it is told what was seen of it.
    limit(usd_per_turn=None)
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "So far."},
        {"role": "user", "content": "Go on"},
    ]
    assert ask(http, messages=history).headers["X-Gateway-Conversation-Match"] == "history"
    told = texts(agent_server.only_conversation.posted[1])
    assert "So far." in told
    assert told.endswith("Go on")


def test_a_model_of_unknown_price_passes_no_ceiling_in_usd(http: httpx.Client) -> None:
    Profile.objects.update(input_price=None, output_price=None)
    limit(usd_per_day=Decimal(1))

    assert error_of(ask(http)) == (403, "price_unknown")

    limit(usd_per_day=None, requests_per_minute=100)
    assert ask(http).status_code == 200


def test_an_estimate_keeps_nobody_from_using_up_what_is_left(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("One.", usage=A_CENT), Answer("Two.", usage=Usage(input=100, output=10)))
    assert ask(http).status_code == 200  # such turns cost a cent

    limit(usd_per_day=Decimal("0.015"))

    assert ask(http).status_code == 200
    assert Turn.objects.order_by("arrival").last().held_usd == Decimal("0.005")


# --- the ledger -----------------------------------------------------------------------------------------------------


def test_the_ledger_is_the_turns_sum(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("One.", usage=A_CENT))
    agent_server.script(Answer("Two.", usage=Usage(input=150, output=10, cached=100)))
    agent_server.script(Fail.wrong_key())
    for _ in range(3):
        ask(http)
    ask(http, model="openhands_nobody")

    names = ("input_tokens", "output_tokens", "cost_usd")
    turns = Turn.objects.aggregate(**{name: Sum(name) for name in names})
    assert LedgerEntry.objects.aggregate(**{name: Sum(name) for name in names}) == turns
    assert DailyUsage.objects.aggregate(**{name: Sum(name) for name in names}) == turns
    assert DailyUsage.objects.get().turns == LedgerEntry.objects.count()


def test_the_ledger_outlives_the_turns(http: httpx.Client) -> None:
    ask(http)

    Turn.objects.all().delete()

    entry = LedgerEntry.objects.get()
    assert (entry.profile_slug, entry.input_tokens > 0) == ("chat", True)
