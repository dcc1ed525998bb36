"""The LLM provider behind an agent fails, hangs, or breaks off."""

from __future__ import annotations

import pytest

from profiles.models import Profile
from tests.fakes.agent_script import Answer, Fail, Hang, Retried
from tests.faults import calls
from tests.faults.processes import GatewayProcess
from tests.faults.site import Site

PROVIDERS = pytest.mark.parametrize(
    ("failure", "code"),
    [(Fail.rate_limit(), "rate_limit_exceeded"), (Fail.unavailable(), "upstream_error")],
    ids=["429", "500"],
)


@pytest.fixture
def gateway(site: Site) -> GatewayProcess:
    """With one agent-server; its profile tries a failed LLM call once more."""
    Profile.objects.update(llm_retries=1)
    site.agent()
    return site.gateway()


@pytest.mark.scenario("The LLM provider answers 429 or 500 for a while")
@PROVIDERS
def test_a_provider_that_fails_for_a_while_costs_time_and_no_second_run(
    site: Site, gateway: GatewayProcess, failure: Fail, code: str
) -> None:
    site.plays(lambda token: [failure, Answer(calls.answer_to(token))])

    made = [one.result(60) for one in site.asking_both(gateway.url)]

    assert all(call.is_answered for call in made)
    site.settle(answered=2)
    assert len(site.agents[0].calls("POST", "/run")) == 2


@pytest.mark.scenario("The LLM provider answers 429 or 500 for longer than the profile tries")
@PROVIDERS
def test_a_provider_that_does_not_recover_is_reported_once(
    site: Site, gateway: GatewayProcess, failure: Fail, code: str
) -> None:
    site.plays(lambda _: [failure] * 5)

    collected, streamed = (one.result(60).told for one in site.asking_both(gateway.url))

    assert (collected.code, streamed.code) == (code, code)
    assert collected.headers["x-should-retry"] == "false"
    site.settle(failed=2)


@pytest.mark.scenario("The LLM hangs")
def test_an_llm_that_hangs_is_given_up_at_the_profiles_time_limit(site: Site, gateway: GatewayProcess) -> None:
    Profile.objects.update(time_limit_seconds=2)
    site.plays(lambda _: [Hang()])

    collected, streamed = (one.result(60).told for one in site.asking_both(gateway.url))

    assert (collected.status, collected.headers["x-should-retry"]) == (504, "false")
    assert (collected.code, streamed.code) == ("agent_timeout", "agent_timeout")
    site.settle(timed_out=2)
    assert all(one.interrupts > 0 for one in site.agents[0].conversations.values())


@pytest.mark.scenario("The LLM's stream breaks off and is begun again")
def test_a_broken_llm_stream_that_is_begun_again_is_an_answer(site: Site, gateway: GatewayProcess) -> None:
    site.plays(lambda token: [Retried(streamed="The answer"), Answer(calls.answer_to(token))])

    collected, streamed = (one.result(60) for one in site.asking_both(gateway.url))

    assert collected.text == calls.answer_to(collected.token)
    assert streamed.text.endswith(calls.answer_to(streamed.token))  # what was sent cannot be taken back
    site.settle(answered=2)


@pytest.mark.scenario("The LLM's stream is cut")
def test_a_cut_llm_stream_is_an_error_and_no_second_run(site: Site, gateway: GatewayProcess) -> None:
    site.plays(lambda _: [Fail.unavailable(streamed="The answer to")] * 3)

    collected, streamed = (one.result(60).told for one in site.asking_both(gateway.url))

    assert (collected.code, streamed.code) == ("upstream_error", "upstream_error")
    site.settle(failed=2)
