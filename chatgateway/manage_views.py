"""The routes under /api, for keys of scope manage: profiles over REST, and a conversation's state on its agent-server.

Paths and bodies are those of the agent-server's own API, so that scripts written for it go on working.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request

from chatgateway import conversations, turns
from chatgateway.agentserver.exceptions import AgentServerError, ConversationMissing
from chatgateway.api_view import AsyncAPIView, in_thread, json_response
from chatgateway.drivers import current
from chatgateway.errors import AgentServerUnavailable
from chatgateway.models import Conversation
from chatgateway.writer import writer
from profiles import manage
from profiles.authentication import MayManage, address_of

logger = logging.getLogger(__name__)

CALL_SECONDS = 15.0


class ProfilesView(AsyncAPIView):
    """`GET /api/profiles`."""

    permission_classes = [MayManage]

    async def get(self, _: Request) -> HttpResponse:
        profiles = await in_thread(lambda: manage.list_profiles(self.caller))
        return json_response({"profiles": [manage.profile_json(profile) for profile in profiles]})


class ProfileView(AsyncAPIView):
    """`GET`, `POST` and `DELETE /api/profiles/{name}`. `POST` also replaces."""

    permission_classes = [MayManage]

    async def get(self, _: Request, name: str) -> HttpResponse:
        profile = await in_thread(lambda: manage.get_profile(self.caller, name))
        return json_response(manage.profile_json(profile))

    async def post(self, _: Request, name: str) -> HttpResponse:
        body = await self.read_body()
        address = address_of(self.request)
        _profile, warnings = await in_thread(lambda: manage.save_profile(self.caller, name, body, address=address))
        reply: dict[str, Any] = {"name": name, "message": f"Profile '{name}' saved"}
        if warnings:
            reply["warnings"] = warnings
        return json_response(reply, status=201)

    async def delete(self, _: Request, name: str) -> HttpResponse:
        address = address_of(self.request)
        await in_thread(lambda: manage.delete_profile(self.caller, name, address=address))
        return json_response({"name": name, "message": f"Profile '{name}' deleted"})


class ConversationView(AsyncAPIView):
    """`GET` and `DELETE /api/conversations/{id}`."""

    permission_classes = [MayManage]

    async def get(self, _: Request, conversation_id: str) -> HttpResponse:
        conversation = await self._find(conversation_id)
        raw = await self._ask_agent_server(conversation)
        stats = raw.get("stats") or {"usage_to_metrics": _recorded_usage(conversation)}
        return json_response(
            {
                "id": str(conversation.pk),
                "execution_status": raw.get("execution_status", "idle"),
                "workspace": {"working_dir": conversation.working_dir},
                "stats": {"usage_to_metrics": stats["usage_to_metrics"]},
                "profile": conversation.profile_slug,
                "created_at": conversation.created_at.isoformat(),
                "last_turn_at": conversation.last_turn_at.isoformat(),
            }
        )

    async def delete(self, _: Request, conversation_id: str) -> HttpResponse:
        """Remove the conversation from its agent-server, now if that answers, else when it does. Its turns stay in the
        audit; it cannot be continued."""
        conversation = await self._find(conversation_id)
        await turns.cancel_conversation(conversation.pk)
        await writer.run(lambda: conversations.deleted(conversation))
        if conversation.agent_server is not None:
            client = current().client(conversation.agent_server)
            try:
                await client.delete(conversation.pk, timeout_seconds=CALL_SECONDS)
            except AgentServerError as error:
                logger.warning("conversation %s is deleted later: %s", conversation.pk, error)
        return json_response({"id": str(conversation.pk), "success": True, "message": "Conversation deleted"})

    async def _find(self, conversation_id: str) -> Conversation:
        try:
            key = UUID(conversation_id)
        except ValueError:
            raise conversations.not_found() from None
        return await in_thread(
            lambda: conversations.get_for(caller=self.caller, conversation_id=key, for_management=True)
        )

    async def _ask_agent_server(self, conversation: Conversation) -> dict[str, Any]:
        """Return what the agent-server says of the conversation; `{}` when it does not have it."""
        if conversation.agent_server is None or conversation.state != Conversation.State.LIVE:
            return {}
        client = current().client(conversation.agent_server)
        try:
            return (await client.conversation(conversation.pk, timeout_seconds=CALL_SECONDS)).raw
        except ConversationMissing:
            return {}
        except AgentServerError as error:
            raise _unavailable(error) from error


def _recorded_usage(conversation: Conversation) -> dict[str, Any]:
    return {usage_id: {"accumulated_token_usage": counts} for usage_id, counts in conversation.usage_baseline.items()}


def _unavailable(error: AgentServerError) -> AgentServerUnavailable:
    return AgentServerUnavailable(
        "The agent-server of this conversation does not answer. Try again in a moment.",
        detail=f"{type(error).__name__}: {error}",
    )
