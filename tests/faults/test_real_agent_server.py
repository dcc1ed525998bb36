"""The real agent-server is killed in mid-run, with an LLM behind it that holds its answer."""

from __future__ import annotations

import signal

import pytest

from tests.faults import calls
from tests.faults.site import Site
from tests.live.agent_process import AgentServerProcess
from tests.live.scripted_llm import Answer, ScriptedLlm

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]


def marked(token: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {token}? #script:{token}"}]


@pytest.mark.scenario("kill -9 of the real agent-server in mid-run; it comes back")
def test_a_real_run_that_died_with_its_server_is_reported_and_its_conversation_goes_on(
    site: Site, real_llm: ScriptedLlm, real_agent_server: AgentServerProcess
) -> None:
    gateway = site.gateway()
    collected, streamed, later = calls.new_token(), calls.new_token(), calls.new_token()
    for token in (collected, streamed):
        real_llm.script(token, Answer(chunks=("The answer", f" to {token} is {token}."), hold_after=1))
    real_llm.script(later, Answer(text=calls.answer_to(later)))
    asking = [
        site.asking(gateway.url, token=collected, messages=marked(collected)),
        site.asking(gateway.url, token=streamed, messages=marked(streamed), stream=True),
    ]
    real_llm.wait_for(lambda one: one.script == collected and one.pieces_sent == 1)
    real_llm.wait_for(lambda one: one.script == streamed and one.pieces_sent == 1)
    real_agent_server.end(signal.SIGKILL)
    real_agent_server.start()

    told = [one.result(60).told for one in asking]
    again = site.ask(gateway.url, token=later, messages=marked(later))

    assert [one.code for one in told] == ["agent_error", "agent_error"]
    assert again.text == calls.answer_to(later)
    site.settle(failed=2, answered=1)
