"""Sweeps that Celery runs. Each works from rows, may run twice at once, and is bounded by deadlines in its own code:
the embedded worker's thread pool knows no time limits."""

from __future__ import annotations

import asyncio

import aiohttp
from celery import shared_task

from chatgateway import servers
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.agentserver.schemas import ServerInfo
from chatgateway.models import AgentServer

PROBE_SECONDS = 5.0


@shared_task(name="chatgateway.tasks.probe_servers")
def probe_servers() -> None:
    """Ask every agent-server how it is. A server that answers again is used again at once."""
    rows = list(AgentServer.objects.exclude(state=AgentServer.State.DISABLED))
    for server, facts in zip(rows, asyncio.run(_probe_all(rows)), strict=True):
        if isinstance(facts, AgentServerError):
            servers.note_health(server, is_up=False, message=f"{type(facts).__name__}: {facts}")
        else:
            servers.note_health(
                server,
                is_up=True,
                version=facts.version,
                capabilities=sorted(facts.capabilities),
                usable_tools=sorted(facts.usable_tools),
            )


async def _probe_all(rows: list[AgentServer]) -> list[ServerInfo | AgentServerError]:
    async with new_http_session() as http:
        return await asyncio.gather(*(_probe(server, http) for server in rows))


async def _probe(server: AgentServer, http: aiohttp.ClientSession) -> ServerInfo | AgentServerError:
    client = AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=http)
    try:
        return await client.server_info(timeout_seconds=PROBE_SECONDS)
    except AgentServerError as error:
        return error
