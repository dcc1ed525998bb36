"""Where a response belongs: after another response, or at the end of a conversation that it names.

What it sends then is new, all of it. A response that names neither is looked for by its history, as chats are.
"""

from __future__ import annotations

from dataclasses import replace

from chatgateway import conversations, places, stored_items
from chatgateway.errors import ConversationBusy, InvalidRequest
from chatgateway.models import Conversation, Turn
from chatgateway.search import Found, Search, conversation_of, joined, server_for_fork
from chatgateway.telling import Told, first_items, history_until, parts_after, told, with_history_of


class ResponseSearch(Search):
    """A response's way to its conversation."""

    def after_response(self, response_id: str) -> Found:
        """After a turn that the request names. What it sends is new, all of it."""
        turn = stored_items.turn_named(response_id, tenant_id=self._caller.tenant_id, api_key_id=self._own_key)
        known = None if turn is None else turn.conversation
        if turn is None or known is None or known.state == Conversation.State.DELETED:
            raise InvalidRequest(
                "There is no such response to go on after. Responses sent with 'store': false are not kept.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if turn.outcome == Turn.Outcome.OPEN:
            raise ConversationBusy("The agent is still at work on that response. Go on with it when it has ended.")
        instructions = self._instructions_in(known)
        how = "header"
        if self._must_start_anew(known):
            return self._told_until(turn, known, instructions)
        if not places.is_latest(turn):
            server = server_for_fork(turn) if known.instructions == instructions else None
            if server is None:
                return self._told_until(turn, known, instructions)
            known, how = self._branch(turn, known, server), "fork"
        message, profile = parts_after(turn, self._transcript, profile=self._profile), self._profile

        def whole() -> Told:
            # Not now: in a chain of a thousand responses each would read all those before it.
            return told(self._with_earlier(history_until(turn)), profile=profile)

        return Found(
            conversation=known,
            how=how,
            parts=message.parts,
            whole=whole,
            parent=turn,
            request_digest=self._digest_after(turn),
            elided=message.elided,
            instructions=instructions,
        )

    def at_end_of(self, known: Conversation) -> Found:
        """At the end of a conversation that a response names. What it sends is new, unless it is its history."""
        if known.profile_id is None and known.state == Conversation.State.NEW and not known.profile_slug:
            return self._begin(known)
        instructions = self._instructions_in(known)
        if self._must_start_anew(known):
            full = with_history_of(known, self._transcript)
            earlier = (*full.earlier, *self._transcript.earlier)
            conversation = self._create(known.system_suffix, root_id=conversations.root_of(known), told_from=known)
            full = replace(self._transcript, earlier=earlier)
            return self._telling(conversation, full, how="replay", request_digest="", instructions=instructions)
        sent = self._sent(joined(self._named.instructions, known.system_suffix))
        place = self._place(sent, root_id=conversations.root_of(known)) if self._transcript.earlier else None
        if place is not None and not self._must_start_anew(conversation_of(place)):
            return self._at(place, sent, how="header")
        parent = places.latest_turn(known.pk)
        message = told(self._transcript, profile=self._profile)
        return Found(
            conversation=known,
            how="header",
            parts=message.parts,
            elided=message.elided,
            parent=parent,
            request_digest="" if parent is None else self._digest_after(parent),
            instructions=instructions,
        )

    def _begin(self, known: Conversation) -> Found:
        """The first turn of a conversation that was made before anybody knew what for."""
        suffix, earlier = first_items(known)
        conversations.begin(
            known,
            profile=self._profile,
            end_user=self._named.end_user,
            system_suffix=joined(suffix, self._transcript.system_suffix),
        )
        digest = self._sent(joined(self._named.instructions, known.system_suffix)).request_digest
        return self._telling(known, self._with_earlier(earlier), how="header", request_digest=digest)

    def _told_until(self, turn: Turn, known: Conversation, instructions: str) -> Found:
        """A new conversation that is told what was said up to the turn."""
        conversation = self._create(known.system_suffix, root_id=conversations.root_of(known))
        full = self._with_earlier(history_until(turn))
        digest = self._digest_after(turn)
        return self._telling(conversation, full, how="replay", request_digest=digest, instructions=instructions)
