"""From what a run did to how its turn ends: answer or error, tokens, and where the conversation stands."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from chatgateway import outcomes
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.agentserver.schemas import DurableEvent
from chatgateway.answer import Showing
from chatgateway.audit import Ending
from chatgateway.errors import (
    AgentRunFailed,
    AgentServerUnavailable,
    AgentTimedOut,
    GatewayError,
    InsufficientQuota,
    TurnCancelled,
)
from chatgateway.models import Turn
from chatgateway.turn_events import (
    NeedsConfirmation,
    RunEnded,
    RunEvent,
    RunFailed,
    ShownEvent,
    TokenCounts,
    TurnAnswered,
    UsageReported,
)
from profiles.models import Profile

ThoughtsChoice = Literal["reasoning", "content", "hidden"]
ActivityChoice = Literal["reasoning", "hidden"]

# What an agent says whose run ended well without a word: clients treat an empty answer as an error and ask again.
NO_TEXT = "The agent finished without writing an answer."
# Why a run is stopped whose caller allowed only so many tool calls. It ends as an answer that was cut short.
TOO_MANY_STEPS = "tool calls"
# What it says where the agent had not written a word by then.
STOPPED_EARLY = "The agent was stopped: it had used all the tool calls it was allowed."
# Tokens of a call that was cut before it was counted; English text has about four characters to a token.
CHARS_PER_TOKEN = 4


# The code of a run that a restart of the agent-server cut short (`agentserver.translate`).
SERVER_RESTARTED = "ServerRestarted"


@dataclass(slots=True)
class Run:
    """What a driver knows of its run. `baseline` is what the conversation had used before."""

    showing: Showing
    baseline: dict[str, TokenCounts]
    began: bool = False
    stopped_by: str = ""  # "deadline", or why the turn was cancelled
    ended: RunEnded | None = None
    failed: RunFailed | None = None
    needs_confirmation: bool = False
    first_text_at: dt.datetime | None = None
    cursor: int = -1
    usage_now: dict[str, TokenCounts] = field(default_factory=dict)
    last_call_input: int = 0
    logged_chars: int = 0
    user_messages: int = 0  # in the log of this turn: the caller's, and one that asks for the answer once more
    output_limit: int | None = None  # of each call of the LLM
    # Of an answer that is to be JSON: the JSON alone, and what is wrong with it.
    output: str = ""
    output_problem: str = ""
    system_prompt_event_id: str = ""

    def take(self, event: RunEvent) -> list[ShownEvent]:
        match event:
            case UsageReported():
                before = self.usage
                self.usage_now = event.by_usage_id
                self.last_call_input = self.usage.input - before.input
            case NeedsConfirmation():
                self.needs_confirmation = True
            case RunFailed():
                self.failed = event
            case RunEnded():
                self.ended = event
                self.usage_now = event.by_usage_id or self.usage_now
        return self.showing.show(event)

    def note_durable(self, durable: list[DurableEvent]) -> None:
        for event in durable:
            if event.kind not in {"ConversationStateUpdateEvent", "ConversationErrorEvent"}:
                self.logged_chars += len(str(event.event))
            if event.kind == "MessageEvent" and event.event.get("source") == "user":
                self.user_messages += 1
            if event.kind == "SystemPromptEvent":
                self.system_prompt_event_id = event.id

    def begin_again(self) -> None:
        """Another run follows in the same turn: the agent is asked for its answer once more."""
        self.ended = self.failed = None
        self.showing.begin_again()

    @property
    def was_cut_short(self) -> bool:
        """Whether the last LLM call wrote as much as it was allowed: the agent-server does not pass that on."""
        return bool(self.output_limit and self.ended and self.ended.last_call_output_tokens >= self.output_limit)

    def retries_allowed(self, profile: Profile) -> int:
        """How often, in all, a run that failed like this may be begun again without the caller's doing.

        Only what a provider may have recovered from, and only while neither answer nor action was seen. After a
        restart of the agent-server an agent that had acted goes on if the profile says so: it may act twice.
        """
        failed = self.failed
        if failed is None or self.stopped_by or self.showing.shown:
            return 0
        if failed.code == SERVER_RESTARTED and profile.resume_after_server_restart:
            return max(1, profile.llm_retries)
        may_recover = failed.is_retryable and failed.kind in {"transient", "rate_limit"}
        return profile.llm_retries if may_recover and not self.showing.has_acted else 0

    @property
    def usage(self) -> TokenCounts:
        """Tokens of this run alone, over all usage ids."""
        total = TokenCounts()
        for usage_id, counts in self.usage_now.items():
            total += counts.since(self.baseline.get(usage_id, TokenCounts()))
        return total

    @property
    def unfinished_call(self) -> TokenCounts:
        """An estimate of an LLM call that was cut: the agent-server counts a call when it is complete, the provider
        bills it all the same. It read at least what the call before it read, or what this turn has logged."""
        written = self.showing.unfinished
        if not written:
            return TokenCounts()
        return TokenCounts(
            input=max(self.last_call_input, self.logged_chars // CHARS_PER_TOKEN),
            output=max(1, len(written) // CHARS_PER_TOKEN),
        )

    def settled(self, ending: Ending) -> dict[str, Any]:
        """Return what the conversation's row must hold after this turn."""
        if not self.began:
            return {}
        changes: dict[str, Any] = {}
        if self.cursor >= 0:
            changes["cursor"] = self.cursor
        if self.usage_now:
            changes["usage_baseline"] = {name: asdict(counts) for name, counts in self.usage_now.items()}
        if ending.outcome == Turn.Outcome.ANSWERED and self.ended is not None:
            changes |= {"good_leaf_event_id": self.ended.leaf_event_id or "", "needs_navigation": False}
        elif ending.outcome == Turn.Outcome.CANCELLED and self.ended is not None and self.ended.leaf_event_id:
            # The caller's message stands, and what the agent did for it: whoever goes on builds on that.
            changes |= {"good_leaf_event_id": self.ended.leaf_event_id, "needs_navigation": False}
        elif ending.outcome in {Turn.Outcome.FAILED, Turn.Outcome.TIMED_OUT, Turn.Outcome.ABANDONED}:
            # Half-done messages of a failed turn would be read by the model again in every later one.
            changes["needs_navigation"] = True
            if self.system_prompt_event_id:  # the first turn failed: this is as far back as one may go
                changes["good_leaf_event_id"] = self.system_prompt_event_id
        return changes

    def leaf_after(self, ending: Ending, *, good_leaf: str) -> str:
        """Return the event at which somebody who goes another way from here can have the conversation forked.

        `good_leaf` is where it goes on now. Empty where nothing began, and where a run did not confirm its end.
        """
        is_unconfirmed = ending.outcome == Turn.Outcome.CANCELLED and (
            self.ended is None or not self.ended.leaf_event_id
        )
        return "" if not self.began or is_unconfirmed else good_leaf


