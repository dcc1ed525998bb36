"""The gateway is killed while a real agent writes a response in the background, and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai.types.responses import ResponseStreamEvent

from chatgateway.models import Turn
from profiles.models import Profile
from tests.faults import calls
from tests.faults.reading import read_until_it_breaks
from tests.faults.site import Site
from tests.live.agent_process import AgentServerProcess
from tests.live.scripted_llm import Answer, ScriptedLlm, terminal

pytestmark = pytest.mark.live


@pytest.fixture
def site(transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """As for the scenarios of the table, which counts chats."""
    made = Site(directory=tmp_path, scenario="", balances=[])
    yield made
    made.close()


def test_a_real_agents_response_is_taken_up_at_the_next_number_after_a_restart(
    site: Site, real_llm: ScriptedLlm, real_agent_server: AgentServerProcess
) -> None:
    Profile.objects.update(tools=["terminal"], answer_holdback_chars=5)
    first = site.gateway()
    token = calls.new_token()
    real_llm.script(
        token,
        Answer(text="I look.", tool_calls=(terminal("echo here"),)),
        Answer(chunks=("The answer", f" to {token} is {token}."), hold_after=1),
    )
    asked = f"What is {token}? #script:{token}"
    seen: list[ResponseStreamEvent] = []
    with site.client(first.url, max_retries=0) as client:
        stream = client.responses.create(model=calls.MODEL, input=asked, background=True, stream=True)
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta" and "answer" in event.delta:
                break
        first.kill()
        seen += read_until_it_breaks(stream)
    site.let_leases_run_out()

    second = site.gateway()
    with site.client(second.url) as client:
        resumed = client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number)
        real_llm.wait_for(lambda one: one.script == token and one.pieces_sent == 1).release()
        rest = list(resumed)
        whole = list(client.responses.retrieve(seen[0].response.id, stream=True))
        stored = client.responses.retrieve(seen[0].response.id)
        after = client.responses.create(
            model=calls.MODEL, input="And now? #script:plain", previous_response_id=stored.id
        )

    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    assert [event.model_dump() for event in whole] == [event.model_dump() for event in (*seen, *rest)]
    assert rest[-1].type == "response.completed"
    assert rest[-1].response == stored
    assert stored.output[-1].content[0].text == calls.answer_to(token)
    assert after.output_text == "This is a plain answer."
    assert (
        len([one for one in real_llm.requests if one.script == token]) == 2
    )  # the step and the answer: nothing ran twice
    assert [turn.outcome for turn in Turn.objects.all()] == ["answered", "answered"]
