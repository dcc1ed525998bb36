"""What of a request makes it the same request when it comes again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.canonical import canonical_json, digest

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY_CHARS = 255
# Headers that choose the conversation or say who asks: "continue" sent in two conversations is two requests. Those that
# clients have of their own are settings.
SELECTING_HEADERS = ("X-OpenHands-ServerConversation-ID",)


def key_in(headers: Mapping[str, str]) -> str:
    """Return the client's own name for this request, empty without one."""
    return headers.get(IDEMPOTENCY_KEY, "").strip()


def check_key(headers: Mapping[str, str]) -> None:
    """Raise InvalidRequest for a key that is too long to be kept."""
    if len(key_in(headers)) > MAX_KEY_CHARS:
        raise InvalidRequest(f"The {IDEMPOTENCY_KEY} header is longer than {MAX_KEY_CHARS} characters.")


def digest_of(endpoint: str, body: object, headers: Mapping[str, str], *, selecting: Iterable[str] = ()) -> str:
    """Return 64 hexadecimal digits, equal for equal requests. Key order and the spelling of numbers do not count:
    SDK versions differ in them. `selecting` are names of further headers that choose a conversation or an end user."""
    chosen = (headers.get(name, "").strip() for name in (*SELECTING_HEADERS, *selecting))
    return digest(endpoint, canonical_json(body), *chosen).hex()
