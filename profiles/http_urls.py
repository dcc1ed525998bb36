"""URLs that an administrator enters: what is accepted, and when two lead to the same place. Pure but for the error."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What clients of an LLM add to its base URL by themselves.
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages", "/embeddings", "/models")


def validate_http_url(text: str) -> None:
    """Raise ValidationError unless `text` is an http or https URL of a host, perhaps with a port and a path.

    Django's own validator refuses host names without a dot, which is what a service is called in a compose file.
    Credentials in the URL are refused: it is shown in lists, and there is a field for them.
    """
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValidationError("The URL holds white space or control characters.", code="invalid")
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValidationError("That is not a URL: its host or port cannot be read.", code="invalid") from None
    if parts.scheme.lower() not in _DEFAULT_PORTS or not has_host:
        raise ValidationError("Write the whole URL, such as https://llm.example.com/v1.", code="invalid")
    if parts.username is not None or parts.password is not None:
        raise ValidationError("Leave user and password out of the URL.", code="invalid")
    if parts.query or parts.fragment:
        raise ValidationError("The URL must not have a query or a fragment.", code="invalid")


def origin_of(url: str) -> str:
    """Return scheme, host and port, spelled in one way; empty for an empty or unreadable URL."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())
    except ValueError:
        return ""
    if not parts.hostname:
        return ""
    return f"{parts.scheme.lower()}://{parts.hostname.lower().rstrip('.')}:{port}"


def doubts_about_llm_url(url: str, *, model: str) -> list[str]:
    """Return what is likely to be wrong with a base URL that could be right, in sentences; of an empty one nothing."""
    if not url:
        return []
    parts = urlsplit(url)
    path, host = parts.path.rstrip("/"), (parts.hostname or "").lower()
    doubts = []
    endpoint = next((ending for ending in _ENDPOINTS if path.endswith(ending)), None)
    if endpoint is not None:
        doubts.append(f"LiteLLM adds “{endpoint}” by itself: leave it out.")
    elif model.startswith("openai/") and not path:
        doubts.append("Most servers that speak OpenAI's protocol have it under a path such as /v1.")
    if _is_own_host(host):
        doubts.append("The agent-server calls this address: it is reached only if the LLM runs on the same machine.")
    elif parts.scheme.lower() == "http" and _is_public(host):
        doubts.append("Key and texts go there unencrypted: use https.")
    return doubts


def _is_own_host(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_public(host: str) -> bool:
    """Whether a host is likely to be reached over the internet: a global address, or a name with a dot that is not
    one of those for private networks."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".local", ".internal", ".lan", ".home.arpa", ".test"))
