"""Settings that cannot work, found at start and not at the first request. Each message names the variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register

MINIMUM_CHARS = 32


@register(Tags.security)
def check_secrets(**_: Any) -> list[CheckMessage]:
    """The encryption keys and the pepper are there, long enough, and each its own."""
    encryption: list[str] = settings.GATEWAY_ENCRYPTION_KEYS
    pepper: str = settings.GATEWAY_API_KEY_PEPPER
    found: list[CheckMessage] = []
    if not encryption:
        found.append(Error("GATEWAY_ENCRYPTION_KEYS is empty.", hint=_HOW_TO_MAKE_ONE, id="profiles.E001"))
    if any(len(key) < MINIMUM_CHARS for key in encryption):
        found.append(
            Error(
                f"GATEWAY_ENCRYPTION_KEYS: each key needs at least {MINIMUM_CHARS} characters.",
                hint=_HOW_TO_MAKE_ONE,
                id="profiles.E002",
            )
        )
    if len(pepper) < MINIMUM_CHARS:
        found.append(
            Error(
                f"GATEWAY_API_KEY_PEPPER needs at least {MINIMUM_CHARS} characters.",
                hint=_HOW_TO_MAKE_ONE,
                id="profiles.E003",
            )
        )
    if pepper and (pepper in encryption or pepper == settings.SECRET_KEY):
        found.append(
            Error(
                "GATEWAY_API_KEY_PEPPER is also used as another secret.",
                hint="Whoever learns one of them must not learn the others. " + _HOW_TO_MAKE_ONE,
                id="profiles.E004",
            )
        )
    return found


@register(Tags.security, deploy=True)
def check_shared_secrets(**_: Any) -> list[CheckMessage]:
    """Several hosts on one database share their secrets; ones made in a data directory they do not."""
    if settings.DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
        return []
    generated = {
        "GATEWAY_SECRET_KEY": ("django", [settings.SECRET_KEY]),
        "GATEWAY_ENCRYPTION_KEYS": ("encryption", settings.GATEWAY_ENCRYPTION_KEYS),
        "GATEWAY_API_KEY_PEPPER": ("pepper", [settings.GATEWAY_API_KEY_PEPPER]),
    }
    return [
        checks.Warning(
            f"{variable} is not set; this host uses one of its own from {settings.DATA_DIR / 'secrets' / name}.",
            hint="Another host could not read what this one writes, or would refuse its keys. Give all the same.",
            id="profiles.W001",
        )
        for variable, (name, values) in generated.items()
        if _content(settings.DATA_DIR / "secrets" / name) in values
    ]


@register(Tags.security, deploy=True)
def check_trusted_proxies(**_: Any) -> list[CheckMessage]:
    """Nobody believes the whole internet's X-Forwarded-For."""
    if any(network.prefixlen == 0 for network in settings.GATEWAY_TRUSTED_PROXIES):
        return [
            Error(
                "GATEWAY_TRUSTED_PROXIES trusts every address: any caller can pretend to call from any other.",
                hint="Write the addresses of your proxies.",
                id="profiles.E005",
            )
        ]
    return []


_HOW_TO_MAKE_ONE = "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


def _content(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None
