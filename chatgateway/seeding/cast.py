"""Who appears in seeded conversations: tenants with their keys and end users, profiles, agent-servers."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from chatgateway.models import AgentServer, Turn
from profiles import issuing
from profiles.access import Caller
from profiles.models import ApiKey, Profile, Tenant

MARK = "Made by seed_demo."
TOOLS = ["terminal", "file_editor", "task_tracker"]


class NameTaken(Exception):
    """A row of that name exists and was not made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """A key, what calls with it and how it is used. `share`: of all conversations, in parts of the sum."""

    tenant: str
    name: str
    client: str
    share: float
    profiles: tuple[str, ...]
    end_users: tuple[str, ...] = ()
    streams: bool = True
    expires_in: dt.timedelta | None = None
    is_revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The rows, by name."""

    callers: dict[KeySpec, Caller]
    profiles: dict[str, Profile]
    servers: list[AgentServer]


KEYS = (
    KeySpec(
        tenant="Nordwind Logistics",
        name="Open WebUI",
        client="Open WebUI 0.6.36",
        share=34,
        profiles=("assistant", "coder", "analyst"),
        end_users=(
            "anna@nordwind.example",
            "bernd@nordwind.example",
            "chiara@nordwind.example",
            "dmitri@nordwind.example",
        ),
    ),
    KeySpec(
        tenant="Nordwind Logistics",
        name="nightly reports",
        client="OpenAI/Python 2.54.0",
        share=12,
        profiles=("analyst",),
        streams=False,
        expires_in=dt.timedelta(days=5),
    ),
    KeySpec(
        tenant="Helios Energy",
        name="engineering",
        client="OpenAI/JS 6.9.1",
        share=26,
        profiles=("coder", "reviewer"),
        end_users=("jo", "kim", "lee"),
    ),
    KeySpec(
        tenant="Helios Energy",
        name="CI",
        client="OpenAI/Python 2.54.0",
        share=14,
        profiles=("reviewer",),
        streams=False,
    ),
    KeySpec(
        tenant="Helios Energy",
        name="old laptop",
        client="curl/8.14.1",
        share=1,
        profiles=("assistant",),
        is_revoked=True,
    ),
    KeySpec(
        tenant="Kestrel Studio",
        name="LibreChat",
        client="LibreChat",
        share=13,
        profiles=("assistant", "local"),
        end_users=("mira", "noor"),
    ),
)

_PROFILES: dict[str, dict[str, Any]] = {
    "coder": {
        "description": "Works in a repository: reads, changes and tests code.",
        "llm_model": "anthropic/claude-sonnet-4-5",
        "tools": TOOLS,
        "catalogue": ("anthropic", "3", "15", "0.3", "3.75"),
    },
    "reviewer": {
        "description": "Reads changes and says what could break.",
        "llm_model": "openai/gpt-5",
        "tools": TOOLS,
        "catalogue": ("openai", "1.25", "10", "0.125", None),
        "on_disconnect": "detach",
    },
    "analyst": {
        "description": "Counts, compares and makes tables of files.",
        "llm_model": "gemini/gemini-2.5-pro",
        "tools": TOOLS,
        "catalogue": ("gemini", "1.25", "10", "0.31", None),
    },
    "assistant": {
        "description": "Answers at once, without tools.",
        "llm_model": "openai/gpt-5-mini",
        "tools": [],
        "catalogue": ("openai", "0.25", "2", "0.025", None),
    },
    "local": {
        "description": "A model on our own machine; nobody has entered its price.",
        "llm_model": "openai/qwen3-coder-30b",
        "llm_base_url": "http://llm.invalid:8000/v1",
        "tools": [],
        "catalogue": None,
    },
}

_SERVERS: tuple[dict[str, Any], ...] = (
    {"name": "agents-1", "capacity": 10, "health": "up"},
    {"name": "agents-2", "capacity": 10, "health": "up"},
    {"name": "agents-3", "capacity": 6, "health": "up", "state": "draining"},
    {
        "name": "agents-4",
        "capacity": 6,
        "health": "down",
        "health_message": "ServerUnreachable: Cannot connect to host agents-4.invalid:8000",
    },
)


def make(*, now: dt.datetime, started_at: dt.datetime) -> Cast:
    """Return the rows, made or found again. Raises NameTaken."""
    profiles = {slug: _profile(slug, **facts) for slug, facts in _PROFILES.items()}
    servers = [_server(now, **facts) for facts in _SERVERS]
    callers = {spec: _caller(spec, profiles, now=now, started_at=started_at) for spec in KEYS}
    return Cast(callers=callers, profiles=profiles, servers=servers)


def _profile(slug: str, *, catalogue: tuple[str | None, ...] | None, description: str, **facts: Any) -> Profile:
    known: dict[str, Any] = {"is_known": False}
    if catalogue is not None:
        names = ("provider", "input_price", "output_price", "cached_input_price", "cache_write_input_price")
        known = {"is_known": True, **{k: v for k, v in zip(names, catalogue, strict=True) if v is not None}}
    found = Profile.objects.filter(slug__iexact=slug).first()
    if found is None:
        text = f"{description} {MARK}"
        made = Profile.objects.create(slug=slug, description=text, catalogue=known, **facts)
        made.refresh_from_db()
        return made
    if MARK not in found.description:
        raise NameTaken(f"profile '{slug}'")
    return found


def _server(now: dt.datetime, *, name: str, health: str, **facts: Any) -> AgentServer:
    # Names under .invalid lead nowhere, by RFC 2606: no request of a real caller can arrive at one.
    url = f"http://{name}.invalid:8000"
    found = AgentServer.objects.filter(name=name).first()
    if found is not None and found.url != url:
        raise NameTaken(f"agent-server '{name}'")
    return found or AgentServer.objects.create(
        name=name,
        url=url,
        workspace_root="/srv/work",
        health=health,
        health_checked_at=now,
        down_since=now - dt.timedelta(minutes=47) if health == "down" else None,
        version="1.58.0",
        usable_tools=TOOLS,
        **facts,
    )


def _caller(spec: KeySpec, profiles: dict[str, Profile], *, now: dt.datetime, started_at: dt.datetime) -> Caller:
    tenant, is_new = Tenant.objects.get_or_create(name=spec.tenant, defaults={"notes": MARK})
    if MARK not in tenant.notes:
        raise NameTaken(f"tenant '{spec.tenant}'")
    if is_new:
        Tenant.objects.filter(pk=tenant.pk).update(created_at=started_at)
    row = ApiKey.objects.filter(tenant=tenant, name=spec.name).first() or _key(spec, tenant, profiles, now=now)
    ApiKey.objects.filter(pk=row.pk).update(created_at=started_at)
    return Caller(
        api_key_id=row.pk,
        key_name=row.name,
        key_prefix=row.secrets.values_list("prefix", flat=True).order_by("-created_at")[0],
        tenant_id=tenant.pk,
        tenant_name=tenant.name,
        can_chat=True,
        can_manage=False,
        is_global=False,
        allowed_profile_ids=frozenset(profiles[slug].pk for slug in spec.profiles),
        only_own_conversations=False,
        used_by_one_person=row.used_by_one_person,
    )


def _key(spec: KeySpec, tenant: Tenant, profiles: dict[str, Profile], *, now: dt.datetime) -> ApiKey:
    """Make a key. Its text is thrown away: nobody can call with it."""
    row, _ = issuing.create_key(
        tenant=tenant,
        name=spec.name,
        profiles=[profiles[slug] for slug in spec.profiles],
        used_by_one_person=not spec.end_users and spec.streams,
        expires_at=None if spec.expires_in is None else now + spec.expires_in,
        notes=MARK,
    )
    if spec.is_revoked:
        issuing.revoke(row, reason="The laptop was given back.")
    return row


def stamp_use(cast: Cast) -> None:
    """Note when each key was used last, as its turns say."""
    for spec, caller in cast.callers.items():
        turns = Turn.objects.filter(api_key_id=caller.api_key_id)
        last = turns.order_by("-opened_at").values_list("opened_at", flat=True).first()
        ApiKey.objects.filter(pk=caller.api_key_id).update(last_used_at=last, last_used_client=spec.client)
