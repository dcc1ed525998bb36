"""The doctor with a real agent-server and a scripted LLM."""

from __future__ import annotations

import io

import pytest
from django.core.management import call_command
from pytest_django import Settings

from chatgateway.models import Turn
from profiles.models import Profile
from tests.gateway_process import LiveGateway
from tests.live.scripted_llm import Answer, ScriptedLlm, terminal

pytestmark = pytest.mark.live


def test_an_agent_with_tools_and_eyes_passes_every_check(
    real: LiveGateway, llm: ScriptedLlm, settings: Settings
) -> None:
    settings.GATEWAY_PUBLIC_URL = real.url
    Profile.objects.filter(slug="agent").update(accepts_images=True)
    llm.enqueue(
        Answer(text="Fine."),
        Answer(text="Red, green and blue."),
        Answer(text="Still here."),
        Answer(text="And here."),
        Answer(tool_calls=(terminal("echo gateway-doctor"),)),
        Answer(text="It printed gateway-doctor."),
        Answer(text="Red."),
        Answer(text='{"sum": 5}'),
    )
    out = io.StringIO()

    call_command("doctor", "agent", stdout=out)

    told = out.getvalue()
    assert told.count("  works  ") == 8, told
    assert "Running: echo gateway-doctor" in told
    assert "FAILED" not in told
    assert Turn.objects.filter(outcome="answered").count() == 7
    assert "data:image/png;base64," in str([heard.user_messages for heard in llm.requests])


def test_a_profile_that_only_answers_passes_what_applies_to_it(
    real: LiveGateway, llm: ScriptedLlm, settings: Settings
) -> None:
    settings.GATEWAY_PUBLIC_URL = real.url
    llm.enqueue(*(Answer(text=text) for text in ("Fine.", "Red.", "Still here.", "And here.", '{"sum": 5}')))
    out = io.StringIO()

    call_command("doctor", "chat", stdout=out)

    told = out.getvalue()
    assert (told.count("  works  "), told.count("  skipped  ")) == (6, 2), told
