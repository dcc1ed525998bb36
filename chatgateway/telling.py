"""What an agent is told of earlier turns that it does not know: in its first message, and after a turn that was cut.

Reads the record. Agent-servers take messages from users only, so there is no other place for what was said before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from chatgateway import message_store, stored_items
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api import eliding
from chatgateway.openai_api.histories import SentHistory, cut_text
from chatgateway.openai_api.messages import parse_messages
from chatgateway.openai_api.responses_input import parse_input, parse_items
from chatgateway.openai_api.responses_reply import uuid_in
from chatgateway.openai_api.transcript import (
    EarlierMessage,
    TextPart,
    Transcript,
    UserPart,
    after_stop,
    new_fence,
    replay,
    texts_of,
    user_text,
)
from profiles.models import Profile

# Turns that came to nothing one after the other; beyond that the agent is told everything.
_FAILED_IN_A_ROW = 20
_REMOVED = "(This message is no longer in the record.)"
# How far back a history is followed from turn to turn: as many as one request may send messages.
_MOST_TURNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A message for an agent. `elided` counts the earlier messages that are not told in it, or not whole."""

    parts: tuple[UserPart, ...]
    elided: int = 0


# A message that may never be needed, and costs a reading of everything that was said before: made when it is. Reads
# the record.
type Later = Callable[[], Told]


def now(whole: Told | Later) -> Told:
    """Return the message, made now if it was left for later. Queries."""
    return whole() if callable(whole) else whole


def told(transcript: Transcript, *, profile: Profile) -> Told:
    """Return the new turn with the earlier ones told in it, fenced by an id that occurs in none of them.

    What does not fit into the context window of the profile's LLM is left out in the middle.
    """
    if not transcript.earlier:
        return Told(parts=transcript.user_parts)
    system_texts = (transcript.system_suffix, profile.system_prompt, profile.system_suffix)
    fitted = eliding.fitted(transcript, window_tokens=profile.window_tokens, system_texts=system_texts)
    fence = new_fence(texts_of(fitted.transcript), lambda: secrets.token_hex(8))
    return Told(parts=replay(fitted.transcript, fence=fence, gap=fitted.gap), elided=fitted.elided)


def told_again(conversation: Conversation, parts: tuple[UserPart, ...], *, profile: Profile) -> Told:
    """Return `parts`, a new turn, with the conversation's audited turns told in it."""
    new = Transcript(system_suffix=conversation.system_suffix, earlier=(), user_parts=parts, messages=(), new_from=0)
    return told(with_history_of(conversation, new), profile=profile)


def with_history_of(conversation: Conversation, transcript: Transcript) -> Transcript:
    """Return `transcript` with the conversation's audited turns as its earlier messages."""
    return Transcript(
        system_suffix=transcript.system_suffix,
        earlier=tuple(_audited(conversation)),
        user_parts=transcript.user_parts,
        messages=transcript.messages,
        new_from=transcript.new_from,
    )


def _audited(conversation: Conversation) -> Iterator[EarlierMessage]:
    """The caller's messages and the answers of a conversation's good turns, oldest first."""
    answered = Turn.objects.filter(conversation=conversation, outcome=Turn.Outcome.ANSWERED).order_by("arrival")
    position = 0
    for position, turn in enumerate(answered.iterator(chunk_size=100), start=1):
        if turn.last_message_id is None:
            # Its texts are no longer kept. The agent is told so, lest it take what follows for the whole.
            yield EarlierMessage(index=0, role="user", parts=(TextPart(text=_REMOVED),))
            yield EarlierMessage(index=1, role="assistant", parts=(TextPart(text=_REMOVED),))
            continue
        sent = _sent(turn)
        # The first turn may itself have come with a history; in chats later ones repeat what stands before them.
        if position == 1 or turn.is_response:
            yield from sent.earlier
        elif sent.continues and (turn.parent is None or turn.parent.outcome != Turn.Outcome.ANSWERED):
            yield from sent.earlier[-2:]  # the answer that is gone on with was cut, and is told nowhere else
        if position == 1 and not sent.earlier:
            yield from _before_first(turn, conversation)
        yield from _said_in(turn, sent)
    if not position:
        yield from first_items(conversation)[1]


def history_until(turn: Turn) -> tuple[EarlierMessage, ...]:
    """Everything that was said up to the end of a turn, in whichever conversations: by the turns it goes back to."""
    told: list[tuple[EarlierMessage, ...]] = []
    for _ in range(_MOST_TURNS):
        sent = _sent(turn)
        told.append((*sent.earlier, *_said_in(turn, sent)))
        before = _before(turn)
        if before is None or (sent.earlier and not turn.is_response):
            if turn.conversation is not None and not sent.earlier:
                told.append(tuple(_before_first(turn, turn.conversation)))
            break
        turn = before
    return tuple(message for part in reversed(told) for message in part)


def said_before(turn: Turn, conversation: Conversation) -> tuple[EarlierMessage, ...]:
    """Everything that was said before a turn and does not stand in its own request."""
    before = _before(turn)
    if before is not None:
        return history_until(before)
    return tuple(_before_first(turn, conversation))


