"""`GET /metrics`: for Prometheus, with the operator's token, or without one from this machine alone."""

from __future__ import annotations

import hmac
import ipaddress

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from chatgateway import metrics
from chatgateway.api_view import in_thread
from chatgateway.errors import InvalidRequest
from chatgateway.exception_handler import error_response

# What proxies add. A proxy on this machine would otherwise make the whole world look like this machine.
_FORWARDED = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "HTTP_VIA", "HTTP_X_FORWARDED_HOST")


async def metrics_view(request: HttpRequest) -> HttpResponseBase:
    """Return the metrics in Prometheus's text format; 401 or 403 in the envelope for whoever may not read them."""
    if settings.GATEWAY_METRICS_TOKEN:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(sent.encode(), settings.GATEWAY_METRICS_TOKEN.encode()):
            return _refused("Unauthorized: send 'Authorization: Bearer' with the gateway's metrics token.", 401)
    elif not _is_local(request):
        return _refused(
            "The metrics are for this machine alone. To read them from elsewhere, the administrator sets "
            "GATEWAY_METRICS_TOKEN.",
            403,
        )
    return HttpResponse(await in_thread(metrics.exposition), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _refused(message: str, status: int) -> HttpResponse:
    code, headers = ("invalid_api_key", {"WWW-Authenticate": "Bearer"}) if status == 401 else ("permission_denied", {})
    return error_response(InvalidRequest(message, status=status, code=code, headers=headers))


def _is_local(request: HttpRequest) -> bool:
    if any(request.META.get(name) for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(str(request.META.get("REMOTE_ADDR") or "")).is_loopback
    except ValueError:
        return False
