"""The balance after a fault: what the callers say, what the agents heard and what the rows hold must agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from math import ceil

from chatgateway.models import Turn
from tests.fakes.agent_server import FakeAgentServer
from tests.faults.calls import Call, tokens_in
from tests.live.scripted_llm import ScriptedLlm


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Counted after one scenario. The last five are the invariants; each test asserts them all."""

    scenario: str
    calls: int
    answered: int
    told: int  # an OpenAI error that says what happened
    cut: int  # the line went dead and there was nobody left to say why
    turns_lost: int
    most_runs: int
    crossed: int
    slots_leaked: int
    wrong_rows: int

    def __add__(self, other: Balance) -> Balance:
        """Of two variants of one scenario: everything is counted together, and the most runs of a call stay that."""
        added = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)[1:]}
        added["most_runs"] = max(self.most_runs, other.most_runs)
        return Balance(scenario=self.scenario, **added)

    @property
    def holds(self) -> bool:
        broken = self.turns_lost or self.crossed or self.slots_leaked or self.wrong_rows
        return self.most_runs <= 1 and not broken


def heard_by(agents: Iterable[FakeAgentServer], llms: Iterable[ScriptedLlm]) -> Counter[str]:
    """How often each question was posted to an agent, or sent by one to its LLM. A conversation that is told anew
    repeats the earlier ones."""
    counted: Counter[str] = Counter()
    for agent in agents:
        for conversation in (*agent.conversations.values(), *agent.deleted):
            for content in conversation.posted:
                counted.update(tokens_in("".join(part.get("text", "") for part in content))[-1:])
    for llm in llms:
        for request in llm.requests:
            counted.update(tokens_in(request.last_user_text)[-1:])
    return counted


def balance(*, scenario: str, calls: list[Call], heard: Mapping[str, float]) -> Balance:
    turns = list(Turn.objects.select_related("last_message").order_by("arrival"))
    asked = {turn.pk: token_of(turn) for turn in turns}
    recorded = {asked[turn.pk] for turn in turns if turn.outcome != Turn.Outcome.REFUSED}
    answers = {asked[turn.pk]: turn.answer for turn in turns if turn.outcome == Turn.Outcome.ANSWERED}
    answered = [call for call in calls if call.is_answered]
    is_open = sum(turn.outcome == Turn.Outcome.OPEN for turn in turns)
    unrecorded = len(set(heard) - recorded) + sum(not _is_kept(call, answers) for call in answered)
    foreign = [call for call in answered if set(tokens_in(call.text)) != {call.token}]
    mixed = [turn for turn in turns if set(tokens_in(turn.answer)) - {asked[turn.pk]}]
    return Balance(
        scenario=scenario,
        calls=len(calls),
        answered=len(answered),
        told=sum(call.told is not None and call.told.is_clear for call in calls),
        cut=sum(call.told is not None and not call.told.is_clear for call in calls),
        turns_lost=is_open + unrecorded,
        most_runs=ceil(max(heard.values(), default=0)),
        crossed=len(foreign) + len(mixed),
        slots_leaked=Turn.objects.holding_a_slot().count(),
        wrong_rows=sum(not _is_right(turn, asked[turn.pk]) for turn in turns),
    )


def outcomes() -> dict[str, int]:
    """How many turns ended how, those aside that were refused before anything was started."""
    counted = Counter(Turn.objects.values_list("outcome", flat=True).order_by())
    return {str(outcome): number for outcome, number in counted.items() if outcome != Turn.Outcome.REFUSED}


def token_of(turn: Turn) -> str:
    """The question of a turn."""
    if turn.last_message is None:
        return ""
    found = tokens_in(str(turn.last_message.body.get("content", "")))
    return found[-1] if found else ""


def _is_kept(call: Call, answers: Mapping[str, str]) -> bool:
    """Whether the record has the answer; a stream may have begun with words of an attempt that was given up."""
    return call.token in answers and call.text.endswith(answers[call.token])


def _is_right(turn: Turn, token: str) -> bool:
    """Whether a row says one thing: an answer and no error, or an error."""
    if turn.outcome == Turn.Outcome.ANSWERED:
        return token in turn.answer and turn.http_status == 200 and not turn.error_code
    return turn.outcome != Turn.Outcome.OPEN and bool(turn.error_code and turn.error_message)
