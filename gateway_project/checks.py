"""What `check --deploy` refuses: settings that are unsafe once others can reach the gateway. Each says what to do.

Errors make the command fail, so that a deployment that begins with it goes no further; warnings may be meant.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004  # Django's own name

MINIMUM_CHARS = 32
MINIMUM_METRICS_TOKEN_CHARS = 16
# What examples have in the place of a secret.
_PLACEHOLDER = re.compile(
    r"change.?me|replace|example|insecure|default|password|placeholder|your.?secret|x{6}", re.IGNORECASE
)
_NEW_SECRET = "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105  # a command
# What a broker is reached by without TLS, and what with it.
_ENCRYPTED = {"redis": "rediss", "amqp": "amqps", "valkey": "valkeys"}


@register(Tags.security, deploy=True)
def check_secrets_are_secret(**_: Any) -> Iterator[CheckMessage]:
    """The signing key is long enough, and no secret is one that an example had."""
    if len(settings.SECRET_KEY) < MINIMUM_CHARS:
        yield Error(
            f"GATEWAY_SECRET_KEY has {len(settings.SECRET_KEY)} characters, fewer than {MINIMUM_CHARS}: sessions of "
            "administrators can be forged.",
            hint=_NEW_SECRET,
            id="gateway.E001",
        )
    given = {
        "GATEWAY_SECRET_KEY": [settings.SECRET_KEY],
        "GATEWAY_ENCRYPTION_KEYS": settings.GATEWAY_ENCRYPTION_KEYS,
        "GATEWAY_API_KEY_PEPPER": [settings.GATEWAY_API_KEY_PEPPER],
        "GATEWAY_METRICS_TOKEN": [settings.GATEWAY_METRICS_TOKEN],
        "GATEWAY_WEBHOOK_SECRET": [settings.GATEWAY_WEBHOOK_SECRET],
        "GATEWAY_OIDC_CLIENT_SECRET": [settings.GATEWAY_OIDC_CLIENT_SECRET],
        "GATEWAY_BOOTSTRAP_API_KEY": [settings.GATEWAY_BOOTSTRAP_API_KEY],
    }
    for variable, values in given.items():
        if any(value and _is_guessed(value) for value in values):
            yield Error(f"{variable} looks like the placeholder of an example.", hint=_NEW_SECRET, id="gateway.E002")
    if 0 < len(settings.GATEWAY_METRICS_TOKEN) < MINIMUM_METRICS_TOKEN_CHARS:
        yield Error(
            f"GATEWAY_METRICS_TOKEN has fewer than {MINIMUM_METRICS_TOKEN_CHARS} characters: the metrics are as good "
            "as open.",
            hint=_NEW_SECRET,
            id="gateway.E003",
        )


@register(Tags.security, deploy=True)
def check_hosts(**_: Any) -> Iterator[CheckMessage]:
    """It answers to names of its own, and shows no source code."""
    if any(host in {"*", "."} for host in settings.ALLOWED_HOSTS):
        yield Error(
            "GATEWAY_ALLOWED_HOSTS answers to every name.",
            hint="A page of any other site could then reach the gateway under a name of its own. "
            "Write the names it has, such as gateway.example.com.",
            id="gateway.E004",
        )
    if settings.DEBUG:
        yield Error(
            "GATEWAY_DEBUG is on: whoever causes an error is shown settings, source code and local variables.",
            hint="Remove GATEWAY_DEBUG.",
            id="gateway.E005",
        )
    host = (urlsplit(settings.GATEWAY_PUBLIC_URL).hostname or "").lower()
    allowed = {name.lower().strip("[]") for name in settings.ALLOWED_HOSTS}
    if not any(host == name or (name.startswith(".") and f".{host}".endswith(name)) for name in allowed):
        yield Error(
            f"GATEWAY_PUBLIC_URL is at {host}, which GATEWAY_ALLOWED_HOSTS does not allow: every request to it is "
            "refused.",
            hint=f"Add {host} to GATEWAY_ALLOWED_HOSTS.",
            id="gateway.E006",
        )


@register(Tags.security, deploy=True)
def check_transport(**_: Any) -> Iterator[CheckMessage]:
    """Keys, passwords and prompts do not cross a network in the clear."""
    public = urlsplit(settings.GATEWAY_PUBLIC_URL)
    if public.scheme == "http" and not _is_this_machine(public.hostname):
        yield Error(
            f"GATEWAY_PUBLIC_URL is {settings.GATEWAY_PUBLIC_URL}: API keys, passwords and prompts cross the network "
            "in the clear.",
            hint="Put a proxy with TLS in front (docs/how-to/run-in-production.md) and write its https:// address.",
            id="gateway.E007",
        )
    if public.scheme == "https" and not settings.GATEWAY_TRUSTED_PROXIES:
        yield Error(
            "GATEWAY_PUBLIC_URL is https, but no proxy is trusted to say so.",
            hint="Without GATEWAY_TRUSTED_PROXIES every caller has the proxy's address: one who guesses keys or "
            "passwords locks out all, and neither the redirect to https nor HSTS is sent. Write the proxy's address.",
            id="gateway.E008",
        )
    if _is_clear_text(settings.GATEWAY_OIDC_ISSUER):
        yield Error(
            f"GATEWAY_OIDC_ISSUER is {settings.GATEWAY_OIDC_ISSUER}: whoever sits on the way can sign in as anybody.",
            hint="Write the provider's https:// address.",
            id="gateway.E013",
        )
    insecure = [origin for origin in settings.CORS_ALLOWED_ORIGINS if _is_clear_text(origin)]
    if insecure:
        yield Warning(
            f"GATEWAY_CORS_ALLOWED_ORIGINS allows {', '.join(insecure)}: whoever sits on the way to such a page "
            "can call with its users' keys.",
            hint="Serve the page by https.",
            id="gateway.W002",
        )


@register(Tags.security, deploy=True)
def check_services(**_: Any) -> Iterator[CheckMessage]:
    """Database and broker fit one another and the number of hosts, and are spoken to in private."""
    database, broker = settings.DATABASES["default"], settings.CELERY_BROKER_URL
    is_file = database["ENGINE"] == "django.db.backends.sqlite3"
    broker_is_file = broker.startswith("sqla+sqlite")
    if is_file and not broker_is_file:
        yield Error(
            "The broker is for several hosts or processes, the database is a SQLite file for one.",
            hint="Set GATEWAY_DATABASE_URL to a PostgreSQL database; or, on one host, unset GATEWAY_CELERY_BROKER_URL.",
            id="gateway.E009",
        )
    elif is_file:
        yield Warning(
            "The database is a SQLite file: one writer at a time, on one host.",
            hint="Good for one gateway process and some tens of turns at once. For more processes or hosts, or to "
            "deploy without a break, set GATEWAY_DATABASE_URL to a PostgreSQL database.",
            id="gateway.W003",
        )
    if not is_file and broker_is_file:
        yield Error(
            "GATEWAY_CELERY_BROKER_URL is not set: each host has a broker of its own in a file, and beat and workers "
            "on different hosts never meet.",
            hint="Set it to a Redis, Valkey or RabbitMQ, such as redis://host:6379/0 or amqp://user:password@host//.",
            id="gateway.E010",
        )
    if not is_file and _crosses_a_network(database["HOST"]) and _is_unencrypted(database["OPTIONS"]):
        yield Warning(
            f"The database is at {database['HOST']}, and its URL does not demand TLS.",
            hint="Add ?sslmode=verify-full to GATEWAY_DATABASE_URL, unless the network between is yours alone.",
            id="gateway.W004",
        )
    parts = urlsplit(broker)
    if (safer := _ENCRYPTED.get(parts.scheme)) and _crosses_a_network(parts.hostname or ""):
        yield Warning(
            f"The broker at {parts.hostname} is spoken to in the clear"
            + ("." if parts.password else ", and without a password: whoever reaches it can have workers run tasks."),
            hint=f"Use {safer}:// with a password, unless the network between is yours alone.",
            id="gateway.W005",
        )


# --- inside -------------------------------------------------------------------------------------------------------


def _is_guessed(value: str) -> bool:
    return bool(_PLACEHOLDER.search(value)) or len(set(value)) < 8


def _is_this_machine(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _is_clear_text(origin: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme == "http" and not _is_this_machine(parts.hostname)


def _crosses_a_network(host: str) -> bool:
    """Names without a dot are those of containers and services on a network of one's own; "" is a Unix socket."""
    return bool(host) and not host.startswith("/") and "." in host and not _is_this_machine(host)


def _is_unencrypted(options: dict[str, Any]) -> bool:
    return options.get("sslmode") not in {"require", "verify-ca", "verify-full"}
