"""What `check --deploy` says of the traffic. Nothing here stops a process."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.db.utils import Error as DatabaseError

from chatgateway.models import AgentServer


@register(Tags.security, deploy=True)
def check_shared_servers(**_: Any) -> list[CheckMessage]:
    """No two tenants that do not trust each other share an agent-server, as far as anybody can tell."""
    try:
        shared = list(AgentServer.objects.exclude(state=AgentServer.State.DISABLED).shared_by_tenants())
    except DatabaseError:  # not migrated yet, or not reachable: other commands say so
        return []
    return [
        checks.Warning(
            f"Conversations of {server.n_tenants} tenants run on agent-server {server.name!r}. "  # type: ignore[attr-defined]
            "Directories keep their work apart, they do not isolate it.",
            hint="Agents on one agent-server can read each other's files and its secrets. Where tenants do not trust "
            "each other, give each an agent-server of its own: docs/how-to/isolate-agents.md.",
            id="gateway.W001",
        )
        for server in shared
    ]
