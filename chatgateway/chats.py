"""Chats that clients name by ids of their own, and the conversations that go on in them.

The only writer of `ClientChat` rows. Synchronous; runs inside the transaction that opens a turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.utils import timezone

from chatgateway import message_store, sql
from chatgateway.models import ClientChat, Conversation
from chatgateway.openai_api.canonical import digest

# Any client may say so of itself. Open WebUI does not, but is known by two of its headers together: others take over
# the name of the first, and none of them has people with roles.
SAYS_IT_SENDS_HISTORY = "X-Gateway-Sends-History"
_OPEN_WEBUI_HEADERS = ("X-OpenWebUI-Chat-Id", "X-OpenWebUI-User-Role")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedChat:
    """A chat as a request names it. `api_key_id`: of a key that sees only its own conversations, else None."""

    tenant_id: int
    api_key_id: int | None
    profile_id: int
    end_user: str
    chat_id: str

    @property
    def digest(self) -> str:
        key = None if self.api_key_id is None else str(self.api_key_id)
        return digest(str(self.tenant_id), key, str(self.profile_id), self.end_user, self.chat_id).hex()


def is_from_client_that_sends_history(headers: Mapping[str, str]) -> bool:
    """Whether a request's client sends all that was said before with every message, so that a chat's first message is
    the only one to come alone."""
    says_so = headers.get(SAYS_IT_SENDS_HISTORY, "").strip().lower() == "true"
    return says_so or all(name in headers for name in _OPEN_WEBUI_HEADERS)


def known(chat: NamedChat) -> ClientChat | None:
    """Return the row of the chat; None for an unknown chat, and if the conversation it goes on with was deleted."""
    row = ClientChat.objects.select_related("conversation").filter(digest=chat.digest).first()
    if row is None or row.conversation.state == Conversation.State.DELETED:
        return None
    return row


def go_on_with(chat: NamedChat, conversation_id: UUID, *, sends_history: bool) -> None:
    """Have the chat's next request find this conversation. `sends_history`: this request has shown that its client
    sends what was said before; that is never forgotten."""
    changes: dict[str, Any] = {"conversation": conversation_id, "used_at": timezone.now()}
    if sends_history:
        changes["sends_history"] = True
    if sql.update(ClientChat, where={"digest": chat.digest}, changes=changes):
        return
    sql.insert(
        [
            ClientChat(
                digest=chat.digest,
                tenant_id=chat.tenant_id,
                profile_id=chat.profile_id,
                end_user=message_store.storable_text(chat.end_user)[:256],
                chat_id=message_store.storable_text(chat.chat_id)[:256],
                conversation_id=conversation_id,
                sends_history=sends_history,
            )
        ],
    )


def forget_end_user(*, tenant_id: int, end_user: str) -> None:
    """Delete the chats of a tenant's end user."""
    ClientChat.objects.filter(tenant_id=tenant_id, end_user=end_user).delete()
