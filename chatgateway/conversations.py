"""Which conversation does a request continue, or start? `find_for` is the one door; no view fetches one itself.

The only writer of `Conversation` rows, and of the `Leftover` rows that say what one leaves on an agent-server.
Synchronous; runs inside the transaction that opens or closes a turn, or ends the conversation's time.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.utils import timezone

from chatgateway import agents, chats, message_store, places, sql, stored_items
from chatgateway.chats import NamedChat
from chatgateway.errors import ConversationBusy, InvalidRequest, NotFound
from chatgateway.models import AgentServer, Conversation, Leftover, Message, Turn
from chatgateway.openai_api import histories
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.histories import SentHistory
from chatgateway.openai_api.transcript import (
    EarlierMessage,
    Transcript,
    UserPart,
    divided,
)
from chatgateway.places import Place
from chatgateway.telling import (
    Told,
    first_items,
    history_until,
    message_after,
    parts_after,
    said_before,
    told,
    with_history_of,
)
from profiles.access import Caller
from profiles.models import ApiKey, Profile

# What was asked not to be stored stays on its agent-server for no longer than somebody takes to answer.
UNSTORED_HOURS = 1
# Of conversations whose profile was deleted: what profiles say unless they are told otherwise.
DEFAULT_KEEP_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a request says of where it belongs: a conversation by its id, or a chat by the client's own; and for whom.

    The texts are empty where the request says nothing. `previous_response_id` is the response to go on after, as it was
    sent. `instructions` is a system text for this turn alone; None in chats, whose system text is the conversation's.
    """

    conversation_id: UUID | None = None
    chat_id: str = ""
    end_user: str = ""
    previous_response_id: str = ""
    instructions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The conversation of a request, how it was found, and what to send to it.

    `how` is the value of the response header. `parts` is the user message for the agent: the new turn alone when the
    conversation goes on, with the earlier turns told in it when it is new. `whole` is the message for an agent that has
    to be made anew; None leaves it to the record (`told_again`). `parent` is the turn it goes on after, and
    `request_digest` what a client's history is recognised by afterwards. `elided` counts the earlier messages that are
    not told in `parts`, or not whole. `instructions` is the system text of
    this turn alone.
    """

    conversation: Conversation
    how: str
    parts: tuple[UserPart, ...]
    whole: Told | None = None
    parent: Turn | None = None
    request_digest: str = ""
    elided: int = 0
    instructions: str = ""

    @property
    def is_new(self) -> bool:
        """Whether the conversation may start on any agent-server."""
        return self.how in ("new", "replay")


def find_for(
    *, caller: Caller, profile: Profile, named: Named, transcript: Transcript, may_wait: bool = False
) -> Found:
    """Return the conversation this request continues, or a new one, already written.

    A named conversation, or the one that goes on in a named chat, is chosen by its name, and the place in it by the
    history that was sent; without a name the history alone chooses. Raises NotFound, with one text, both when the id is
    unknown and when it is not this caller's; StillOpen (`places`) if `may_wait` and a moment's patience may find it.
    """
    search = _Search(caller=caller, profile=profile, named=named, transcript=transcript, may_wait=may_wait)
    if named.previous_response_id:
        return search.after_response(named.previous_response_id)
    if named.conversation_id is not None:
        named_one = _continued(caller, named.conversation_id)
        return search.within(named_one, how="header") if named.instructions is None else search.at_end_of(named_one)
    if not named.chat_id:
        return search.by_history()
    known = chats.conversation_of(search.chat)
    found = search.by_history() if known is None else search.within(known, how="client-id")
    chats.go_on_with(search.chat, found.conversation.pk)
    return found


class _Search:
    """One request's way to its conversation."""

    def __init__(
        self, *, caller: Caller, profile: Profile, named: Named, transcript: Transcript, may_wait: bool
    ) -> None:
        self._caller = caller
        self._profile = profile
        self._named = named
        self._transcript = transcript
        self._may_wait = may_wait
        self._own_key = caller.api_key_id if caller.only_own_conversations else None

    @property
    def chat(self) -> NamedChat:
        return NamedChat(
            tenant_id=self._caller.tenant_id,
            api_key_id=self._own_key,
            profile_id=self._profile.pk,
            end_user=self._named.end_user,
            chat_id=self._named.chat_id,
        )

    def by_history(self) -> Found:
        """The conversation that the sent history is of, else a new one that is told it."""
        sent = self._sent(_joined(self._named.instructions, self._transcript.system_suffix))
        place = self._place(sent) if self._is_known_by_history() else None
        if place is None or self._must_start_anew(_conversation_of(place)):
            return self._new(sent)
        return self._at(place, sent, how="history")

    def within(self, known: Conversation, *, how: str) -> Found:
        """The place in a conversation, or in one that branched off from it, that the sent history ends at."""
        sent = self._sent(self._transcript.system_suffix or known.system_suffix)
        if self._must_start_anew(known):
            return self._anew(known, sent)
        if sent.is_alone:
            return self._at_the_end(known, sent, how=how)
        place = self._place(sent, root_id=_root_of(known))
        if place is not None and not self._must_start_anew(_conversation_of(place)):
            return self._at(place, sent, how=how)
        if not self._transcript.earlier:
            return self._at_the_end(known, sent, how=how)
        if how == "header":
            return self._at_the_end(known, sent, how="header; history=ignored")
        return self._new(sent, root_id=_root_of(known))

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
            server = _server_for_fork(turn) if known.instructions == instructions else None
            if server is None:
                return self._told_until(turn, known, instructions)
            known, how = self._branch(turn, known, server), "fork"
        message = parts_after(turn, self._transcript, profile=self._profile)
        return Found(
            conversation=known,
            how=how,
            parts=message.parts,
            whole=told(self._with_earlier(history_until(turn)), profile=self._profile),
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
            conversation = self._create(known.system_suffix, root_id=_root_of(known), told_from=known)
            full = replace(self._transcript, earlier=earlier)
            return self._telling(conversation, full, how="replay", request_digest="", instructions=instructions)
        sent = self._sent(_joined(self._named.instructions, known.system_suffix))
        place = self._place(sent, root_id=_root_of(known)) if self._transcript.earlier else None
        if place is not None and not self._must_start_anew(_conversation_of(place)):
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
        update(
            known,
            profile=self._profile,
            profile_slug=self._profile.slug,
            agent_digest=agents.agent_digest(self._profile),
            end_user=message_store.storable_text(self._named.end_user)[:256],
            system_suffix=message_store.storable_text(_joined(suffix, self._transcript.system_suffix)),
            expires_at=_idle_until(self._profile),
        )
        digest = self._sent(_joined(self._named.instructions, known.system_suffix)).request_digest
        return self._telling(known, self._with_earlier(earlier), how="header", request_digest=digest)

    def _told_until(self, turn: Turn, known: Conversation, instructions: str) -> Found:
        """A new conversation that is told what was said up to the turn."""
        conversation = self._create(known.system_suffix, root_id=_root_of(known))
        full = self._with_earlier(history_until(turn))
        digest = self._digest_after(turn)
        return self._telling(conversation, full, how="replay", request_digest=digest, instructions=instructions)

    def _instructions_in(self, known: Conversation) -> str:
        """A live conversation keeps the system text it began with; any other that comes with a response is that
        response's alone. In chats there is no such text."""
        if self._named.instructions is None:
            return ""
        suffix = self._transcript.system_suffix
        is_known = suffix.strip() == known.system_suffix.strip()
        return _joined("" if is_known else suffix, self._named.instructions)

    def _with_earlier(self, earlier: tuple[EarlierMessage, ...]) -> Transcript:
        return replace(self._transcript, earlier=(*earlier, *self._transcript.earlier))

    def _digest_after(self, turn: Turn) -> str:
        return histories.followed_by(turn.end_digest, (*self._transcript.earlier, *self._transcript.new))

    # --- where the history ends -------------------------------------------------------------------------------------

    def _sent(self, system_text: str) -> SentHistory:
        scope = histories.scope(
            tenant_id=self._caller.tenant_id,
            profile_id=self._profile.pk,
            system_text=system_text,
            end_user=self._named.end_user,
        )
        return histories.sent_history(self._transcript, scope=scope)

    def _place(self, sent: SentHistory, *, root_id: UUID | None = None) -> Place | None:
        within = places.Within(tenant_id=self._caller.tenant_id, api_key_id=self._own_key, root_id=root_id)
        return places.find(sent, within=within, may_wait=self._may_wait)

    def _is_known_by_history(self) -> bool:
        """Whoever repeats somebody's words gets to that one's agent. With tools that means files, so there it must be
        certain that both are one person. The id of a chat says so for that chat only (`within`)."""
        if not self._profile.continues_by_history:
            return False
        is_one_person = self._caller.used_by_one_person or bool(self._named.end_user)
        return is_one_person or not self._profile.has_tools

    def _must_start_anew(self, known: Conversation) -> bool:
        """A live agent's tools, prompt and system text are fixed when it starts."""
        if known.profile_id != self._profile.pk:
            return True
        if known.agent_digest and known.agent_digest != agents.agent_digest(self._profile):
            return True
        if self._named.instructions is not None:
            return False  # an agent with another system text is made anew in place
        suffix = self._transcript.system_suffix.strip()
        return bool(suffix) and suffix != known.system_suffix.strip()

    # --- what becomes of it -----------------------------------------------------------------------------------------

    def _at(self, place: Place, sent: SentHistory, *, how: str) -> Found:
        """Go on after the place: with its conversation if that has not gone on since, else with a fork of it."""
        conversation, instructions = _conversation_of(place), self._named.instructions or ""
        if not place.is_latest:
            server = _server_for_fork(place.turn)
            if server is None or conversation.instructions != instructions:
                return self._new(sent, root_id=_root_of(conversation))
            conversation, how = self._branch(place.turn, conversation, server), "fork"
        transcript = divided(self._transcript, at=place.upto)
        message = message_after(place.turn, sent, transcript, profile=self._profile)
        return Found(
            conversation=conversation,
            how=how,
            parts=message.parts,
            whole=told(transcript, profile=self._profile),
            parent=place.turn,
            request_digest=sent.request_digest,
            elided=message.elided,
            instructions=instructions,
        )

    def _at_the_end(self, known: Conversation, sent: SentHistory, *, how: str) -> Found:
        parent = places.latest_turn(known.pk)
        digest = sent.request_digest
        if not self._transcript.earlier and parent is not None:
            # The client leaves out what was said, and may send it another time.
            digest = histories.followed_by(parent.end_digest, self._transcript.new)
        return Found(
            conversation=known,
            how=how,
            parts=self._transcript.user_parts,
            parent=parent,
            request_digest=digest,
            instructions=self._instructions_in(known),
        )

    def _new(self, sent: SentHistory, *, root_id: UUID | None = None) -> Found:
        conversation = self._create(self._transcript.system_suffix, root_id=root_id)
        how = "replay" if self._transcript.earlier else "new"
        return self._telling(conversation, self._transcript, how=how, request_digest=sent.request_digest)

    def _anew(self, known: Conversation, sent: SentHistory) -> Found:
        """A new conversation in place of one whose agent cannot become what the request asks for."""
        suffix = self._transcript.system_suffix or known.system_suffix
        is_told = bool(self._transcript.earlier)
        full = self._transcript if is_told else with_history_of(known, self._transcript)
        conversation = self._create(suffix, root_id=_root_of(known), told_from=None if is_told else known)
        digest = sent.request_digest if is_told else ""
        return self._telling(conversation, full, how="replay", request_digest=digest)

    def _telling(
        self,
        conversation: Conversation,
        full: Transcript,
        *,
        how: str,
        request_digest: str,
        instructions: str | None = None,
    ) -> Found:
        """A place whose agent is told all that was said before."""
        whole = told(full, profile=self._profile)
        return Found(
            conversation=conversation,
            how=how,
            parts=whole.parts,
            whole=whole,
            request_digest=request_digest,
            elided=whole.elided,
            instructions=(self._named.instructions or "") if instructions is None else instructions,
        )

    def _create(
        self, system_suffix: str, *, root_id: UUID | None = None, told_from: Conversation | None = None
    ) -> Conversation:
        conversation = self._unsaved(system_suffix, root_id=root_id)
        conversation.told_from = told_from
        sql.insert([conversation])
        return conversation

    def _branch(self, at: Turn, source: Conversation, server: AgentServer) -> Conversation:
        """A conversation whose agent will be a fork of the source's, beside it in its directory."""
        conversation = self._unsaved(source.system_suffix, root_id=_root_of(source))
        conversation.branched_at = at
        conversation.agent_server = server
        conversation.working_dir = source.working_dir
        conversation.good_leaf_event_id = at.leaf_event_id
        conversation.instructions = source.instructions
        sql.insert([conversation])
        return conversation

    def _unsaved(self, system_suffix: str, *, root_id: UUID | None) -> Conversation:
        return Conversation(
            tenant_id=self._caller.tenant_id,
            api_key_id=self._caller.api_key_id,
            profile=self._profile,
            tenant_name=self._caller.tenant_name,
            profile_slug=self._profile.slug,
            end_user=message_store.storable_text(self._named.end_user)[:256],
            system_suffix=message_store.storable_text(system_suffix),
            agent_digest=agents.agent_digest(self._profile),
            root_id=root_id,
            expires_at=_idle_until(self._profile),
        )


def _joined(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _conversation_of(place: Place) -> Conversation:
    assert place.turn.conversation is not None
    return place.turn.conversation


def _root_of(conversation: Conversation) -> UUID:
    return conversation.root_id or conversation.pk


def _server_for_fork(turn: Turn) -> AgentServer | None:
    """The agent-server on which the conversation can be forked at the end of a turn; None if it cannot be."""
    source = turn.conversation
    assert source is not None
    is_there = source.state == Conversation.State.LIVE and source.incarnation == turn.incarnation
    if not is_there or source.agent_server_id is None or not turn.leaf_event_id:
        return None
    active = AgentServer.objects.filter(pk=source.agent_server_id, state=AgentServer.State.ACTIVE)
    return active.exclude(health=AgentServer.Health.DOWN).first()


def get_for(*, caller: Caller, conversation_id: UUID, for_management: bool = False) -> Conversation:
    """Return a conversation the caller may know of; raises NotFound, the same for unknown and foreign ones.

    `for_management`: the routes under /api, where a global key sees every tenant's.
    """
    rows = Conversation.objects.all()
    if for_management:
        rows = rows.select_related("agent_server")
    if not (for_management and caller.is_global):
        rows = rows.of_caller(
            tenant_id=caller.tenant_id, api_key_id=caller.api_key_id, only_own=caller.only_own_conversations
        )
    known = rows.filter(pk=conversation_id).exclude(state=Conversation.State.DELETED).first()
    if known is None:
        raise not_found()
    return known


def _continued(caller: Caller, conversation_id: UUID) -> Conversation:
    """`get_for`, for the turns of a conversation: each of them asks."""
    whose = {"tenant_id": caller.tenant_id}
    if caller.only_own_conversations:
        whose["api_key_id"] = caller.api_key_id
    found = sql.select(Conversation, where={"id": conversation_id, **whose})
    if not found or found[0].state == Conversation.State.DELETED:
        raise not_found()
    return found[0]


def not_found() -> NotFound:
    return NotFound(
        "There is no such conversation. Leave out the id to start a new one, or send the one a reply's "
        "X-OpenHands-ServerConversation-ID header gave you.",
        code="conversation_not_found",
    )


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
    instructions = _joined("" if is_lasting else transcript.system_suffix, chat.instructions)
    return Found(
        conversation=conversation,
        how=turn.match,
        parts=parts,
        whole=whole,
        parent=turn.parent,
        instructions=instructions,
    )


def make(*, caller: Caller, metadata: dict[str, str], items: list[dict[str, Any]]) -> Conversation:
    """Write a conversation of no profile yet: the first response that names it decides. It may begin with items."""
    conversation = Conversation(
        tenant_id=caller.tenant_id,
        api_key_id=caller.api_key_id,
        tenant_name=caller.tenant_name,
        metadata=message_store.storable(metadata),
        first_items_id=_stored(caller, items),
    )
    sql.insert([conversation])
    return conversation


def add_first_items(conversation: Conversation, *, caller: Caller, items: list[dict[str, Any]]) -> None:
    """Write more of the items that a conversation begins with. Raises InvalidRequest once it has begun."""
    _lock(conversation)
    if conversation.turns.exists():
        raise InvalidRequest(
            "The conversation has begun, and its agent learns only what it is sent with a message. Send the items as "
            "'input' of the next response.",
            param="items",
            code="unsupported_value",
        )
    known = [] if conversation.first_items_id is None else message_store.chain(conversation.first_items_id)
    update(conversation, first_items_id=_stored(caller, [*known, *items]))


def take_back_item(conversation: Conversation, *, item_id: str) -> None:
    """Remove the last of the items that a conversation begins with. Raises InvalidRequest for any other, and once it
    has begun."""
    _lock(conversation)
    last_id = conversation.first_items_id
    if last_id is None or not item_id.endswith(last_id.hex) or conversation.turns.exists():
        raise InvalidRequest(
            "An agent cannot be made to forget one item: only the last one can be taken back, and only until there is "
            "a response. Go on after an earlier response with 'previous_response_id', or delete the conversation.",
            code="unsupported_endpoint",
        )
    update(conversation, first_items_id=Message.objects.values_list("parent_id", flat=True).get(pk=last_id))


def _lock(conversation: Conversation) -> None:
    """Read the row again, and let nobody else change it until the transaction ends."""
    conversation.refresh_from_db(from_queryset=Conversation.objects.select_for_update())


def _stored(caller: Caller, items: list[dict[str, Any]]) -> UUID | None:
    if not items:
        return None
    return message_store.store_chain(caller.tenant_id, [message_store.storable(item) for item in items])


def reserve(*, api_key: ApiKey, profile: Profile, server: AgentServer) -> Conversation:
    """Write a conversation that will start on `server` and nowhere else: the admin's test of a server."""
    conversation = Conversation(
        tenant_id=api_key.tenant_id,
        api_key=api_key,
        profile=profile,
        agent_server=server,
        tenant_name=api_key.tenant.name,
        profile_slug=profile.slug,
        agent_digest=agents.agent_digest(profile),
        expires_at=_idle_until(profile),
    )
    sql.insert([conversation])
    return conversation


# --- what a turn leaves behind -----------------------------------------------------------------------------------


def restart(conversation: Conversation, *, on: AgentServer) -> None:
    """Start the conversation anew under its id, on the server `on`: what was kept of it is gone, out of reach or not to
    be trusted. Raises NotFound if that is because its owner deleted it."""
    if Conversation.objects.filter(pk=conversation.pk, state=Conversation.State.DELETED).exists():
        raise not_found()
    home, incarnation = _home_of(conversation), conversation.incarnation
    _begin_anew(conversation, state=Conversation.State.LOST)
    if home is not None and home.pk != on.pk:
        _leave(conversation, home, incarnation=incarnation)


def expire(conversation: Conversation) -> None:
    """Note that the conversation's time on its agent-server is over. The next turn under its id makes it anew."""
    home, incarnation = _home_of(conversation) or _last_tried(conversation), conversation.incarnation
    _begin_anew(conversation, state=Conversation.State.EXPIRED)
    if home is not None:
        _leave(conversation, home, incarnation=incarnation)


def deleted(conversation: Conversation, *, with_files: bool = False) -> None:
    """Note that the conversation is not to be gone on with. The row and its turns stay for the audit.

    `with_files`: its directory goes at once too, not after the days its profile keeps it.
    """
    home = _home_of(conversation)
    update(conversation, state=Conversation.State.DELETED, deleted_at=timezone.now())
    if home is not None:
        _leave(conversation, home, incarnation=conversation.incarnation)
    if with_files:
        Leftover.objects.filter(conversation=conversation).update(due_at=timezone.now())


def forget_end_user(conversation: Conversation) -> None:
    """Take off a deleted conversation whose it was."""
    assert conversation.state == Conversation.State.DELETED
    update(conversation, end_user="", system_suffix="")
    Leftover.objects.filter(conversation=conversation).update(due_at=timezone.now())


def given_back(conversation: Conversation, server: AgentServer, *, is_unused: bool) -> None:
    """Note that a turn could not begin on `server`. `is_unused`: the conversation was made there for this turn.

    What may have been made there is left behind; a conversation that has been at work there stays with its server.
    """
    is_there = conversation.state == Conversation.State.LIVE and conversation.agent_server_id == server.pk
    if is_there and not is_unused:
        return
    incarnation, was_to_be_forked = conversation.incarnation, conversation.is_to_be_forked
    if is_there:
        _begin_anew(conversation, state=Conversation.State.LOST)
    _leave(conversation, server, incarnation=incarnation)
    if was_to_be_forked:
        not_forked(conversation)


def not_forked(conversation: Conversation) -> None:
    """Note that the agent could not be forked: it starts anew, wherever there is room, and is told what was said."""
    update(conversation, branched_at=None, agent_server=None, working_dir="", good_leaf_event_id="")


def settle(conversation: Conversation, *, turn: Turn, profile: Profile, **changes: Any) -> None:
    """Write where the agent-server's log stands after a turn (`cursor`, `good_leaf_event_id`, …), and how long the
    conversation may stay there now."""
    until = _idle_until(profile, is_stored=turn.is_stored)
    update(conversation, last_turn_at=timezone.now(), expires_at=until, **changes)


def has_directory_on(conversation: Conversation, server: AgentServer) -> bool:
    """Whether a directory that the conversation left on `server` has not been removed yet."""
    left = Leftover.objects.filter(conversation_id=conversation.pk, agent_server=server)
    return left.filter(kind=Leftover.Kind.DIRECTORY).exists()


def _begin_anew(conversation: Conversation, *, state: Conversation.State) -> None:
    update(
        conversation,
        incarnation=conversation.incarnation + 1,
        agent_server=None,
        state=state,
        cursor=-1,
        good_leaf_event_id="",
        needs_navigation=False,
        usage_baseline={},
        llm_digest="",
    )


def _home_of(conversation: Conversation) -> AgentServer | None:
    """The agent-server that has the conversation; None also when its row was deleted."""
    if conversation.agent_server_id is None:
        return None
    return AgentServer.objects.filter(pk=conversation.agent_server_id).first()


def _last_tried(conversation: Conversation) -> AgentServer | None:
    """The agent-server of the latest turn that had one: where a start that never ended may have left something."""
    placed = Turn.objects.filter(conversation=conversation, agent_server__isnull=False).select_related("agent_server")
    latest = placed.order_by("-arrival").first()
    return latest.agent_server if latest is not None else None


def _leave(conversation: Conversation, server: AgentServer, *, incarnation: int) -> None:
    """Have what the conversation has on `server` removed there. Left twice, it is removed at the later time."""
    anew = {"incarnation": incarnation, "attempts": 0, "message": ""}
    of_it: dict[str, Any] = {"agent_server": server, "conversation": conversation}
    now = timezone.now()
    Leftover.objects.update_or_create(**of_it, kind=Leftover.Kind.CONVERSATION, defaults=anew | {"due_at": now})
    own = agents.own_directory(conversation=conversation, server=server)
    # One that a key or a profile shares is not the conversation's to leave. Without any, the start broke off.
    if conversation.working_dir in ("", own):
        due_at = now + dt.timedelta(days=_keep_days(conversation))
        changes = anew | {"path": own, "due_at": due_at}
        Leftover.objects.update_or_create(**of_it, kind=Leftover.Kind.DIRECTORY, defaults=changes)


def _keep_days(conversation: Conversation) -> int:
    if conversation.profile_id is None:
        return DEFAULT_KEEP_DAYS
    days = Profile.objects.filter(pk=conversation.profile_id).values_list("workspace_keep_days", flat=True).first()
    return DEFAULT_KEEP_DAYS if days is None else days


def _idle_until(profile: Profile, *, is_stored: bool = True) -> dt.datetime:
    hours = profile.conversation_idle_hours if is_stored else min(UNSTORED_HOURS, profile.conversation_idle_hours)
    return timezone.now() + dt.timedelta(hours=hours)


def update(conversation: Conversation, **changes: Any) -> None:
    """Write columns of the row, and the same to the object at hand."""
    for name, value in changes.items():
        setattr(conversation, name, value)
    sql.update(Conversation, where={"id": conversation.pk}, changes=changes)
