from __future__ import annotations

import pytest

from chatgateway.errors import AgentRunFailed, InvalidRequest, TooManyRequests
from chatgateway.openai_api.error_body import ErrorFields, error_body, from_failed
from chatgateway.turn_events import TurnFailed

FAILED = TurnFailed(
    status=502,
    type="server_error",
    code="agent_error",
    message="The agent stopped.",
    headers={"x-should-retry": "false"},
)


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (InvalidRequest("No.", param="n"), ("No.", "invalid_request_error", "n", "invalid_value")),
        (AgentRunFailed("It failed.", detail="secret"), ("It failed.", "server_error", None, "agent_error")),
        (FAILED, ("The agent stopped.", "server_error", None, "agent_error")),
    ],
)
def test_an_error_always_has_the_same_four_keys(error: ErrorFields, fields: tuple[str | None, ...]) -> None:
    keys = ("message", "type", "param", "code")
    assert error_body(error) == {"error": dict(zip(keys, fields, strict=True))}


def test_a_failed_turn_becomes_the_exception_it_was() -> None:
    error = from_failed(FAILED)
    assert (error.status, error.headers) == (502, {"x-should-retry": "false"})
    assert error_body(error) == error_body(FAILED)


def test_a_failure_that_may_be_retried_is_not_told_otherwise() -> None:
    refused = TooManyRequests("Later.", retry_after_seconds=7)
    failed = TurnFailed(
        status=refused.status, type=refused.type, code=refused.code, message=refused.message, headers=refused.headers
    )
    assert from_failed(failed).headers == {"Retry-After": "7"}
