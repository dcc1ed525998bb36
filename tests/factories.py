"""The only way rows are made in tests. Every function takes what the test cares about and invents the rest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import connection

from chatgateway.models import AgentServer
from profiles import issuing, keys
from profiles.models import ApiKey, Profile, Tenant

_numbers = itertools.count(1)

# --- profiles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeKey:
    row: ApiKey
    text: str


def tenant(**fields: Any) -> Tenant:
    return Tenant.objects.create(**{"name": f"tenant {next(_numbers)}"} | fields)


def api_key(**fields: Any) -> MadeKey:
    """A key of a tenant of its own with both scopes, unless said otherwise."""
    given: dict[str, Any] = {"name": f"key {next(_numbers)}", "can_manage": True} | fields
    given.setdefault("tenant", None)
    if given["tenant"] is None:
        given["tenant"] = tenant()
    row, text = issuing.create_key(**given)
    return MadeKey(row=row, text=text)


def digest(text: str) -> str:
    """As stored beside the secret of a key that reads `text`."""
    return keys.digest(text, pepper=settings.GATEWAY_API_KEY_PEPPER)


def profile(**fields: Any) -> Profile:
    """A profile without tools, priced 1 and 2 USD per million tokens."""
    given: dict[str, Any] = {
        "slug": f"profile-{next(_numbers)}",
        "llm_model": "openai/scripted",
        "llm_api_key": "sk-provider-secret",
        "llm_base_url": "http://127.0.0.1:9/v1",
        "input_price": "1",
        "output_price": "2",
        "llm_retries": 0,
    }
    return Profile.objects.create(**given | fields)


# --- chatgateway ---------------------------------------------------------------------------------------------------


def agent_server(**fields: Any) -> AgentServer:
    number = next(_numbers)
    given: dict[str, Any] = {
        "name": f"agent-server {number}",
        "url": f"http://127.0.0.1:9/{number}",
        "session_api_key": "session-secret",
        "workspace_root": "/srv/workspaces",
    }
    return AgentServer.objects.create(**given | fields)


# --- people --------------------------------------------------------------------------------------------------------


def person(role: str = "", **fields: Any) -> User:
    """Somebody who may sign in to the admin, with a role or with none."""
    user = User.objects.create_user(
        **{"username": f"{role or 'nobody'}-{next(_numbers)}", "password": "x", "is_staff": True} | fields
    )
    if role:
        if not Group.objects.filter(name=role).exists():  # a test before this one emptied the tables
            import_module("chatgateway.migrations.0008_roles").make_roles(apps, connection.schema_editor())
            import_module("chatgateway.migrations.0016_exports").allow(apps, connection.schema_editor())
        user.groups.add(Group.objects.get(name=role))
    return user
