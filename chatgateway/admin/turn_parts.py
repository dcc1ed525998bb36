"""The parts of a turn that its own page and its conversation's share: the question, the steps, the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse

from chatgateway.admin import rich_text, step_costs, turn_story
from chatgateway.admin.rich_text import Told
from chatgateway.admin.turn_story import Question, Step
from chatgateway.models import Event, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What the agent did; `answer_used`: what the call of the LLM used that wrote the answer."""

    steps: list[Step]
    answer_used: str = ""
    has_events: bool = False
    has_more: bool = False

    @property
    def has_acted(self) -> bool:
        """Whether a tool was called."""
        return any(step.kind == "tool" for step in self.steps)


def steps_of(turn: Turn) -> Steps:
    """Return the steps of a turn. One query."""
    return steps_from(turn, list(turn.events.order_by("seq")[: turn_story.MAXIMUM_EVENTS + 1]))


def steps_from(turn: Turn, found: Sequence[Event]) -> Steps:
    """Return the steps that events make, which are in order. More of them than fit on a page are told as such."""
    events = found[: turn_story.MAXIMUM_EVENTS]
    usage = step_costs.of_calls(turn, events)
    answer = turn_story.answer_of(events)
    by_answer = usage.get(step_costs.response_id(answer)) if answer is not None else None
    return Steps(
        steps=turn_story.steps(events, usage),
        answer_used=turn_story.used_told(by_answer),
        has_events=bool(events),
        has_more=len(found) > len(events),
    )


def step_html(step: Step) -> str:
    return render_to_string("chatgateway/admin/step.html", {"step": step})


def question_told(asked: Question | None, limit: int) -> Told | None:
    """Return a question as it is shown; None where there is nothing to read."""
    return told(asked.text, limit) if asked is not None and asked.text else None


def told(text: str, limit: int) -> Told:
    """Return a text as it is shown, at most `limit` characters of it."""
    rest = len(text) - limit
    return rich_text.told(text if rest <= 0 else f"{text[:limit]}\n\n… {rest:,} more characters, in the raw record")


def urls_of(request: HttpRequest, turn: Turn) -> dict[str, Any]:
    """Return where the parts of a turn are to be had, and what may be done with it."""
    is_open = turn.outcome == Turn.Outcome.OPEN
    return {
        name: reverse(f"admin:chatgateway_turn_{name}", args=[turn.pk])
        for name in ("change", "steps", "live", "stop", "raw_request", "raw_response", "raw_events")
    } | {
        "is_open": is_open,
        "can_be_stopped": is_open
        and turn.cancel_requested_at is None
        and request.user.has_perm("chatgateway.stop_turn"),
        "is_being_stopped": is_open and turn.cancel_requested_at is not None,
    }
