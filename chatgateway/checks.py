"""What `check --deploy` says of the traffic: agents that can reach what is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.db.models import Q, QuerySet
from django.db.utils import Error as DatabaseError

from chatgateway.models import AgentServer
from profiles.models import Profile

_ISOLATE = "docs/how-to/isolate-agents.md"


@register(Tags.security, deploy=True)
def check_shared_servers(**_: Any) -> list[CheckMessage]:
    """No two tenants that do not trust each other share an agent-server, as far as anybody can tell."""
    if settings.GATEWAY_TENANTS_TRUST_EACH_OTHER:
        return []
    try:
        shared = list(_in_use().shared_by_tenants())
        return [_of_shared(server, n_tenants=server.n_tenants) for server in shared]
    except DatabaseError:  # not migrated yet, or not reachable: other commands say so
        return []


@register(Tags.security, deploy=True)
def check_embedded_servers(**_: Any) -> Iterator[CheckMessage]:
    """No agent with tools runs as the gateway's own user."""
    try:
        exposed = [server for server in _in_use().filter(is_embedded=True) if _with_tools(server).exists()]
    except DatabaseError:
        return
    for server in exposed:
        yield checks.Error(
            f"Agents with tools run on {server.name!r}, which `manage.py up` starts as the gateway's own user: whoever "
            "may call them can read the database, the provider keys and the encryption keys.",
            hint=f"Run agents as another user or on another host ({_ISOLATE}) and disable this agent-server, or take "
            "the tools from the profiles that may run on it.",
            id="gateway.E012",
        )


def _in_use() -> Any:
    return AgentServer.objects.exclude(state=AgentServer.State.DISABLED)


def _with_tools(server: AgentServer) -> QuerySet[Profile]:
    """Enabled profiles with tools that may run on this server: bound to it, or to none."""
    may_run = Q(allowed_servers=server) | Q(allowed_servers__isnull=True)
    return Profile.objects.usable().filter(may_run).exclude(tools=[])


def _of_shared(server: AgentServer, *, n_tenants: int) -> CheckMessage:
    has_tools = _with_tools(server).exists()
    return (checks.Error if has_tools else checks.Warning)(
        f"Conversations of {n_tenants} tenants run on agent-server {server.name!r}"
        + (", where agents have tools. " if has_tools else ". ")
        + "Directories keep their work apart, they do not isolate it.",
        hint="Agents on one agent-server can read each other's files and its secrets. Where tenants do not trust "
        f"each other, give each an agent-server of its own: {_ISOLATE}. Where all of them do, set "
        "GATEWAY_TENANTS_TRUST_EACH_OTHER=true.",
        id="gateway.E011" if has_tools else "gateway.W001",
    )
