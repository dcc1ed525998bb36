"""The error object that every OpenAI SDK reads, in replies and in streams."""

from __future__ import annotations

from typing import Any, Protocol

from chatgateway.errors import GatewayError
from chatgateway.turn_events import NOTHING, TokenCounts, TurnFailed


class ErrorFields(Protocol):
    """What `GatewayError` and `TurnFailed` have in common."""

    @property
    def message(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def param(self) -> str | None: ...
    @property
    def code(self) -> str: ...


def error_body(error: ErrorFields) -> dict[str, Any]:
    """`{"error": {…}}` with always the same four keys.

    Without the object, or with text in its place, SDKs show "Error code: 400" and lose the message. `code` is a
    string: the 2.x Python SDK hands on whatever stands there, so a number would reach the user's comparison as one.
    """
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": str(error.code)},
    }


def to_failed(error: GatewayError, *, usage: TokenCounts = NOTHING) -> TurnFailed:
    """The bad end of a turn, as its subscribers are told."""
    return TurnFailed(
        status=error.status,
        type=error.type,
        code=error.code,
        message=error.message,
        param=error.param,
        headers=error.headers,
        usage=usage,
    )


def from_failed(failed: TurnFailed) -> GatewayError:
    """The exception to raise when a turn failed before any of its reply was sent.

    Its headers are those stored with the turn (`x-should-retry`, `Retry-After`), neither more nor fewer.
    """
    return GatewayError(
        failed.message,
        param=failed.param,
        code=failed.code,
        status=failed.status,
        type=failed.type,
        headers=failed.headers,
    )
