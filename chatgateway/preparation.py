"""Gets an agent ready for a turn: starts, finds, forks or makes its conversation anew, and hands it the message."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from chatgateway import agents, audit, conversations, telling
from chatgateway.agent_session import AgentSession, message_parts
from chatgateway.agentserver.exceptions import ConversationMissing, Rejected
from chatgateway.agentserver.schemas import AgentSpec
from chatgateway.head_start import HeadStart
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api import structured_output
from chatgateway.openai_api.answer_form import AnswerForm
from chatgateway.openai_api.chat_request import LlmOverrides
from chatgateway.openai_api.transcript import TextPart, UserPart, joined
from chatgateway.telling import Later, Told
from chatgateway.writer import writer
from profiles.models import Profile

logger = logging.getLogger(__name__)

# A driver that knows of its lease from longer ago makes sure that it still has it before it sends its message: its
# process may have been frozen meanwhile, and another one have sent it.
FENCE_AFTER_SECONDS = 1.0
# Where there is one, a clock that goes on while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All a driver needs to know of a turn, so that it need not read it back from the database.

    `parts` is the message for an agent that goes on; `whole` for one that has to be made anew, None if the record is to
    say it. `head_start` is its conversation where that is being created already. `attached` says that the run was
    started by another process: it is followed, and nothing is sent. `form` is what the answer is to look like,
    `instructions` a system text for this turn alone, `frames` what another process has shown of a response.
    """

    turn: Turn
    conversation: Conversation
    profile: Profile
    overrides: LlmOverrides
    parts: tuple[UserPart, ...]
    whole: Told | Later | None = None
    head_start: HeadStart | None = None
    attached: bool = False
    form: AnswerForm = field(default_factory=AnswerForm)
    instructions: str = ""
    max_tool_calls: int | None = None
    frames: list[list[list[str]]] = field(default_factory=list)


