"""A turn as a report tells it. Pure text, which the report's templates escape; nothing here queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatgateway.admin import exported_turns, turn_files, turn_parts, turn_story
from chatgateway.admin.turn_files import FilesTold
from chatgateway.admin.turn_story import Section, Step
from chatgateway.admin.turn_told import MATCHES, OUTCOMES, cost_told, tokens_told
from chatgateway.models import Event, Turn
from profiles.admin_theme import duration, moment

# What a reader reads; the whole is in the admin and in exports.
QUESTION_CHARS = 8_000
ANSWER_CHARS = 20_000
OUTPUT_CHARS = 3_000
OUTPUT_LINES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTold:
    """`removed`: why there are no texts. `files` is None where no tool was called."""

    id: str
    at: str
    outcome: str
    kind: str
    facts: str
    match: str
    error: str
    removed: str = ""
    end_user: str = ""
    question: str = ""
    answer: str = ""
    steps: tuple[Step, ...] = ()
    has_more_steps: bool = False
    files: FilesTold | None = None


def told(turn: Turn, events: Sequence[Event], *, may_read: bool) -> TurnTold:
    """Return a turn, with its texts if it has any and they may be read."""
    closed_at = turn.closed_at
    took = duration((closed_at - turn.opened_at).total_seconds()) if closed_at else turn.get_phase_display()
    figures = TurnTold(
        id=str(turn.pk),
        at=moment(turn.opened_at, seconds=True),
        outcome=turn.get_outcome_display(),
        kind=OUTCOMES.get(turn.outcome, "default"),
        facts=f"{took} · {tokens_told(turn)} tokens · cost {cost_told(turn)}",
        match=MATCHES.get(turn.match, turn.match),
        error=turn.error_code,
        end_user=turn.end_user,
    )
    texts = exported_turns.texts_of(turn, may_read=may_read)
    if texts != "included":
        return replace(figures, removed=texts if turn.content_removed_at else "")
    asked = turn_story.question(turn.last_message)
    story = turn_parts.steps_from(turn, events)
    question = "" if asked is None else "\n".join([asked.text, *(f"[{one}]" for one in asked.images)])
    return replace(
        figures,
        error=turn.error_message or turn.error_code,
        question=turn_story.cut_short(question, QUESTION_CHARS, lines=400),
        answer=turn_story.cut_short(turn.answer, ANSWER_CHARS, lines=1_000),
        steps=tuple(_shortened(step) for step in story.steps),
        has_more_steps=story.has_more,
        files=turn_files.of(turn, has_acted=story.has_acted),
    )


def _shortened(step: Step) -> Step:
    return replace(step, sections=[_cut(section) for section in step.sections])


def _cut(section: Section) -> Section:
    if section.lines:
        return section
    return replace(section, text=turn_story.cut_short(section.text, OUTPUT_CHARS, lines=OUTPUT_LINES))
