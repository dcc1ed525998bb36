"""Which conversation does a request continue, or start? `find_for` is the one door; no view fetches one itself.

Synchronous; runs inside the transaction that opens a turn.
"""

from __future__ import annotations

from dataclasses import replace

from chatgateway import chats, conversations, places
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api import histories
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.transcript import Transcript, divided
from chatgateway.response_search import ResponseSearch
from chatgateway.search import Found, Named, joined
from chatgateway.telling import message_after, parts_after, said_before, told, with_history_of
from profiles.access import Caller
from profiles.models import Profile


def find_for(
    *, caller: Caller, profile: Profile, named: Named, transcript: Transcript, may_wait: bool = False
) -> Found:
    """Return the conversation this request continues, or a new one, already written.

    A named conversation, or the one that goes on in a named chat, is chosen by its name, and the place in it by the
    history that was sent; without a name the history alone chooses. Raises NotFound, with one text, both when the id is
    unknown and when it is not this caller's; StillOpen (`places`) if `may_wait` and a moment's patience may find it.
    """
    search = ResponseSearch(caller=caller, profile=profile, named=named, transcript=transcript, may_wait=may_wait)
    if named.previous_response_id:
        return search.after_response(named.previous_response_id)
    if named.conversation_id is not None:
        named_one = conversations.continued(caller, named.conversation_id)
        return search.within(named_one, how="header") if named.instructions is None else search.at_end_of(named_one)
    if not named.chat_id:
        return search.by_history()
    chat = chats.known(search.chat)
    if chat is None:
        found = search.by_history()
    else:
        sends_history = chat.sends_history or named.sends_history
        found = search.within(chat.conversation, how="client-id", sends_history=sends_history)
    chats.go_on_with(search.chat, found.conversation.pk, sends_history=found.is_after_sent or bool(transcript.earlier))
    return found


def found_before(turn: Turn, conversation: Conversation, chat: ChatRequest) -> Found:
    """Return what `find_for` returned for a turn that was opened and never begun, by what was written down of it."""
    transcript = chat.transcript
    how, parts, whole = turn.match, transcript.user_parts, None
    profile = turn.profile
    assert profile is not None
    if turn.is_response:
        return _response_before(turn, conversation, chat)
    if how in ("new", "replay"):
        told_from = conversation.told_from
        is_told_from = told_from is not None and not transcript.earlier
        full = with_history_of(told_from, transcript) if is_told_from and told_from else transcript
        whole = told(full, profile=profile)
        parts = whole.parts
    elif turn.parent is not None and turn.request_digest:
        scope = histories.scope(
            tenant_id=turn.tenant_id or 0,
            profile_id=turn.profile_id or 0,
            system_text=transcript.system_suffix or conversation.system_suffix,
            end_user=turn.end_user,
        )
        sent = histories.sent_history(transcript, scope=scope)
        place = places.of_turn(turn.parent, sent)
        if place is not None:
            at_place = divided(transcript, at=place.upto)
            parts = message_after(place.turn, sent, at_place, profile=profile).parts
            whole = told(at_place, profile=profile)
    return Found(conversation=conversation, how=how, parts=parts, whole=whole, parent=turn.parent)


def _response_before(turn: Turn, conversation: Conversation, chat: ChatRequest) -> Found:
    before, transcript = said_before(turn, conversation), chat.transcript
    profile = turn.profile
    assert profile is not None
    whole = told(replace(transcript, earlier=(*before, *transcript.earlier)), profile=profile)
    # Whoever goes on by what was sent has it in its own request, and its agent knows it.
    goes_on = turn.match in ("header", "fork") and turn.parent is not None and not transcript.earlier
    message = parts_after(turn.parent, transcript, profile=profile) if goes_on and turn.parent is not None else whole
    parts = message.parts
    if turn.match == "history":
        parts = transcript.user_parts
    is_lasting = transcript.system_suffix.strip() == conversation.system_suffix.strip()
    instructions = joined("" if is_lasting else transcript.system_suffix, chat.instructions)
    return Found(
        conversation=conversation,
        how=turn.match,
        parts=parts,
        whole=whole,
        parent=turn.parent,
        instructions=instructions,
    )
