"""Every way a request can fail, as the caller is told.

    GatewayError
    ├── InvalidRequest                400  the body; names the parameter
    ├── ModelNotFound                 404  unknown, disabled or forbidden: one text per cause that may be known
    ├── NotFound                      404  conversation, completion, route
    ├── ConversationBusy              409
    ├── IdempotencyMismatch           409
    ├── CompletionInProgress          409  retry welcome
    ├── TooManyRequests               429  retry welcome
    │   └── CeilingReached            429  of the key or its tenant
    ├── InsufficientQuota             429  money used up; never retried
    ├── PriceUnknown                  403  under a ceiling in USD
    ├── AgentRunFailed                502  the run ended badly; never retried
    │   └── InvalidOutput             502  not the JSON that was asked for
    ├── AgentServerUnavailable        503  before the run began; retry welcome
    ├── DatabaseUnavailable           503  before the run began; retry welcome
    ├── AgentTimedOut                 504  never retried
    └── InternalError                 500

The official SDKs repeat a request that got 408, 409, 429 or 5xx twice more, and each repeat could start
another agent. `x-should-retry: false` stops them, so every class says whether a repeat is safe.
"""

from __future__ import annotations


class GatewayError(Exception):
    """A failure with a status, an OpenAI error body and the headers that go with it.

    `message` is read by end users in chat UIs: a full sentence, what was wrong, what to do. Never a stack
    trace, an internal address or a provider's raw text; those belong in `detail`, which only the audit gets.
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    retry_is_safe: bool = True

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        type: str | None = None,
        headers: dict[str, str] | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.status = status or self.status
        self.type = type or self.type
        self.headers = dict(headers or {})
        if not self.retry_is_safe:
            self.headers.setdefault("x-should-retry", "false")
        self.detail = detail


class InvalidRequest(GatewayError):
    """400. `code` is one of missing_required_parameter, invalid_type, invalid_value, unsupported_parameter,
    unsupported_value, unsupported_content, invalid_json, context_length_exceeded."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ModelNotFound(GatewayError):
    """404 for a model that does not exist, is disabled, or is not this key's. One text: nothing leaks."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class NotFound(GatewayError):
    """404 for anything else; `code` says what (conversation_not_found, unknown_url, …)."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ConversationBusy(GatewayError):
    """409. SDKs retry a 409 unless told not to; a retry half a second later would meet the same run."""

    status = 409
    type = "invalid_request_error"
    code = "conversation_busy"
    retry_is_safe = False


class IdempotencyMismatch(GatewayError):
    """409. A repeat would meet the same turn."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_mismatch"
    retry_is_safe = False


class CompletionInProgress(GatewayError):
    """409 for a stored completion that is asked for before it is there. Asking again starts nothing."""

    status = 409
    type = "invalid_request_error"
    code = "completion_in_progress"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "2"})


class TooManyRequests(GatewayError):
    """429 before anything was started. Clients may and should come back.

    Retry-After stays at or below 60 s: Node's SDK ignores longer values and retries at once.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: int = 5, code: str | None = None) -> None:
        super().__init__(message, code=code, headers={"Retry-After": str(max(1, min(60, retry_after_seconds)))})


class CeilingReached(TooManyRequests):
    """429: a ceiling of the key or its tenant that will have room again by itself. Nothing was started."""


class InsufficientQuota(GatewayError):
    """429: the money of a key, its tenant or a turn is used up. Asking again is of no use before it begins anew."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    retry_is_safe = False


class PriceUnknown(GatewayError):
    """403: the key may spend so much and no more, and nobody knows what the profile's model costs."""

    status = 403
    type = "permission_error"
    code = "price_unknown"
    retry_is_safe = False


class AgentServerUnavailable(GatewayError):
    """503: no agent-server could take the run, and none was started. A retry is welcome."""

    status = 503
    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int = 5, detail: str = "") -> None:
        super().__init__(message, headers={"Retry-After": str(max(1, min(60, retry_after_seconds)))}, detail=detail)


class DatabaseUnavailable(GatewayError):
    """503: the gateway cannot keep its record, so it starts nothing. A retry is welcome."""

    status = 503
    code = "service_unavailable"

    def __init__(self, *, detail: str = "") -> None:
        super().__init__(
            "The gateway cannot write its record at the moment, so nothing was started. Try again in a moment.",
            headers={"Retry-After": "5"},
            detail=detail,
        )


class AgentRunFailed(GatewayError):
    """502: the run ended in an error, stuck, or without an answer. The agent may have acted: no repeat."""

    status = 502
    code = "agent_error"
    retry_is_safe = False


class InvalidOutput(AgentRunFailed):
    """502: the answer is not the JSON that `response_format` or `text.format` asks for, nor was it the second time."""

    code = "invalid_structured_output"


class AgentTimedOut(GatewayError):
    """504: the profile's time limit passed and the run was interrupted. No repeat."""

    status = 504
    code = "agent_timeout"
    retry_is_safe = False


class TurnCancelled(GatewayError):
    """The turn was stopped by its caller or an administrator. 502 without repeat for whoever still listens."""

    status = 502
    code = "cancelled"
    retry_is_safe = False


class InternalError(GatewayError):
    """500: a defect of the gateway. The message carries no detail; the log has it under the request id."""