def of_run(run: Run, *, profile: Profile) -> Ending:
    """How a turn ends whose run came to an end by itself."""
    if run.ended is None:
        return failed(run, AgentRunFailed("The agent's run was lost.", detail="the feed ended before the run"))
    if run.needs_confirmation:
        return failed(run, outcomes.waits_for_confirmation())
    if run.failed is not None:
        if run.failed.code == "MaxIterationsReached" and run.showing.collected:
            return _answered(run, run.showing.collected, "length")
        return failed(run, outcomes.error_for(run.failed, profile_slug=profile.slug))
    match run.ended.status:
        case "finished" if run.output_problem:
            return failed(run, outcomes.not_as_asked(run.output_problem))
        case "finished":
            no_text = "" if run.showing.was_cut else NO_TEXT
            is_cut_short = run.was_cut_short and not run.showing.was_cut
            text = run.output or run.showing.collected or no_text
            return _answered(run, text, "length" if is_cut_short else "stop")
        case "stuck":
            return failed(run, outcomes.stuck())
        case status:
            return failed(run, outcomes.interrupted(status))


def stopped(run: Run) -> Ending:
    """How a turn ends that was cancelled or reached its deadline. What was written so far is kept."""
    if run.stopped_by == Turn.CEILING:
        return _out_of_money(run)
    if run.stopped_by == TOO_MANY_STEPS and run.ended is not None:
        return _answered(run, run.showing.collected or STOPPED_EARLY, "length")
    is_deadline = run.stopped_by == "deadline"
    error: GatewayError
    if is_deadline:
        error = AgentTimedOut("The agent did not finish within the profile's time limit and was stopped.")
    else:
        error = TurnCancelled("The request was cancelled.", detail=f"stopped by: {run.stopped_by}")
    return _ending(
        run,
        Turn.Outcome.TIMED_OUT if is_deadline else Turn.Outcome.CANCELLED,
        error=error,
        run_ended=run.ended is not None or not run.began,
    )


