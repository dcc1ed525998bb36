"""The endpoints of /v1/conversations: conversations as objects that responses name, and the items in them."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from chatgateway import conversations, responses, stored_items, turns
from chatgateway.api_view import in_thread, json_response
from chatgateway.audit import Asked
from chatgateway.errors import NotFound
from chatgateway.models import Conversation
from chatgateway.openai_api import conversation_request
from chatgateway.openai_api.responses_input import Item
from chatgateway.openai_api.responses_reply import conversation_name, uuid_in
from chatgateway.views import V1View
from chatgateway.writer import writer


class NamedConversationView(V1View):
    """What the routes below one conversation share."""

    async def find(self, conversation_id: str) -> Conversation:
        key, caller = uuid_in(conversation_id), self.caller
        if key is None:
            raise conversations.not_found()
        return await in_thread(lambda: conversations.get_for(caller=caller, conversation_id=key))

    async def body(self) -> Any:
        body = await self.read_body()
        self.asked = Asked(body=body)
        return body


class ConversationsView(NamedConversationView):
    """`POST /v1/conversations`: a conversation that responses can name."""

    endpoint = "conversations"

    async def post(self, _: Request) -> HttpResponse:
        metadata, items = conversation_request.parse(await self.body())
        caller = self.caller
        made = await writer.run(lambda: conversations.make(caller=caller, metadata=metadata, items=items))
        return json_response(_object(made))


class ConversationView(NamedConversationView):
    """`GET`, `POST` (its metadata) and `DELETE /v1/conversations/{id}`."""

    endpoint = "conversations.update"

    async def get(self, _: Request, conversation_id: str) -> HttpResponse:
        return json_response(_object(await self.find(conversation_id)))

    async def post(self, _: Request, conversation_id: str) -> HttpResponse:
        found = await self.find(conversation_id)
        metadata = conversation_request.parse_metadata(await self.body())
        await writer.run(lambda: conversations.update(found, metadata=metadata))
        return json_response(_object(found))

    async def delete(self, _: Request, conversation_id: str) -> HttpResponse:
        """It is not to be gone on with; its agent is stopped, and removed by a worker. Its turns stay in the audit."""
        found = await self.find(conversation_id)
        await turns.cancel_conversation(found.pk)
        await writer.run(lambda: conversations.deleted(found))
        return json_response({"id": conversation_name(found.pk), "object": "conversation.deleted", "deleted": True})


class ItemsView(NamedConversationView):
    """`GET` and `POST /v1/conversations/{id}/items`."""

    endpoint = "conversations.items"

    async def get(self, request: Request, conversation_id: str) -> HttpResponse:
        page = responses.page_in(request.GET)
        found = await self.find(conversation_id)
        items = await in_thread(lambda: stored_items.conversation_items(found))
        return json_response(responses.paged(items, page))

    async def post(self, _: Request, conversation_id: str) -> HttpResponse:
        """More of what the conversation begins with, until there is a first turn."""
        found = await self.find(conversation_id)
        items = conversation_request.parse_new_items(await self.body())
        caller = self.caller
        await writer.run(lambda: conversations.add_first_items(found, caller=caller, items=items))
        added = (await in_thread(lambda: stored_items.conversation_items(found)))[-len(items) :]
        return json_response(responses.paged(added, responses.Page(limit=len(added), is_descending=False)))


class ItemView(NamedConversationView):
    """`GET` and `DELETE /v1/conversations/{id}/items/{item_id}`."""

    async def get(self, _: Request, conversation_id: str, item_id: str) -> HttpResponse:
        found = await self.find(conversation_id)
        items = await in_thread(lambda: stored_items.conversation_items(found))
        return json_response(_item_named(item_id, items))

    async def delete(self, _: Request, conversation_id: str, item_id: str) -> HttpResponse:
        """Take back the last item, until there is a first turn; an agent cannot be made to forget one."""
        found = await self.find(conversation_id)
        items = await in_thread(lambda: stored_items.conversation_items(found))
        _item_named(item_id, items)
        await writer.run(lambda: conversations.take_back_item(found, item_id=item_id))
        return json_response(_object(found))


def _item_named(item_id: str, items: list[Item]) -> Item:
    item = next((item for item in items if item["id"] == item_id), None)
    if item is None:
        raise NotFound("There is no such item in the conversation.", code="item_not_found")
    return item


def _object(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation_name(conversation.pk),
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.metadata,
    }
