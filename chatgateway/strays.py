"""Conversations on agent-servers that no row speaks of.

An agent is made while its turn is being committed (`head_start`). A process that dies in those milliseconds leaves an
agent behind that was never told anything. It is recognised by that, by our tag, by its age, and by having no row; so
one of another gateway that shares the agent-server is safe: a conversation that old, to which nothing was ever said,
is made anew by whoever still means to speak to it. Runs in the worker.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from uuid import UUID

import aiohttp
from django.utils import timezone

from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.agentserver.schemas import ConversationInfo
from chatgateway.models import AgentServer, Conversation

logger = logging.getLogger(__name__)

# A turn is committed within a second, or a minute where the database is in trouble.
OLD_MINUTES = 15
CALL_SECONDS = 30.0


def remove_strays() -> int:
    """Remove them from agent-servers that answer; return how many there were."""
    servers = list(
        AgentServer.objects.exclude(state=AgentServer.State.DISABLED).exclude(health=AgentServer.Health.DOWN)
    )
    found = asyncio.run(_unspoken_on_all(servers))
    known = set(Conversation.objects.filter(pk__in=[one for _, one in found]).values_list("pk", flat=True))
    return asyncio.run(_remove_all([(server, one) for server, one in found if one not in known]))


async def _unspoken_on_all(servers: list[AgentServer]) -> list[tuple[AgentServer, UUID]]:
    async with new_http_session() as http:
        of_each = await asyncio.gather(*(_unspoken_on(_client(server, http), server) for server in servers))
    return [(server, one) for server, ids in zip(servers, of_each, strict=True) for one in ids]


async def _unspoken_on(client: AgentServerClient, server: AgentServer) -> list[UUID]:
    try:
        idle = await client.idle_conversations(timeout_seconds=CALL_SECONDS)
    except AgentServerError as error:
        logger.warning("%s could not be looked through: %s", server.name, error)
        return []
    return [info.id for info in idle if _is_forgotten(info)]


def _is_forgotten(info: ConversationInfo) -> bool:
    """Whether a gateway made it a while ago and has said nothing to it since."""
    if info.tags.get("gateway") != "turns" or info.last_user_message_id is not None or info.created_at is None:
        return False
    return info.created_at < timezone.now() - dt.timedelta(minutes=OLD_MINUTES)


async def _remove_all(strays: list[tuple[AgentServer, UUID]]) -> int:
    async with new_http_session() as http:
        return sum([await _remove(_client(server, http), one) for server, one in strays])


async def _remove(client: AgentServerClient, conversation_id: UUID) -> bool:
    try:
        return await client.delete(conversation_id, timeout_seconds=CALL_SECONDS)
    except AgentServerError as error:
        logger.warning("conversation %s could not be removed: %s", conversation_id, error)
        return False


def _client(server: AgentServer, http: aiohttp.ClientSession) -> AgentServerClient:
    return AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=http)
