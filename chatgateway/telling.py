"""What an agent is told of earlier turns that it does not know: in its first message, and after a turn that was cut.

Reads the record. Agent-servers take messages from users only, so there is no other place for what was said before.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from chatgateway import message_store
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api import eliding
from chatgateway.openai_api.histories import SentHistory
from chatgateway.openai_api.messages import parse_messages
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A message for an agent. `elided` counts the earlier messages that are not told in it, or not whole."""

    parts: tuple[UserPart, ...]
    elided: int = 0


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
    index = 0
    for position, turn in enumerate(answered.iterator(chunk_size=100)):
        if turn.last_message_id is None:
            # Its texts are no longer kept. The agent is told so, lest it take what follows for the whole.
            yield EarlierMessage(index=index, role="user", parts=(TextPart(text=_REMOVED),))
            yield EarlierMessage(index=index + 1, role="assistant", parts=(TextPart(text=_REMOVED),))
            index += 2
            continue
        stored = message_store.chain(turn.last_message_id)
        sent = parse_messages(stored, accepts_images=True, accepts_remote_images=True)
        # The first turn may itself have come with a history; later ones repeat what stands before them.
        if position == 0:
            yield from sent.earlier
        elif sent.continues and (turn.parent is None or turn.parent.outcome != Turn.Outcome.ANSWERED):
            yield from sent.earlier[-2:]  # the answer that is gone on with was cut, and is told nowhere else
        yield EarlierMessage(index=index, role="user", parts=sent.user_parts)
        yield EarlierMessage(index=index + 1, role="assistant", parts=(TextPart(text=turn.answer),))
        index += 2


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
        seen = user_text(transcript.earlier[-1].parts) if transcript.earlier[-1].role == "assistant" else ""
        fence = new_fence([seen, user_text(transcript.user_parts)], lambda: secrets.token_hex(8))
        return Told(parts=after_stop(transcript.user_parts, seen=seen, fence=fence))
    return told(replace(transcript, earlier=transcript.earlier[_known_to_agent(turn, sent) :]), profile=profile)


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
