"""Sweeps that Celery runs. Each works from rows, may run twice at once, and is bounded by deadlines in its own code:
the embedded worker's thread pool knows no time limits. What each returns is what the admin says of its last run."""

from __future__ import annotations

import asyncio

import aiohttp
from celery import shared_task
from django.utils import timezone

from chatgateway import alerts, erasures, hourly, lifetime, retention, servers, strays, takeover, turn_texts
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.agentserver.schemas import ServerInfo
from chatgateway.models import AgentServer

PROBE_SECONDS = 5.0


@shared_task(name="chatgateway.tasks.probe_servers")
def probe_servers() -> str:
    """Ask every agent-server how it is. A server that answers again is used again at once."""
    rows = list(AgentServer.objects.exclude(state=AgentServer.State.DISABLED))
    n_up = 0
    for server, facts in zip(rows, asyncio.run(_probe_all(rows)), strict=True):
        if isinstance(facts, AgentServerError):
            servers.note_health(server, is_up=False, message=f"{type(facts).__name__}: {facts}")
        else:
            n_up += 1
            servers.note_health(
                server,
                is_up=True,
                version=facts.version,
                capabilities=sorted(facts.capabilities),
                usable_tools=sorted(facts.usable_tools),
            )
    return f"{n_up} of {len(rows)} agent-servers answered"


@shared_task(name="chatgateway.tasks.recover_turns")
def recover_turns() -> str:
    """Take over turns whose process died, where no gateway process has done so."""
    return f"{asyncio.run(takeover.recover())} turns taken over"


@shared_task(name="chatgateway.tasks.expire_conversations")
def expire_conversations() -> str:
    """End the time of conversations that are idle, or too many, on their agent-servers."""
    idle, too_many = lifetime.expire_idle(), lifetime.expire_beyond_limits()
    return f"{idle} idle for too long, {too_many} beyond a server's limit"


@shared_task(name="chatgateway.tasks.remove_leftovers")
def remove_leftovers() -> str:
    """Remove from agent-servers what conversations have left there."""
    done = lifetime.remove_leftovers()
    return f"{done.removed} removed, {done.kept} in use again, {done.failed} failed"


@shared_task(name="chatgateway.tasks.remove_strays")
def remove_strays() -> str:
    """Remove from agent-servers what a process left there that died before its turn was committed."""
    return f"{strays.remove_strays()} conversations without a turn removed"


@shared_task(name="chatgateway.tasks.release_idempotency_keys")
def release_idempotency_keys() -> str:
    """Let idempotency keys of a day ago name new requests."""
    return f"{lifetime.release_idempotency_keys()} keys released"


@shared_task(name="chatgateway.tasks.warn_of_ceilings")
def warn_of_ceilings() -> str:
    """Warn of keys and tenants that have used most of their money."""
    now = timezone.now()
    written = alerts.look(now)
    arrived, failed = alerts.send_due(now)
    return f"{written} new warnings, {arrived} sent, {failed} did not arrive"


@shared_task(name="chatgateway.tasks.sum_up_hours")
def sum_up_hours() -> str:
    """Sum the turns of the hours that are over, for the charts of the admin."""
    done = hourly.sum_up(timezone.now())
    return f"{done.hours} hours summed{'' if done.is_complete else '; out of time, the rest in five minutes'}"


@shared_task(name="chatgateway.tasks.index_texts")
def index_texts() -> str:
    """Make the texts of turns searchable that were recorded before there was a search."""
    done = turn_texts.fill_in()
    return f"{done.turns} turns added{'' if done.is_complete else '; out of time, the rest in a minute'}"


@shared_task(name="chatgateway.tasks.apply_retention")
def apply_retention() -> str:
    """Remove from the record what is older than its profile keeps it."""
    done = retention.sweep()
    rest = "" if done.is_complete else "; out of time, the rest in an hour"
    deleted = f"{done.turns} turns and {done.conversations} conversations deleted"
    return f"Texts of {done.contents} turns removed, {deleted}{rest}"


@shared_task(name="chatgateway.tasks.erase_end_users")
def erase_end_users() -> str:
    """Remove the data of end users whose deletion was asked for."""
    completed, waiting = erasures.carry_out_all()
    return f"{completed} end users' data deleted, {waiting} under way"


async def _probe_all(rows: list[AgentServer]) -> list[ServerInfo | AgentServerError]:
    async with new_http_session() as http:
        return await asyncio.gather(*(_probe(server, http) for server in rows))


async def _probe(server: AgentServer, http: aiohttp.ClientSession) -> ServerInfo | AgentServerError:
    client = AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=http)
    try:
        return await client.server_info(timeout_seconds=PROBE_SECONDS)
    except AgentServerError as error:
        return error
