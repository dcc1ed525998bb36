"""How seeded turns end: most are answered, some fail in each of the ways real ones do."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chatgateway import outcomes
from chatgateway.errors import (
    AgentServerUnavailable,
    AgentTimedOut,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    TooManyRequests,
    TurnCancelled,
)
from chatgateway.models import Turn
from chatgateway.turn_events import RunFailed
from profiles.models import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """`run_failed`: code, kind and detail of the agent-server's own error."""

    outcome: Turn.Outcome
    error: GatewayError | None = None
    run_failed: tuple[str, str, str] | None = None
    adds_seconds: float = 0.0
    has_begun_to_answer: bool = False
    costs_nothing: bool = False

    @property
    def is_good(self) -> bool:
        return self.outcome == Turn.Outcome.ANSWERED


_ANSWERED = End(outcome=Turn.Outcome.ANSWERED)


def draw(rng: random.Random, profile: Profile, *, is_first: bool) -> End:
    """Draw how a turn ends. A local model is less reliable than a provider's."""
    bad = 0.16 if profile.slug == "local" else 0.055
    if rng.random() > bad:
        return _ANSWERED
    kinds = ("limit", "overloaded", "context", "stuck", "cancelled", "timed out", "abandoned")
    match rng.choices(kinds, (22, 16, 4 if is_first else 12, 9, 26, 11, 4))[0]:
        case "limit":
            failed = ("LLMRateLimitError", "rate_limit", "RateLimitError: requests per minute: limit 500, used 500")
            return _failed(profile, failed, adds_seconds=rng.uniform(1, 20), costs_nothing=True)
        case "overloaded":
            failed = ("LLMServiceUnavailableError", "transient", "InternalServerError: overloaded_error")
            return _failed(profile, failed, adds_seconds=rng.uniform(2, 40))
        case "context":
            failed = ("LLMContextWindowExceedError", "context", "prompt is too long: 214,331 tokens > 200,000 maximum")
            return _failed(profile, failed, costs_nothing=True)
        case "stuck":
            return End(outcome=Turn.Outcome.FAILED, error=outcomes.stuck(), adds_seconds=rng.uniform(30, 200))
        case "timed out":
            error = AgentTimedOut("The agent did not finish within the profile's time limit and was stopped.")
            return End(outcome=Turn.Outcome.TIMED_OUT, error=error, adds_seconds=float(profile.time_limit_seconds))
        case "abandoned":
            lost = AgentServerUnavailable("The agent-server was lost while the agent worked.")
            return End(outcome=Turn.Outcome.ABANDONED, error=lost, adds_seconds=rng.uniform(20, 90))
        case _:
            gone = TurnCancelled("The turn was stopped: its caller went away.")
            return End(outcome=Turn.Outcome.CANCELLED, error=gone, has_begun_to_answer=True)


def refused(rng: random.Random, profile: Profile) -> tuple[GatewayError, str]:
    """Draw why a request is refused before it begins; return the error and the model it named."""
    match rng.choice(("model", "parameter", "queue", "servers")):
        case "model":
            text = "The model 'gpt-4o' does not exist, or this key may not use it. GET /v1/models lists those it may."
            return ModelNotFound(text, param="model"), "gpt-4o"
        case "parameter":
            text = "'tools' is not supported: the agent brings its own."
            return InvalidRequest(text, param="tools", code="unsupported_parameter"), profile.model_id
        case "queue":
            return TooManyRequests("All agent-servers are busy and the queue is full. Try again."), profile.model_id
        case _:
            text = "No agent-server can take the request at the moment. Try again."
            return AgentServerUnavailable(text), profile.model_id


def _failed(
    profile: Profile, failed: tuple[str, str, str], *, adds_seconds: float = 0.0, costs_nothing: bool = False
) -> End:
    code, kind, detail = failed
    told = RunFailed(code=code, kind=kind, is_retryable=False, detail=detail)
    return End(
        outcome=Turn.Outcome.FAILED,
        error=outcomes.error_for(told, profile_slug=profile.slug),
        run_failed=failed,
        adds_seconds=adds_seconds,
        costs_nothing=costs_nothing,
    )