class Preparation:
    """One turn's agent, on whichever agent-server it is tried.

    `made_here`: the conversation was made on the server at hand, for this turn. `is_rebuilt`: it was made anew.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.turn = assignment.turn
        self.conversation = assignment.conversation
        self.profile = assignment.profile
        self.made_here = False
        self.is_rebuilt = False
        self._overrides = assignment.overrides
        self._parts = self._message = assignment.parts
        self._whole = assignment.whole
        self._head_start = assignment.head_start
        self._output = assignment.form.output
        self._instructions = assignment.instructions
        self._fenced = time.clock_gettime(_CLOCK)

    async def prepare(self, session: AgentSession) -> None:
        """Have the conversation on the session's agent-server ready for the message, and its feed open."""
        if self.conversation.state != Conversation.State.LIVE:
            if not (self.conversation.is_to_be_forked and await self._fork(session)):
                await self._start(session)
            return
        is_elsewhere = self.conversation.agent_server_id != self.turn.agent_server_id  # its own agent-server is gone
        if is_elsewhere or self.conversation.instructions != self._instructions:
            await self.rebuild(session)
            return
        spec = self._spec()
        digest = agents.llm_digest(spec.llm)
        try:
            await session.connect(after_seq=self.conversation.cursor)
            await session.settle()
            if self.conversation.is_fresh_fork:
                return  # its LLM comes with the message
            if self.conversation.llm_digest != digest:
                await session.client.switch_llm(self.conversation.pk, spec.llm, timeout_seconds=session.call_seconds)
            if self.conversation.needs_navigation and self.conversation.good_leaf_event_id:
                await session.client.navigate(
                    self.conversation.pk, self.conversation.good_leaf_event_id, timeout_seconds=session.call_seconds
                )
        except ConversationMissing:
            await self.rebuild(session)
            return
        if self.conversation.llm_digest != digest:
            await self._note(llm_digest=digest)

    async def _fork(self, session: AgentSession) -> bool:
        """Have the agent forked where its conversation branched off. False if that cannot be done any more: then it
        starts anew, and is told what was said."""
        conversation, turn, server = self.conversation, self.turn, self.turn.agent_server
        at = conversation.branched_at
        assert server is not None
        assert at is not None
        assert at.conversation_id is not None
        try:
            await session.fork(at.conversation_id, from_event_id=at.leaf_event_id, tags=self._spec().tags)
        except (ConversationMissing, Rejected) as error:
            logger.warning("conversation %s cannot be forked: %s", at.conversation_id, error)

            whole = self._whole

            def give_up() -> None:
                elided = 0 if whole is None else telling.now(whole).elided
                conversations.not_forked(conversation)
                audit.advance(turn, match="replay", parent=None, elided_messages=elided)

            await writer.run(give_up)
            return False
        self.made_here = True
        await session.connect(after_seq=-1)  # what it is a copy of is no news: the cursor is at its end
        await self._note(
            state=Conversation.State.LIVE, agent_server=server, server_url=server.url, cursor=session.cursor
        )
        return True

    async def _start(self, session: AgentSession, *, keeps_directory: bool = False) -> None:
        """Create the conversation. `keeps_directory`: the agent finds its directory as it left it."""
        turn, conversation, profile, server = self.turn, self.conversation, self.profile, self.turn.agent_server
        parts, whole = self._parts, self._whole
        assert server is not None

        def tell() -> tuple[tuple[UserPart, ...], bool]:
            message = telling.told_again(conversation, parts, profile=profile) if whole is None else telling.now(whole)
            if message.elided != turn.elided_messages:
                audit.advance(turn, elided_messages=message.elided)
            return message.parts, conversations.has_directory_on(conversation, server)

        has_directory = keeps_directory
        if whole is None or isinstance(whole, Told):
            self._message = parts if whole is None else whole.parts
        if conversation.must_be_told or callable(whole):
            self._message, was_left = await writer.run(tell)
            has_directory = has_directory or was_left
        spec = self._spec()
        self.made_here = True
        await session.start(
            spec,
            template="" if has_directory else self.profile.workspace_template,
            head_start=self._head_start_on(server),
        )
        begun = self._note(
            state=Conversation.State.LIVE,
            agent_server=server,
            server_url=server.url,
            working_dir=spec.working_dir,
            llm_digest=agents.llm_digest(spec.llm),
            instructions=self._instructions,
        )
        await asyncio.gather(begun, session.connect(after_seq=-1))

    def _head_start_on(self, server: AgentServer) -> HeadStart | None:
        """What was begun while the turn was committed, once: a second start is made for a reason."""
        head_start, self._head_start = self._head_start, None
        return head_start if head_start is not None and head_start.server_id == server.pk else None

    async def rebuild(self, session: AgentSession) -> None:
        """The conversation is lost, or its agent-server is: start it anew under its id, told from the audited turns."""
        conversation, turn, server = self.conversation, self.turn, self.turn.agent_server
        assert server is not None
        was_here = conversation.agent_server_id == server.pk

        def restart() -> None:
            conversations.restart(conversation, on=server)
            audit.advance(turn, incarnation=conversation.incarnation)

        await writer.run(restart)
        session.incarnation = conversation.incarnation
        self.is_rebuilt = True
        await self._start(session, keeps_directory=was_here)

    async def send(self, session: AgentSession) -> None:
        """Hand the message to the agent, once."""
        message = self._message
        if self._output is not None:
            told = TextPart(text=structured_output.instruction(self._output))
            message = joined([*message, told], divider="\n\n")
        parts = message_parts(message)
        if time.clock_gettime(_CLOCK) - self._fenced > FENCE_AFTER_SECONDS:
            await self._note()
        if self.conversation.is_fresh_fork:
            await session.send_first(parts, llm=self._spec().llm)
            await self._note_llm()
        else:
            await session.send(parts)

    def let_go(self) -> None:
        """Forget the message, which the agent has now: it may hold a long history, and the run be long."""
        self._parts = self._message = ()
        self._whole = None

    async def complete(self, session: AgentSession) -> None:
        """Bring to its end what another process began of a fork."""
        if self.conversation.is_fresh_fork:
            await session.begin_unless_begun(self._spec().llm)
            await self._note_llm()

    def _spec(self) -> AgentSpec:
        server = self.turn.agent_server
        assert server is not None
        return agents.agent_for(
            profile=self.profile,
            conversation=self.conversation,
            server=server,
            overrides=self._overrides,
            instructions=self._instructions,
        )

    async def _note(self, **changes: object) -> None:
        """Write that the turn is about to run, and what changed of its conversation."""
        turn, conversation = self.turn, self.conversation

        def note() -> None:
            audit.advance(turn, phase=Turn.Phase.RUNNING)
            if changes:
                conversations.update(conversation, **changes)

        asked = time.clock_gettime(_CLOCK)
        await writer.run(note)
        self._fenced = asked

    async def _note_llm(self) -> None:
        """A fork has its LLM now, and is like any other conversation from here on."""
        conversation, digest = self.conversation, agents.llm_digest(self._spec().llm)
        await writer.run(lambda: conversations.update(conversation, llm_digest=digest))
