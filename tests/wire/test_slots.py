"""A slot comes back, whatever became of the turn that had it."""

from __future__ import annotations

from datetime import timedelta

import httpx
from django.utils import timezone

from chatgateway.models import Turn
from tests.fakes.agent_server import FakeAgentServer
from tests.waiting import eventually
from tests.wire.conftest import question
from tests.wire.test_chat import CHAT


def test_a_slot_whose_interrupt_was_never_confirmed_is_freed_when_the_run_has_ended(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    http.post(CHAT, json=question())
    Turn.objects.update(run_ended_at=None, closed_at=timezone.now() - timedelta(minutes=1))
    assert Turn.objects.holding_a_slot().count() == 1

    # Every gateway process looks for such turns every few seconds.
    assert eventually(lambda: not Turn.objects.holding_a_slot().exists())


def test_a_conversation_whose_agent_server_is_gone_answers_503_and_holds_no_slot(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    first = http.post(CHAT, json=question())
    agent_server.crash()

    second = http.post(
        CHAT,
        json=question(),
        headers={"X-OpenHands-ServerConversation-ID": first.headers["X-OpenHands-ServerConversation-ID"]},
    )

    assert second.status_code == 503, Turn.objects.order_by("arrival").last().error_detail
    assert not Turn.objects.holding_a_slot().exists()
