"""Chats that clients name by ids of their own, and the conversations that go on in them.

The only writer of `ClientChat` rows. Synchronous; runs inside the transaction that opens a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.utils import timezone

from chatgateway import message_store, sql
from chatgateway.models import ClientChat, Conversation
from chatgateway.openai_api.canonical import digest


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


def conversation_of(chat: NamedChat) -> Conversation | None:
    """Return the conversation that the chat goes on with; None for an unknown chat, and if it was deleted."""
    known = ClientChat.objects.select_related("conversation").filter(digest=chat.digest).first()
    if known is None or known.conversation.state == Conversation.State.DELETED:
        return None
    return known.conversation


def go_on_with(chat: NamedChat, conversation_id: UUID) -> None:
    """Have the chat's next request find this conversation."""
    changes = {"conversation": conversation_id, "used_at": timezone.now()}
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
            )
        ],
    )


def forget_end_user(*, tenant_id: int, end_user: str) -> None:
    """Delete the chats of a tenant's end user."""
    ClientChat.objects.filter(tenant_id=tenant_id, end_user=end_user).delete()
