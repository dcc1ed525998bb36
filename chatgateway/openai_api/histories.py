"""By what a history is recognised when a client sends it again.

Chat clients resend everything with each request. A turn keeps two digests: of the history up to the caller's message,
and of the same with the answer as it was delivered. A request whose earlier messages have one of them goes on after
that turn.

A digest covers whose history it is (`scope`: tenant, profile, system text, end user) and every message in order: its
role, its texts and images, its tool calls. Equal digests mean equal histories, but for what clients change on the way:

- a content of one text part is the same as that text; adjacent text parts are joined with a line break;
- white space at either end of a text does not count;
- reasoning at the head of an assistant's text, as chat UIs fold it in (`<think>…</think>`,
  `<details type="reasoning" …>…</details>`), does not count unless it is all there is;
- messages without any content do not count, nor do the names of their authors.

Where the system messages stand among the others does not count either: agents get them in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatgateway.openai_api.canonical import digest
from chatgateway.openai_api.transcript import EarlierMessage, ImagePart, TextPart, Transcript, user_text

# Lets digests of another rule never meet those of this one.
_RULE = "history 1"
_REASONING = re.compile(r'\s*(?:<think>.*?</think>|<details type="reasoning"[^>]*>.*?</details>)', re.DOTALL)
# Of a text that was cut, the reasoning may not end.
_CUT_REASONING = re.compile(r'\s*(?:<think>|<details type="reasoning"[^>]*>)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A place where an answer may have been cut: the history up to a caller's message, and what the client has of the
    answer to it. The first `upto` messages are those of that turn and the ones before."""

    digest: str
    text: str
    upto: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SentHistory:
    """A request's messages but for the system's. `digests[n]` covers the first n; those from `first_new` on are new.

    `continues`: there is nothing new, and the last answer is to be gone on with.
    """

    messages: tuple[EarlierMessage, ...]
    digests: tuple[str, ...]
    first_new: int
    continues: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether there is nothing before the caller's one message."""
        return len(self.messages) < 2

    @property
    def request_digest(self) -> str:
        """Of the history up to the caller's message: to an answer that is gone on with, the one it answers."""
        return self.digests[-2 if self.continues else -1]

    @property
    def answered(self) -> str:
        """The digest of a history that ends with an answer, empty if this one does not."""
        ends_with_answer = self.first_new > 0 and self.messages[self.first_new - 1].role == "assistant"
        return self.digests[self.first_new] if ends_with_answer else ""

    @property
    def unanswered(self) -> tuple[Stop, ...]:
        """Where the last answer may have been cut, the likeliest first."""
        stops = []
        if len(self.messages) - self.first_new > 1:
            # Nothing was shown, and the client keeps no empty message: its last two turns stand side by side.
            stops.append(self._stop(len(self.messages) - 1, answer=None))
        if self.answered:
            stops.append(self._stop(self.first_new - 1, answer=self.messages[self.first_new - 1]))
        elif self.first_new:
            stops.append(self._stop(self.first_new, answer=None))  # the answer was an empty message
        return tuple(stops)

    def _stop(self, length: int, *, answer: EarlierMessage | None) -> Stop:
        text = "" if answer is None else cut_text(user_text(answer.parts))
        return Stop(digest=self.digests[length], text=text, upto=length if answer is None else length + 1)


def scope(*, tenant_id: int, profile_id: int, system_text: str, end_user: str) -> bytes:
    """Whose history it is, and with whom. `end_user` is empty if the request names none."""
    return digest(_RULE, str(tenant_id), str(profile_id), system_text.strip(), end_user)


def sent_history(transcript: Transcript, *, scope: bytes) -> SentHistory:
    """The messages of a request with their digests. In linear time."""
    messages = (*transcript.earlier, *transcript.new)
    digests = [scope]
    for message in messages:
        digests.append(_after(digests[-1], message))
    return SentHistory(
        messages=messages,
        digests=tuple(one.hex() for one in digests),
        first_new=len(transcript.earlier),
        continues=transcript.continues,
    )


def end_digest(request_digest: str, answer: str) -> str:
    """The digest of the history that a client has after it got `answer`; empty if that of its request is not known."""
    if not request_digest:
        return ""
    return _after(bytes.fromhex(request_digest), _assistant(answer)).hex()


def followed_by(history: str, messages: Sequence[EarlierMessage]) -> str:
    """The digest of a history with more messages; empty if its own is not known."""
    if not history:
        return ""
    digested = bytes.fromhex(history)
    for message in messages:
        digested = _after(digested, message)
    return digested.hex()


def answer_text(text: str) -> str:
    """An assistant's text without what does not count."""
    return _without_reasoning(text) or text.strip()


def cut_text(text: str) -> str:
    """The same of an answer that was cut: it may have consisted of reasoning alone, and not even have ended that."""
    rest = _without_reasoning(text)
    return "" if _CUT_REASONING.match(rest) else rest


def _without_reasoning(text: str) -> str:
    while (reasoning := _REASONING.match(text)) is not None:
        text = text[reasoning.end() :]
    return text.strip()


def _assistant(text: str) -> EarlierMessage:
    return EarlierMessage(index=0, role="assistant", parts=(TextPart(text=text),))


def _after(history: bytes, message: EarlierMessage) -> bytes:
    of_parts: list[str | None] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            of_parts += ["image", part.url, part.detail]
        else:
            of_parts += ["text", answer_text(part.text) if message.role == "assistant" else part.text.strip()]
    for call in message.tool_calls:
        of_parts += ["call", call.call_id, call.name, call.arguments]
    return digest(history, message.role, message.tool_call_id, message.tool_name, *of_parts)
