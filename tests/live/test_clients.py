"""Other people's clients, the gateway and a real agent-server: what reaches the LLM after three turns."""

from __future__ import annotations

import pytest

from chatgateway.models import Conversation, Turn
from tests.clients.test_chats import EVERY, Play
from tests.gateway_process import LiveGateway
from tests.live.scripted_llm import ScriptedLlm
from tests.live.test_history import spoken

pytestmark = pytest.mark.live


@EVERY
def test_the_llm_sees_the_true_history_once(real: LiveGateway, llm: ScriptedLlm, play: Play) -> None:
    questions = ["first #script:plain", "second #script:plain", "third #script:plain"]

    said = play(real, steps=[["say", questions[0]], ["stream", questions[1]], ["say", questions[2]]])["said"]

    answer = "This is a plain answer."
    assert said == [answer] * 3
    assert [turn.match for turn in Turn.objects.order_by("arrival")] == ["new", "history", "history"]
    assert Conversation.objects.count() == 1
    told = [("user", questions[0]), ("assistant", answer), ("user", questions[1]), ("assistant", answer)]
    assert spoken(llm) == [*told, ("user", questions[2])]
