"""What callers are told when an agent's run ends badly.

The agent-server's words for it (`code`, `kind`) and what each calls for were measured against version 1.58; a
provider's own text never reaches a caller, because it may name hosts, accounts or keys.
"""

from __future__ import annotations

from chatgateway.errors import AgentRunFailed, AgentTimedOut, GatewayError, InvalidOutput, InvalidRequest
from chatgateway.turn_events import RunFailed


class _Refused(InvalidRequest):
    """400 after a run began."""

    retry_is_safe = False


class _Limited(AgentRunFailed):
    """429 after a run began: the provider's limit, not ours, and not for the SDK to try again."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


def error_for(failed: RunFailed, *, profile_slug: str) -> GatewayError:
    """Return the error for a run that ended with `failed`. Its `detail` is for the audit."""
    detail = f"{failed.code}: {failed.detail}"
    where = f"The language model of '{profile_slug}'"
    match failed.code, failed.kind:
        case "LLMContextWindowExceedError", _:
            return _Refused(
                "The conversation is longer than the model can read. Start a new one, or send less history.",
                param="messages",
                code="context_length_exceeded",
                detail=detail,
            )
        case "LLMBadRequestError", _:
            return _Refused(
                f"{where} refused the request. Ask the administrator to look at the turn's error in the admin.",
                code="upstream_bad_request",
                detail=detail,
            )
        case "LLMRateLimitError", _:
            return _Limited(f"{where} is overloaded or its quota is used up. Try again later.", detail=detail)
        case "LLMTimeoutError", _:
            return AgentTimedOut(
                f"{where} did not answer in time. Try again, or ask the administrator to raise its timeout.",
                detail=detail,
            )
        case "MaxIterationsReached", _:
            return AgentRunFailed(
                "The agent used all its steps without an answer. Ask for less at once, or have the profile's step "
                "limit raised.",
                detail=detail,
            )
        case "ServerRestarted", _:
            return AgentRunFailed(
                "The agent-server was restarted while the agent worked, and nobody knows how far it got. Look at what "
                "it has done before you ask again.",
                detail=detail,
            )
        case _, "auth" | "quota":
            return AgentRunFailed(
                f"{where} refused the gateway's credentials. Ask the administrator to check the profile's API key.",
                code="upstream_error",
                detail=detail,
            )
        case "NotFoundError", _:
            return AgentRunFailed(
                f"{where} does not exist at its provider. Ask the administrator to check the profile's model.",
                code="upstream_error",
                detail=detail,
            )
        case _, "transient":
            return AgentRunFailed(f"{where} is unavailable. Try again later.", code="upstream_error", detail=detail)
        case _:
            return AgentRunFailed("The agent's run failed. The administrator sees why in the admin.", detail=detail)


def stuck() -> GatewayError:
    return AgentRunFailed(
        "The agent repeated itself and was stopped. Rephrase the task or split it into smaller ones.",
        detail="execution status: stuck",
    )


def waits_for_confirmation() -> GatewayError:
    return AgentRunFailed(
        "The agent asked for a confirmation that nobody can give here, so the action was rejected.",
        detail="execution status: waiting_for_confirmation",
    )


def interrupted(status: str) -> GatewayError:
    return AgentRunFailed(
        "The agent was stopped from outside the gateway before it answered.", detail=f"execution status: {status}"
    )


def not_as_asked(problem: str) -> GatewayError:
    return InvalidOutput(
        "The agent's answer is not the JSON that was asked for, nor was it when it was asked once more. "
        "Say in a message what the JSON should hold, or use a simpler schema.",
        detail=problem,
    )