def _out_of_money(run: Run) -> Ending:
    """What was written is the answer, cut; without any text the caller learns why there is none."""
    text = run.showing.collected or run.showing.partial()
    if text:
        return replace(
            _answered(run, text, "length"),
            usage=run.usage + run.unfinished_call,
            is_usage_estimated=run.unfinished_call != TokenCounts(),
            run_ended=run.ended is not None,
        )
    error = InsufficientQuota(
        "The agent was stopped before it had an answer: it used up what this turn, the API key or its tenant may cost."
    )
    return replace(failed(run, error), run_ended=run.ended is not None)


def failed(run: Run, error: GatewayError) -> Ending:
    """How a turn ends with an error: refused when nothing had begun, else failed."""
    if run.began:
        error.headers.setdefault("x-should-retry", "false")
    return _ending(run, Turn.Outcome.FAILED if run.began else Turn.Outcome.REFUSED, error=error)


def abandoned(run: Run, error: GatewayError) -> Ending:
    """How a turn ends whose agent-server was lost in mid-run. Whether the run goes on there nobody knows yet."""
    return _ending(run, Turn.Outcome.ABANDONED, error=error, run_ended=False)


def server_failure(error: AgentServerError, *, began: bool) -> GatewayError:
    """What a caller is told of an agent-server that failed."""
    if began:
        return AgentRunFailed(
            "The connection to the agent was lost and could not be made again.",
            detail=f"{type(error).__name__}: {error}",
        )
    return AgentServerUnavailable(
        "No agent could be started. Try again in a moment; the administrator sees why under Agent-servers.",
        detail=f"{type(error).__name__}: {error}",
    )


def counts_from(stored: dict[str, dict[str, int]]) -> dict[str, TokenCounts]:
    """Read back what `Run.settled` stored as `usage_baseline`."""
    return {name: TokenCounts(**counts) for name, counts in stored.items()}


def _answered(run: Run, text: str, finish_reason: Literal["stop", "length"]) -> Ending:
    answered = TurnAnswered(text=text, reasoning=run.showing.reasoning, finish_reason=finish_reason, usage=run.usage)
    return Ending(
        outcome=Turn.Outcome.ANSWERED,
        answered=answered,
        answer=text,
        reasoning=run.showing.reasoning,
        shown=run.showing.shown,
        usage=run.usage,
        first_text_at=run.first_text_at,
    )


def _ending(run: Run, outcome: Turn.Outcome, *, error: GatewayError, run_ended: bool = True) -> Ending:
    cut = run.unfinished_call
    return Ending(
        outcome=outcome,
        error=error,
        answer=run.showing.partial(),
        reasoning=run.showing.reasoning,
        usage=run.usage + cut,
        is_usage_estimated=cut != TokenCounts(),
        run_ended=run_ended,
        first_text_at=run.first_text_at,
    )
