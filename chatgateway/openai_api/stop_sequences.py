"""`stop`: an answer ends before the first of the caller's sequences. The agent itself is never stopped by one.

The sequence that is complete first counts, whatever pieces the text comes in, so that a streamed answer and a collected
one are cut at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence


def cut(text: str, sequences: Sequence[str]) -> str:
    """`text` up to the first stop sequence in it; all of it if there is none."""
    at = _first(text, sequences)
    return text if at is None else text[:at]


class StopCut:
    """Cuts a text that comes in pieces. `held` is what may be the beginning of a sequence, and is not handed on yet."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = sequences
        self._has_stopped = False
        self.held = ""

    def feed(self, piece: str) -> str:
        """What of the text so far can be handed on now; "" for all that follows a sequence."""
        if self._has_stopped:
            return ""
        text = self.held + piece
        at = _first(text, self._sequences)
        if at is not None:
            self._has_stopped, self.held = True, ""
            return text[:at]
        kept = max((_begun(text, sequence) for sequence in self._sequences), default=0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was held back, now that the text has ended and it is no sequence."""
        rest, self.held = self.held, ""
        return rest


def _first(text: str, sequences: Sequence[str]) -> int | None:
    """Where the sequence begins that ends first; of several that end together, the longest."""
    found = [(at + len(one), at) for one in sequences if (at := text.find(one)) >= 0]
    return min(found)[1] if found else None


def _begun(text: str, sequence: str) -> int:
    """How many characters at the end of `text` are the beginning of `sequence`."""
    longest = min(len(sequence) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(sequence[:length])), 0)
