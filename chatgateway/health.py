"""Whether turns can be served, and what is wrong besides."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection
from django.db.utils import Error as DatabaseError
from django.utils import timezone

from chatgateway import task_log
from chatgateway.models import AgentServer
from profiles.models import Profile

# Whoever asks whether a process is ready waits a second for the answer, often not longer.
CONNECT_SECONDS = 0.3
POSTGRES_PORT = 5432
# Where a broker listens whose URL names no port. Brokers of another kind are not asked.
_BROKER_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "pyamqp": 5672, "amqps": 5671}


@dataclass(slots=True, kw_only=True)
class Readiness:
    """In words for an operator, without addresses: anybody may ask.

    `missing` stands in the way of serving a turn; `impaired` does not, as long as it does not last.
    """

    missing: list[str] = field(default_factory=list)
    impaired: list[str] = field(default_factory=list)


def look() -> Readiness:
    """Return what is missing and what is impaired, both empty when all is well. A few short queries."""
    found = Readiness()
    known = connection.settings_dict
    if connection.vendor == "postgresql" and not _listens(known["HOST"], int(known["PORT"] or POSTGRES_PORT)):
        return Readiness(missing=["the database does not answer"])  # else known after the pool's ten seconds
    try:
        _look_at_servers(found)
        if not Profile.objects.usable().exists():
            found.missing.append("no profile is enabled")
        if task_log.is_silent(now=timezone.now()):
            found.impaired.append(_why_no_worker_runs())
    except DatabaseError:
        return Readiness(missing=["the database does not answer"])
    return found


def _look_at_servers(found: Readiness) -> None:
    servers = list(AgentServer.objects.order_by("name"))
    active = [server for server in servers if server.state == AgentServer.State.ACTIVE]
    down = [server.name for server in active if server.health == AgentServer.Health.DOWN]
    if not active:
        found.missing.append("no agent-server is active" if servers else "there is no agent-server")
    elif len(down) == len(active):
        found.missing.append(f"no active agent-server answers: {', '.join(down)}")
    else:
        found.impaired += [f"agent-server {name} does not answer" for name in down]


def _why_no_worker_runs() -> str:
    if not _broker_listens(settings.CELERY_BROKER_URL):
        return "the message broker does not answer, so no background task runs"
    return "no worker has begun a background task for a minute"


def _broker_listens(url: str) -> bool:
    parts = urlsplit(url)
    port = _BROKER_PORTS.get(parts.scheme)
    return port is None or _listens(parts.hostname or "localhost", parts.port or port)


def _listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there; True for what is not on the network."""
    if not host or host.startswith("/"):
        return True
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
