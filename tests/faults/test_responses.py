"""Responses whose process dies: the stream is taken up at the next number, by another process or after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai.types.responses import ResponseStreamEvent

from chatgateway.models import Turn
from tests.fakes.agent_script import Gate
from tests.faults import calls
from tests.faults.reading import read_until_it_breaks
from tests.faults.site import Site, waiting_at
from tests.waiting import eventually


@pytest.fixture
def site(transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """As for the scenarios of the table, which counts chats."""
    made = Site(directory=tmp_path, scenario="", balances=[])
    yield made
    made.close()


@pytest.mark.parametrize("is_restarted", [False, True], ids=["another process", "a restart"])
def test_a_stream_is_taken_up_at_the_next_number(site: Site, *, is_restarted: bool) -> None:
    site.agent()
    first = site.gateway()
    second = first if is_restarted else site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    token = calls.new_token()
    with site.client(first.url, max_retries=0) as client:
        stream = client.responses.create(model=calls.MODEL, input=token, background=True, stream=True)
        seen: list[ResponseStreamEvent] = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        gate.wait_until_reached()
        first.kill()
        seen += read_until_it_breaks(stream)
    site.let_leases_run_out()
    if is_restarted:
        second = site.gateway()
    gate.open()
    last = seen[-1].sequence_number

    with site.client(second.url) as client:
        rest = list(client.responses.retrieve(seen[0].response.id, stream=True, starting_after=last))
        whole = list(client.responses.retrieve(seen[0].response.id, stream=True))

    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed"
    text = "".join(event.delta for event in (*seen, *rest) if event.type == "response.output_text.delta")
    assert text == calls.answer_to(token) == rest[-1].response.output_text
    assert [event.model_dump() for event in whole] == [event.model_dump() for event in (*seen, *rest)]
    assert len(site.agents[0].only_conversation.posted) == 1
    eventually(lambda: not Turn.objects.open().exists())
    assert Turn.objects.get().outcome == "answered"
