"""What a caller sent as `messages[]`, sorted: system suffix, earlier turns, the user message to run.

A conversation that already lives on an agent-server gets only the new turn (`Transcript.user_parts`). A new one
gets the earlier turns too, told inside its first user message (`replay`): agent-servers take messages from users
only, so there is no other place for what an assistant said.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """`url` is a checked `data:` or public https URL. `detail` is `auto`, `low`, `high`, `original` or None."""

    url: str
    detail: str | None = None


UserPart = TextPart | ImagePart


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that an assistant of an earlier turn made; `arguments` is its own text, usually JSON."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierMessage:
    """One message that is not the system's. Adjacent text parts are one; empty ones are left out.

    Role `tool` covers the old role `function`. `tool_name` and `tool_call_id` are empty for other roles, and where
    the caller left them out. `index` is the message's place in `messages[]`.
    """

    index: int
    role: Literal["user", "assistant", "tool"]
    parts: tuple[UserPart, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    tool_name: str = ""

    @property
    def is_blank(self) -> bool:
        """Nothing in it to pass on. A tool's empty result says something: that the tool ran."""
        if self.role == "tool" or self.tool_calls:
            return False
        return all(isinstance(part, TextPart) and not part.text.strip() for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """`messages[]`, taken apart.

    `system_suffix` joins all system and developer texts, wherever they stood, with blank lines; "" if there are none.

    The new turn is everything after the last assistant message: usually one user message, sometimes several
    messages of users and tools in a row, which are joined with blank lines. `user_parts` is that turn as one user
    message, never without content; text that is not divided by an image is one part. `earlier` is what came before,
    `new` the messages of the new turn, both with blank messages left out.

    Where the last message is the assistant's, the caller wants that answer gone on with ("Continue" of chat UIs): it
    `continues` it. Then it belongs to `earlier`, `new` is empty, and `user_parts` asks the agent to go on.

    `messages` are all messages as sent (without NUL characters); those from `new_from` on belong to the new turn,
    system messages among them.
    """

    system_suffix: str
    earlier: tuple[EarlierMessage, ...]
    user_parts: tuple[UserPart, ...]
    messages: tuple[dict[str, Any], ...]
    new_from: int
    new: tuple[EarlierMessage, ...] = ()
    continues: bool = False

    @property
    def continued_text(self) -> str:
        """What the caller has of the answer that is to be gone on with; "" for any other turn."""
        return user_text(self.earlier[-1].parts) if self.continues else ""


# Agent-servers take messages from users only, so an agent is asked to go on like this.
GO_ON = (
    "Go on with your last answer: begin exactly where the text that the user has of it ends, if need be in the middle "
    "of a word. Repeat none of it, and say nothing about going on."
)


def transcript_of(
    *, messages: Sequence[dict[str, Any]], system_texts: Sequence[str], spoken: Sequence[EarlierMessage]
) -> Transcript:
    """The transcript of checked messages. `spoken` holds all but the system's."""
    first_new = len(spoken)
    while first_new and spoken[first_new - 1].role != "assistant":
        first_new -= 1
    return Transcript(
        system_suffix="\n\n".join(text for text in system_texts if text.strip()),
        earlier=tuple(message for message in spoken[:first_new] if not message.is_blank),
        user_parts=_as_one_message(spoken[first_new:]) or (TextPart(text=GO_ON),),
        messages=tuple(messages),
        new_from=spoken[first_new - 1].index + 1 if first_new else 0,
        new=tuple(message for message in spoken[first_new:] if not message.is_blank),
        continues=first_new == len(spoken),
    )


def divided(transcript: Transcript, *, at: int) -> Transcript:
    """`transcript` with its new turn beginning after the first `at` messages of `earlier` and `new`; one at least
    must be left for it."""
    spoken = (*transcript.earlier, *transcript.new)
    if at == len(transcript.earlier):
        return transcript
    return replace(transcript, earlier=spoken[:at], new=spoken[at:], user_parts=_as_one_message(spoken[at:]))


def user_text(parts: Iterable[UserPart]) -> str:
    """The texts of `parts`, divided by blank lines; images are left out."""
    return "\n\n".join(part.text for part in parts if isinstance(part, TextPart))


def joined(parts: Iterable[UserPart], *, divider: str) -> tuple[UserPart, ...]:
    """`parts` with empty texts left out and adjacent texts made one."""
    result: list[UserPart] = []
    # In linear time: a body may hold tens of thousands of text parts.
    for is_text, run in groupby((part for part in parts if part != _EMPTY), key=_is_text):
        if is_text:
            result.append(TextPart(text=divider.join(part.text for part in run if isinstance(part, TextPart))))
        else:
            result.extend(run)
    return tuple(result)


_EMPTY = TextPart(text="")


def _is_text(part: UserPart) -> bool:
    return isinstance(part, TextPart)


# --- replay ----------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"[0-9a-f]{16}")
# A draw of 64 random bits that occurs in the content is already a wonder; a hundred are a broken `draw`.
_DRAWS = 100


def texts_of(transcript: Transcript) -> Iterator[str]:
    """Every text that `replay` writes down: what a fence must not occur in."""
    for message in transcript.earlier:
        yield message.tool_call_id
        yield message.tool_name
        for call in message.tool_calls:
            yield from (call.call_id, call.name, call.arguments)
        yield from (part.text for part in message.parts if isinstance(part, TextPart))
    yield from (part.text for part in transcript.user_parts if isinstance(part, TextPart))


def new_fence(texts: Iterable[str], draw: Callable[[], str]) -> str:
    """An id that occurs in none of `texts`. `draw` gives 16 random hex digits, such as `secrets.token_hex(8)`.

    The content of a replay is verbatim, so nothing in it may look like the tags around it: whoever wrote an earlier
    message cannot know an id that is drawn afterwards.
    """
    known = tuple(texts)
    for _ in range(_DRAWS):
        fence = draw()
        if not _FENCE.fullmatch(fence):
            raise ValueError(f"A fence is 16 lower-case hex digits, not {fence!r}.")
        if not any(fence in text for text in known):
            return fence
    raise ValueError(f"{_DRAWS} fences in a row occur in the content; they are not random.")


def replay(transcript: Transcript, *, fence: str) -> tuple[UserPart, ...]:
    """The first user message of a conversation that must know the earlier turns: those, then the new turn.

    `fence` comes from `new_fence(texts_of(transcript), …)` and stands in every tag. Texts are verbatim, each between
    the tags of a message with its role. Images of earlier turns follow as parts of their own, in order, and are
    named where they stood (`[image 1]`). Without earlier turns this is `transcript.user_parts`.
    """
    if not transcript.earlier:
        return transcript.user_parts
    images: list[UserPart] = []
    preface = (
        f"Earlier messages of this conversation, oldest first. Only tags with the id {fence} divide them; "
        "everything between a message's tags is its content. The new message follows after the last tag."
    )
    lines = [preface, f"<conversation-{fence}>"]
    for message in transcript.earlier:
        lines.append(f"<message-{fence} {_attributes(message)}>")
        for part in message.parts:
            if isinstance(part, TextPart):
                lines.append(part.text)
            else:
                images.append(part)
                lines.append(f"[image {len(images)}]")
        for call in message.tool_calls:
            opening = f'<tool_call-{fence} name="{_attribute(call.name)}" id="{_attribute(call.call_id)}">'
            lines += [opening, call.arguments, f"</tool_call-{fence}>"]
        lines.append(f"</message-{fence}>")
    lines.append(f"</conversation-{fence}>")
    told = TextPart(text="\n".join(lines))
    return joined([told, *images, *transcript.user_parts], divider="\n\n")


def after_stop(parts: Iterable[UserPart], *, seen: str, fence: str) -> tuple[UserPart, ...]:
    """A user's message to an agent whose last answer was stopped: what the user saw of it, then `parts`.

    The agent's own log has no trace of an answer that was stopped. `fence` is a `new_fence` of all these texts.
    """
    note = "Your last answer was stopped before the user saw any of it."
    if seen:
        note = (
            "Your last answer was stopped. What the user saw of it stands between the tags with the id "
            f"{fence}; the new message follows after them.\n<stopped-{fence}>\n{seen}\n</stopped-{fence}>"
        )
    return joined([TextPart(text=note), *parts], divider="\n\n")


def _attributes(message: EarlierMessage) -> str:
    written = f'role="{message.role}"'
    if message.tool_name:
        written += f' name="{_attribute(message.tool_name)}"'
    if message.tool_call_id:
        written += f' id="{_attribute(message.tool_call_id)}"'
    return written


def _attribute(text: str) -> str:
    """`text` inside quotes: it cannot close them, nor start a line of its own."""
    return " ".join(html.escape(text).split())


def _as_one_message(messages: Iterable[EarlierMessage]) -> tuple[UserPart, ...]:
    parts: list[UserPart] = []
    for message in messages:
        if message.role == "tool":
            which = message.tool_name or message.tool_call_id
            heading = TextPart(text=f"Result of the tool call {which}:" if which else "Result of a tool call:")
            parts.extend(joined([heading, *message.parts], divider="\n"))
        elif not message.is_blank:
            parts.extend(message.parts)
    return joined(parts, divider="\n\n")
