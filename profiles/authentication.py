"""DRF's part of the door: from a request to a `Caller`, or to a 401 that says what to send."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Protocol

from django.conf import settings
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from profiles import access, bookkeeping, keys
from profiles.access import Caller
from profiles.attempts import FailedAttempts
from profiles.exceptions import UnknownKey

HOW_TO_SEND = "Send one as 'Authorization: Bearer <key>' or as 'X-Session-API-Key: <key>'."
NO_KEY = f"Unauthorized: no API key was sent. {HOW_TO_SEND}"
TWO_KEYS = "Unauthorized: Authorization and X-Session-API-Key hold different keys. Send one of the two."
OTHER_SCHEME = f"Unauthorized: the Authorization header holds no Bearer key. {HOW_TO_SEND}"

# Of a text shorter than this, four characters would be much of the secret.
_QUOTABLE_FROM_CHARS = 12

attempts = FailedAttempts()


class HasMeta(Protocol):
    """A request of Django or of DRF."""

    @property
    def META(self) -> dict[str, Any]: ...  # noqa: N802  Django's name


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <key>` or `X-Session-API-Key: <key>`; `request.auth` is the `Caller`, `user` is None.

    On an event loop it answers from this process's memory, or Django raises SynchronousOnlyOperation before
    anything was counted: then call it again from a thread.
    """

    def authenticate(self, request: Request) -> tuple[None, Caller]:
        """Raises NotAuthenticated or AuthenticationFailed (401), or TooManyFailedAttempts. One or two queries at
        most, none when the key was met a moment ago."""
        now = timezone.now()
        text = self._sent(request)
        caller = access.cached_caller(text, now=now)
        if caller is None:
            caller = self._look_up(text, address=address_of(request))
        bookkeeping.note_use(caller.api_key_id, client=client_of(request), now=now)
        return None, caller

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"

    def _sent(self, request: Request) -> str:
        text = key_in_headers(request.headers)
        if text is not None:
            return text
        if all(_keys_in(request.headers)):
            raise AuthenticationFailed(TWO_KEYS)
        raise NotAuthenticated(OTHER_SCHEME if request.headers.get("authorization", "").strip() else NO_KEY)

    def _look_up(self, text: str, *, address: str) -> Caller:
        parsed = keys.parse(text, pepper=settings.GATEWAY_API_KEY_PEPPER)
        if parsed is not None and not access.has_seen_prefix(parsed.prefix):
            attempts.check(address)
        now = timezone.now()
        try:
            return access.caller_for(text, now=now)
        except UnknownKey as error:
            if error.reason == UnknownKey.UNKNOWN:
                attempts.note(address)
            shown = parsed.prefix if parsed is not None and parsed.is_minted else ""
            bookkeeping.note_failure(address=address, prefix=shown, now=now)
            raise AuthenticationFailed(_refusal(text)) from None


class MayChat(BasePermission):
    """The key has the scope `chat`; otherwise 403."""

    message = "This API key may not call agents. Ask the administrator for one with the scope chat."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, Caller) and request.auth.can_chat


class MayManage(BasePermission):
    """The key has the scope `manage`; otherwise 403."""

    message = "This API key may not manage profiles. Ask the administrator for one with the scope manage."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, Caller) and request.auth.can_manage


def key_in_headers(headers: Mapping[str, str]) -> str | None:
    """Return the key that was sent, without white space around it. Names are looked up in lower case.

    None when there is none, and when both headers are there and differ: one of the two is not what the caller
    believes. An Authorization header of another scheme is a proxy's business and no key.
    """
    bearer, session = _keys_in(headers)
    if bearer and session and bearer != session:
        return None
    return bearer or session or None


def _keys_in(headers: Mapping[str, str]) -> tuple[str, str]:
    scheme, _, rest = headers.get("authorization", "").strip().partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else ""
    return bearer, headers.get("x-session-api-key", "").strip()


def address_of(request: HasMeta) -> str:
    """Return the address the request came from; empty when there is none, as on a Unix socket.

    X-Forwarded-For is read from its end, as long as the address before is one of GATEWAY_TRUSTED_PROXIES: what
    stands further to the left may have been written by anybody.
    """
    address = str(request.META.get("REMOTE_ADDR") or "")
    hops = str(request.META.get("HTTP_X_FORWARDED_FOR") or "").split(",")
    while hops and _is_trusted(address):
        hop = hops.pop().strip()
        if _parsed(hop) is None:
            break
        address = hop
    return address


def client_of(request: HasMeta) -> str:
    """Return what the caller calls its software, in printable characters; at most 200 of them."""
    return re.sub(r"[^ -~]", "", str(request.META.get("HTTP_USER_AGENT") or ""))[:200]


def _is_trusted(address: str) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in settings.GATEWAY_TRUSTED_PROXIES)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    # A socket that serves both families reports IPv4 clients as ::ffff:10.0.0.1.
    return (isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped) or parsed


def _refusal(text: str) -> str:
    shown = ""
    if len(text) >= _QUOTABLE_FROM_CHARS and re.fullmatch(r"[!-~]{4}", text[-4:]):
        shown = f" ending in '{text[-4:]}'"
    return f"Unauthorized: the API key{shown} is not valid, or not any more. {HOW_TO_SEND}"