def first_items(conversation: Conversation) -> tuple[str, tuple[EarlierMessage, ...]]:
    """The system text and the messages that a conversation was made with (`POST /v1/conversations`)."""
    if conversation.first_items_id is None:
        return "", ()
    items = message_store.chain(conversation.first_items_id)
    return parse_items(items, whole="items", accepts_images=True, accepts_remote_images=True)


def _before_first(turn: Turn, conversation: Conversation) -> Iterable[EarlierMessage]:
    """What was said before a conversation's first turn, where that did not say it itself."""
    before = _before(turn)
    if before is not None and before.conversation_id != conversation.pk:
        return history_until(before)
    if conversation.first_items_id is not None:
        return first_items(conversation)[1]
    if conversation.told_from is not None and conversation.told_from_id != conversation.pk:
        return _audited(conversation.told_from)
    return ()


def _before(turn: Turn) -> Turn | None:
    """The turn that this one goes on after; one that had to be told anew has it in its request alone."""
    if turn.parent is not None or not turn.is_response:
        return turn.parent
    named = uuid_in(str(turn.parameters.get("previous_response_id") or ""), prefix=stored_items.PREFIX)
    return None if named is None else Turn.objects.filter(pk=named, tenant_id=turn.tenant_id or 0).first()


def _sent(turn: Turn) -> Transcript:
    """What the request of a turn said."""
    if turn.last_message_id is None:
        return Transcript(system_suffix="", earlier=(), user_parts=(), messages=(), new_from=0)
    stored = message_store.chain(turn.last_message_id)
    if not turn.is_response:
        return parse_messages(stored, accepts_images=True, accepts_remote_images=True)
    named = stored_items.named_in({"input": stored}, tenant_id=turn.tenant_id or 0)
    return parse_input(stored, stored=named, accepts_images=True, accepts_remote_images=True)


def _said_in(turn: Turn, sent: Transcript) -> tuple[EarlierMessage, ...]:
    said = EarlierMessage(index=0, role="user", parts=sent.user_parts)
    if not turn.answer:
        return (said,)
    return said, EarlierMessage(index=1, role="assistant", parts=(TextPart(text=turn.answer),))


# --- after a turn that was not answered -------------------------------------------------------------------------------


def message_after(turn: Turn, sent: SentHistory, transcript: Transcript, *, profile: Profile) -> Told:
    """Return the new turn, with what the agent does not know of the turn before: how its answer was cut, and the turn
    itself if the conversation went back to where it had stood before that."""
    is_cut = turn.cancel_reason == Turn.CEILING and turn.finish_reason == "length"
    if turn.outcome == Turn.Outcome.ANSWERED and not is_cut:
        return Told(parts=transcript.user_parts)
    if is_cut:  # in mid-answer; what there was of it was delivered
        fence = new_fence([turn.answer, user_text(transcript.user_parts)], lambda: secrets.token_hex(8))
        return Told(parts=after_stop(transcript.user_parts, seen=turn.answer, fence=fence))
    if _is_in_log(turn):
        seen = cut_text(user_text(transcript.earlier[-1].parts)) if transcript.earlier[-1].role == "assistant" else ""
        fence = new_fence([seen, user_text(transcript.user_parts)], lambda: secrets.token_hex(8))
        return Told(parts=after_stop(transcript.user_parts, seen=seen, fence=fence))
    return told(replace(transcript, earlier=transcript.earlier[_known_to_agent(turn, sent) :]), profile=profile)


def parts_after(turn: Turn, transcript: Transcript, *, profile: Profile) -> Told:
    """`message_after` where the caller named the turn and sent nothing of what was said before."""
    is_cut = turn.cancel_reason == Turn.CEILING and turn.finish_reason == "length"
    message = told(transcript, profile=profile)
    if turn.outcome == Turn.Outcome.ANSWERED and not is_cut:
        return message
    if is_cut or _is_in_log(turn):
        fence = new_fence([turn.answer, user_text(message.parts)], lambda: secrets.token_hex(8))
        return replace(message, parts=after_stop(message.parts, seen=turn.answer, fence=fence))
    unknown: list[EarlierMessage] = []
    before: Turn | None = turn
    for _ in range(_FAILED_IN_A_ROW):
        if before is None or before.outcome == Turn.Outcome.ANSWERED or _is_in_log(before):
            break
        unknown = [*_said_in(before, _sent(before)), *unknown]
        before = _before(before)
    return told(replace(transcript, earlier=(*unknown, *transcript.earlier)), profile=profile)


def _known_to_agent(turn: Turn, sent: SentHistory) -> int:
    """Return how many of the sent messages the agent knows that a turn left behind which came to nothing."""
    before = turn.parent
    for _ in range(_FAILED_IN_A_ROW):
        if before is None:
            return 0
        if before.outcome == Turn.Outcome.ANSWERED or _is_in_log(before):
            last_known = before.end_digest or before.request_digest
            return sent.digests.index(last_known) if last_known in sent.digests else 0
        before = before.parent
    return 0


def _is_in_log(turn: Turn) -> bool:
    """Whether the message of a turn that was not answered stands in what the agent reads."""
    return turn.outcome == Turn.Outcome.CANCELLED and turn.user_event_seq is not None
