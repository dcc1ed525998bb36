"""Where a request's history leads: to the end of a conversation, to an earlier place in it, or to a new one.

Synchronous; runs inside the transaction that opens the turn. Rows are written by `conversations`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from chatgateway import agents, conversations, places
from chatgateway.chats import NamedChat
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api import histories
from chatgateway.openai_api.histories import SentHistory
from chatgateway.openai_api.transcript import EarlierMessage, Transcript, UserPart, divided
from chatgateway.places import Place
from chatgateway.telling import Later, Told, message_after, told, with_history_of
from profiles.access import Caller
from profiles.models import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a request says of where it belongs: a conversation by its id, or a chat by the client's own; and for whom.

    The texts are empty where the request says nothing. `previous_response_id` is the response to go on after, as it was
    sent. `sends_history`: the client is one that sends all that was said before with each message.
    `instructions` is a system text for this turn alone; None in chats, whose system text is the conversation's.
    """

    conversation_id: UUID | None = None
    chat_id: str = ""
    end_user: str = ""
    previous_response_id: str = ""
    sends_history: bool = False
    instructions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The conversation of a request, how it was found, and what to send to it.

    `how` is the value of the response header. `parts` is the user message for the agent: the new turn alone when the
    conversation goes on, with the earlier turns told in it when it is new. `whole` is the message for an agent that has
    to be made anew; None leaves it to the record (`told_again`). `parent` is the turn it goes on after, and
    `request_digest` what a client's history is recognised by afterwards. `elided` counts the earlier messages that are
    not told in `parts`, or not whole. `instructions` is the system text of this turn alone. `is_after_sent`: its place
    was found by the history that was sent.
    """

    conversation: Conversation
    how: str
    parts: tuple[UserPart, ...]
    whole: Told | Later | None = None
    parent: Turn | None = None
    request_digest: str = ""
    elided: int = 0
    instructions: str = ""
    is_after_sent: bool = False

    @property
    def is_new(self) -> bool:
        """Whether the conversation may start on any agent-server."""
        return self.how in ("new", "replay")


class Search:
    """One request's way to its conversation, by the history that it sent."""

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
        sent = self._sent(joined(self._named.instructions, self._transcript.system_suffix))
        place = self._place(sent) if self._is_known_by_history() else None
        if place is None or self._must_start_anew(conversation_of(place)):
            return self._new(sent)
        return self._at(place, sent, how="history")

    def within(self, known: Conversation, *, how: str, sends_history: bool = False) -> Found:
        """The place in a conversation, or in one that branched off from it, that the sent history ends at.

        `sends_history`: the client leaves nothing out. So where nothing came before, the chat begins again: its first
        message was edited, or is to be answered anew.
        """
        is_first = sends_history and not self._transcript.earlier
        sent = self._sent(self._transcript.system_suffix or known.system_suffix)
        if not is_first and self._must_start_anew(known):
            return self._anew(known, sent)
        place = self._place(sent, root_id=conversations.root_of(known))
        if place is not None and not self._must_start_anew(conversation_of(place)):
            return self._at(place, sent, how=how)
        if is_first:
            sent = self._sent(joined(self._named.instructions, self._transcript.system_suffix))
            return self._new(sent, root_id=conversations.root_of(known))  # the client may go back to the one before
        if not self._transcript.earlier:
            return self._at_the_end(known, sent, how=how)
        if how == "header":
            return self._at_the_end(known, sent, how="header; history=ignored")
        return self._new(sent, root_id=conversations.root_of(known))

    def _instructions_in(self, known: Conversation) -> str:
        """A live conversation keeps the system text it began with; any other that comes with a response is that
        response's alone. In chats there is no such text."""
        if self._named.instructions is None:
            return ""
        suffix = self._transcript.system_suffix
        is_known = suffix.strip() == known.system_suffix.strip()
        return joined("" if is_known else suffix, self._named.instructions)

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
        conversation, instructions = conversation_of(place), self._named.instructions or ""
        if not place.is_latest:
            server = server_for_fork(place.turn)
            if server is None or conversation.instructions != instructions:
                return self._new(sent, root_id=conversations.root_of(conversation))
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
            is_after_sent=True,
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
        conversation = self._create(suffix, root_id=conversations.root_of(known), told_from=None if is_told else known)
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
        return conversations.start(
            caller=self._caller,
            profile=self._profile,
            end_user=self._named.end_user,
            system_suffix=system_suffix,
            root_id=root_id,
            told_from=told_from,
        )

    def _branch(self, at: Turn, source: Conversation, server: AgentServer) -> Conversation:
        return conversations.branch(
            caller=self._caller,
            profile=self._profile,
            end_user=self._named.end_user,
            at=at,
            source=source,
            server=server,
        )


def joined(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def conversation_of(place: Place) -> Conversation:
    assert place.turn.conversation is not None
    return place.turn.conversation


def server_for_fork(turn: Turn) -> AgentServer | None:
    """The agent-server on which the conversation can be forked at the end of a turn; None if it cannot be."""
    source = turn.conversation
    assert source is not None
    is_there = source.state == Conversation.State.LIVE and source.incarnation == turn.incarnation
    if not is_there or source.agent_server_id is None or not turn.leaf_event_id:
        return None
    active = AgentServer.objects.filter(pk=source.agent_server_id, state=AgentServer.State.ACTIVE)
    return active.exclude(health=AgentServer.Health.DOWN).first()
