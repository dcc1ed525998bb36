"""The LLM provider behind an agent fails, hangs, or breaks off."""

from __future__ import annotations

import pytest

from profiles.models import Profile
from tests.fakes.agent_script import Answer, Fail, Hang, Retried
from tests.faults import calls
from tests.faults.site import Site

PROVIDERS = {"429": Fail.rate_limit(), "500": Fail.unavailable()}


@pytest.mark.scenario("The LLM provider answers 429 or 500 for a while")
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_a_provider_that_fails_for_a_while_costs_time_and_no_second_run(
    site: Site, provider: str, stream: bool
) -> None:
    Profile.objects.update(llm_retries=2)
    agent = site.agent()
    gateway = site.gateway()
    site.plays(lambda token: [PROVIDERS[provider], Answer(calls.answer_to(token))])

    site.ask(gateway.url, stream=stream)

    site.settle(answered=1)
    assert len(agent.calls("POST", "/run")) == 1


@pytest.mark.scenario("The LLM provider answers 429 or 500 for longer than the profile tries")
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_a_provider_that_does_not_recover_is_reported_once(site: Site, provider: str, stream: bool) -> None:
    Profile.objects.update(llm_retries=1)
    site.agent()
    gateway = site.gateway()
    site.plays(lambda _: [PROVIDERS[provider]] * 5)

    call = site.ask(gateway.url, stream=stream)

    assert call.told is not None
    assert call.told.code == {"429": "rate_limit_exceeded", "500": "upstream_error"}[provider]
    site.settle(failed=1)


@pytest.mark.scenario("The LLM hangs")
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_an_llm_that_hangs_is_given_up_at_the_profiles_time_limit(site: Site, stream: bool) -> None:
    Profile.objects.update(time_limit_seconds=2)
    agent = site.agent()
    gateway = site.gateway()
    site.plays(lambda _: [Hang()])

    call = site.ask(gateway.url, stream=stream)

    assert call.told is not None
    assert call.told.code == "agent_timeout"
    assert stream or (call.told.status, call.told.headers["x-should-retry"]) == (504, "false")
    site.settle(timed_out=1)
    assert agent.only_conversation.interrupts > 0


@pytest.mark.scenario("The LLM's stream breaks off and is begun again")
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_a_broken_llm_stream_that_is_begun_again_is_an_answer(site: Site, stream: bool) -> None:
    site.agent()
    gateway = site.gateway()
    site.plays(lambda token: [Retried(streamed="The answer"), Answer(calls.answer_to(token))])

    call = site.ask(gateway.url, stream=stream)

    assert call.text.endswith(calls.answer_to(call.token))
    site.settle(answered=1)


@pytest.mark.scenario("The LLM's stream is cut")
@pytest.mark.parametrize("stream", [False, True], ids=["collected", "streamed"])
def test_a_cut_llm_stream_is_an_error_and_no_second_run(site: Site, stream: bool) -> None:
    Profile.objects.update(llm_retries=2)
    site.agent()
    gateway = site.gateway()
    site.plays(lambda _: [Fail.unavailable(streamed="The answer to")] * 3)

    call = site.ask(gateway.url, stream=stream)

    assert call.told is not None
    assert call.told.code == "upstream_error"
    site.settle(failed=1)
