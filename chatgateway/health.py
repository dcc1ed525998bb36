"""Whether turns can be served."""

from __future__ import annotations

from django.db import connection
from django.db.utils import Error as DatabaseError

from chatgateway.models import AgentServer
from profiles.models import Profile


def missing() -> list[str]:
    """Return what stands in the way of serving a turn, in words for an operator; empty when nothing does."""
    try:
        connection.ensure_connection()
        found = []
        if not AgentServer.objects.filter(state=AgentServer.State.ACTIVE).exclude(health="down").exists():
            found.append("no agent-server is active and up")
        if not Profile.objects.usable().exists():
            found.append("no profile is enabled")
    except DatabaseError:
        return ["the database does not answer"]
    return found
