"""Makes a told history fit into the context window of the LLM that is to read it: its middle is left out.

A client's first words say what it is about and its last ones where it stands, so both ends are kept. What is asked now
is never touched. Pure; LiteLLM knows how many tokens a text has, and takes 5 s to load: an estimate does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from chatgateway.openai_api.transcript import EarlierMessage, Gap, TextPart, Transcript, UserPart

# An estimate that errs on the safe side. English has about 4.5 bytes to a token, program code 3.5; of other scripts
# each character is a token at most for today's tokenizers, and has 2 to 4 bytes in UTF-8.
BYTES_PER_TOKEN = 3
# Providers count 85 to 1,600 tokens for an image, by its size.
TOKENS_PER_IMAGE = 1_600
# The tags around a message: 2 × 16 hexadecimal digits, which tokenizers cut into pairs, and words.
TOKENS_PER_MESSAGE = 40
# Of the window, for what an agent is told with its first message. The other half is for what it needs besides: its own
# prompt and the descriptions of its tools (about 8,000 tokens), its steps, and its answer.
SHARE_OF_WINDOW = 0.5
# Room that there is at least, however long the new message is: for the ends of the first message and the last.
LEAST_TOKENS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A transcript that fits. `elided` counts the messages that were left out or shortened."""

    transcript: Transcript
    gap: Gap | None = None
    elided: int = 0


def fitted(transcript: Transcript, *, window_tokens: int | None, system_texts: Iterable[str] = ()) -> Fitted:
    """Return `transcript` with as much of its earlier messages as there is room for; all of them if the window is not
    known. The first and the last are always there, with their middle left out if they are too long."""
    if window_tokens is None or not transcript.earlier:
        return Fitted(transcript=transcript)
    taken = sum(map(tokens_of, system_texts)) + _tokens_of_parts(transcript.user_parts)
    room = max(LEAST_TOKENS, int(window_tokens * SHARE_OF_WINDOW) - taken)
    costs = [_tokens_of_message(message) for message in transcript.earlier]
    if sum(costs) <= room:
        return Fitted(transcript=transcript)
    return _with_gap(transcript, costs, room)


def tokens_of(text: str) -> int:
    """An estimate of a text's tokens that is rather too high than too low."""
    length = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-length // BYTES_PER_TOKEN)


def _with_gap(transcript: Transcript, costs: Sequence[int], room: int) -> Fitted:
    earlier = transcript.earlier
    first = _shortened(earlier[0], room // 4)
    last = _shortened(earlier[-1], room // 2) if len(earlier) > 1 else first
    left = room - _tokens_of_message(first) - (_tokens_of_message(last) if len(earlier) > 1 else 0)
    # A quarter for the beginning, the rest for the end; a message is told whole or not at all.
    head, tail = 1, max(1, len(earlier) - 1)
    for_head = min(left, room // 4 - min(room // 4, _tokens_of_message(first)))
    while head < tail and costs[head] <= for_head:
        for_head -= costs[head]
        left -= costs[head]
        head += 1
    while tail > head and costs[tail - 1] <= left:
        tail -= 1
        left -= costs[tail]
    ends = (first,) if len(earlier) == 1 else (first, *earlier[1:head], *earlier[tail:-1], last)
    left_out = max(0, tail - head)
    return Fitted(
        transcript=replace(transcript, earlier=ends),
        gap=Gap(before=head, messages=left_out) if left_out else None,
        elided=left_out + (first is not earlier[0]) + (len(earlier) > 1 and last is not earlier[-1]),
    )


def _tokens_of_message(message: EarlierMessage) -> int:
    calls = sum(tokens_of(call.name) + tokens_of(call.arguments) + TOKENS_PER_MESSAGE for call in message.tool_calls)
    return TOKENS_PER_MESSAGE + calls + _tokens_of_parts(message.parts)


def _tokens_of_parts(parts: Iterable[UserPart]) -> int:
    return sum(tokens_of(part.text) if isinstance(part, TextPart) else TOKENS_PER_IMAGE for part in parts)


def _shortened(message: EarlierMessage, tokens: int) -> EarlierMessage:
    """The message itself if it has no more than so many tokens, else with the middle of its texts left out. Its images
    are kept: the person talks about them."""
    if _tokens_of_message(message) <= tokens:
        return message
    n_texts = sum(isinstance(part, TextPart) for part in message.parts) + len(message.tool_calls)
    most = max(LEAST_TOKENS // 8, tokens - TOKENS_PER_MESSAGE) * BYTES_PER_TOKEN // max(1, n_texts)
    parts = tuple(
        TextPart(text=shortened(part.text, most)) if isinstance(part, TextPart) else part for part in message.parts
    )
    calls = tuple(replace(call, arguments=shortened(call.arguments, most)) for call in message.tool_calls)
    if (parts, calls) == (message.parts, message.tool_calls):
        return message  # it consists of images
    return replace(message, parts=parts, tool_calls=calls)


def shortened(text: str, most_bytes: int) -> str:
    """`text` with its middle left out, and a note that says how much that was, if it has more bytes in UTF-8."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= most_bytes:
        return text
    head, tail = encoded[: most_bytes - most_bytes // 2], encoded[len(encoded) - most_bytes // 2 :]
    beginning, end = head.decode("utf-8", "ignore"), tail.decode("utf-8", "ignore")  # whole characters only
    left_out = len(text) - len(beginning) - len(end)
    return f"{beginning}\n[… {left_out:,} characters left out …]\n{end}"
