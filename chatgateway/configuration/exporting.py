"""Writing the file."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from chatgateway.configuration import document
from chatgateway.configuration.document import ALL, KEYS, PROFILES, SERVERS, TENANTS, Entry, Kind
from chatgateway.models import AgentServer
from profiles import issuing
from profiles.fields import Secret, encrypt
from profiles.models import ApiKey, Profile, Tenant

_WITHOUT_SECRETS = "Secrets are not in it: import_config keeps those that are stored."
_WITH_SECRETS = (
    "Its secrets are encrypted: only a gateway with the same GATEWAY_ENCRYPTION_KEYS can read them, and its API keys "
    "work\nonly with the same GATEWAY_API_KEY_PEPPER."
)


def export(*, includes_secrets: bool) -> str:
    """Return the file. Left out are the demo, agent-servers that `up` keeps itself, and keys that were revoked."""
    with transaction.atomic():  # one state of the database
        servers = AgentServer.objects.filter(is_embedded=False).order_by("name")
        profiles = Profile.objects.exclude(source=Profile.Source.DEMO).order_by("slug")
        keys = ApiKey.objects.filter(revoked_at__isnull=True).order_by("tenant__name", "name")
        found: dict[str, Any] = {"format": document.FORMAT}
        if includes_secrets:
            found["api_key_pepper"] = document.pepper_mark()
        found[TENANTS.section] = [_entry(TENANTS, row) for row in Tenant.objects.order_by("name")]
        found[SERVERS.section] = [
            _entry(SERVERS, row) | _secrets(SERVERS, row, includes_secrets=includes_secrets) for row in servers
        ]
        found[PROFILES.section] = [
            _profile(row) | _secrets(PROFILES, row, includes_secrets=includes_secrets)
            for row in profiles.select_related("owner").prefetch_related("allowed_servers")
        ]
        found[KEYS.section] = [
            _key(row) | (_key_secrets(row) if includes_secrets else {})
            for row in keys.select_related("tenant").prefetch_related("allowed_profiles", "secrets")
        ]
    comment = f"Written by export_config. {_WITH_SECRETS if includes_secrets else _WITHOUT_SECRETS}"
    return document.dump(found, comment=comment)


def _entry(kind: Kind, row: models.Model) -> Entry:
    return {name: _plain(getattr(row, name)) for name in kind.columns}


def _profile(profile: Profile) -> Entry:
    owner = None if profile.owner is None else profile.owner.name
    servers = sorted(server.name for server in profile.allowed_servers.all())
    return _entry(PROFILES, profile) | {"owner": owner, "allowed_servers": servers}


def _key(key: ApiKey) -> Entry:
    # A profile that is not in the file cannot be named in it; without it the key may use less, never more.
    named = [row.slug for row in key.allowed_profiles.all() if not row.is_demo]
    profiles = ALL if key.allows_all_profiles else sorted(named)
    return {"tenant": key.tenant.name} | _entry(KEYS, key) | {"profiles": profiles}


def _secrets(kind: Kind, row: models.Model, *, includes_secrets: bool) -> Entry:
    """Those that are set; an entry without a secret leaves what is stored."""
    if not includes_secrets:
        return {}
    stored: dict[str, Secret] = {name: getattr(row, name) for name in kind.secrets}
    return {name: {"encrypted": encrypt(secret.reveal())} for name, secret in stored.items() if secret}


def _key_secrets(key: ApiKey) -> Entry:
    live = issuing.live_secrets(key, now=timezone.now()).order_by("created_at")
    columns = ("prefix", "digest", "created_at", "expires_at")
    return {"secrets": [{name: _plain(getattr(row, name)) for name in columns} for row in live]}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value if value is None or isinstance(value, bool | int | float | list) else str(value)
