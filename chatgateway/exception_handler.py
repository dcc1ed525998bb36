"""Every exception becomes a status, headers and one error body. No database work: it runs on the event loop."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import SuspiciousOperation
from django.db.utils import Error as DatabaseError
from django.http import Http404, HttpResponse
from rest_framework import exceptions as drf

from chatgateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    InternalError,
    InvalidRequest,
    NotFound,
    TooManyRequests,
)
from chatgateway.openai_api.error_body import error_body
from profiles.exceptions import InvalidProfile, ProfileNameTaken, TooManyFailedAttempts, UnknownProfile

logger = logging.getLogger(__name__)


def error_response(error: GatewayError) -> HttpResponse:
    """Return the reply for `error`: `{"error": {message, type, param, code}}`, always JSON."""
    return HttpResponse(
        orjson.dumps(error_body(error)),
        status=error.status,
        content_type="application/json",
        headers=error.headers,
    )


def gateway_error(error: BaseException) -> GatewayError:
    """Say any exception in the gateway's words. What is not foreseen is logged and tells the caller nothing."""
    match error:
        case GatewayError():
            return error
        case drf.AuthenticationFailed() | drf.NotAuthenticated():
            return _as_is(error, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        case drf.PermissionDenied():
            return _as_is(error, code="permission_denied", type="permission_error")
        case drf.MethodNotAllowed():
            return InvalidRequest(f"{error.detail}", status=405, code="method_not_allowed")
        case drf.UnsupportedMediaType():
            return InvalidRequest(
                "Send the body as JSON, with the header Content-Type: application/json.",
                status=415,
                code="unsupported_media_type",
            )
        case drf.ParseError():
            return InvalidRequest(f"{error.detail}", code="invalid_json")
        case drf.Throttled():
            return TooManyRequests(f"{error.detail}", retry_after_seconds=int(getattr(error, "wait", None) or 1) + 1)
        case TooManyFailedAttempts():
            return TooManyRequests(
                "Too many failed attempts from this address. Check the API key and try again in a minute.",
                retry_after_seconds=error.retry_after_seconds,
            )
        case Http404() | drf.NotFound():
            return NotFound("There is nothing at this URL. This gateway serves agents under /v1.", code="unknown_url")
        case UnknownProfile():
            return NotFound("There is no such profile.", code="profile_not_found")
        case ProfileNameTaken():
            return InvalidRequest(
                error.message,
                param=error.param,
                status=409,
                code="profile_name_taken",
                headers={"x-should-retry": "false"},
            )
        case InvalidProfile():
            return InvalidRequest(error.message, param=error.param, code="invalid_value")
        case DjangoPermissionDenied():
            return InvalidRequest("Permission denied.", status=403, type="permission_error", code="permission_denied")
        case DatabaseError():
            logger.error("the database failed a request", exc_info=error)
            return DatabaseUnavailable(detail=repr(error))
        case SuspiciousOperation():
            return InvalidRequest("The request is not well-formed.", code="invalid_request")
    logger.error("a request failed inside the gateway", exc_info=error)
    return InternalError("The gateway failed. Quote the x-request-id header to its administrator.", detail=repr(error))


def _as_is(
    error: drf.APIException, *, code: str, type: str = "invalid_request_error", headers: dict[str, str] | None = None
) -> GatewayError:
    detail: Any = error.detail
    return InvalidRequest(str(detail), status=error.status_code, code=code, type=type, headers=headers)
