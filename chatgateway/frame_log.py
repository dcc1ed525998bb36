"""What a response shows, written down before it is sent: the only writer of `Frame` rows.

A streamed response numbers its events, and a client that lost the connection goes on after the last number it saw, at
whatever process. So a number must never come to mean anything else. Pieces are gathered for a moment, written as a
frame, and published after the commit; the numbers follow from the frames alone (`openai_api.responses_stream`). The
driver that takes a turn over reads the frames and goes on where they end.

A response that cannot be gone on with publishes at once, and has its one frame written when its turn closes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from uuid import UUID

from django.db.utils import Error as DatabaseError

from chatgateway import audit, message_store, sql
from chatgateway.live import LiveTurn
from chatgateway.models import Frame, Turn
from chatgateway.turn_events import AnswerShown, ReasoningShown, ShownEvent, StepShown
from chatgateway.writer import writer

logger = logging.getLogger(__name__)

# The longest a piece waits for company before it is written: a reader sees no difference, and a fast model would
# otherwise cost a commit per token.
GATHER_SECONDS = 0.1
# A database that restarts is back within seconds; the stream stands still meanwhile.
AGAIN_SECONDS = 1.0

Piece = list[str]
Shown = AnswerShown | ReasoningShown | StepShown


class FrameLog:
    """One turn's frames, on behalf of its driver. `known` are those that an earlier driver wrote.

    Raises TurnLost, from `publish` or `settle`, when another process has taken the turn over.
    """

    def __init__(self, turn: Turn, live: LiveTurn, *, known: list[list[Piece]]) -> None:
        self._turn = turn
        self._live = live
        self._is_written_ahead = turn.is_resumable
        self._known = _Known(known) if known else None
        self._number = len(known)
        self._unwritten: list[Piece] = []
        self._writing: asyncio.Task[None] | None = None
        self._written_at = float("-inf")
        self._settling = asyncio.Event()
        self._lost: audit.TurnLost | None = None
        live.frames = self._number if self._is_written_ahead else None
        live.publish([event for pieces in known for event in shown_by(pieces)])

    def publish(self, shown: Iterable[ShownEvent]) -> None:
        """Show something, once it is written down."""
        if self._lost is not None:
            raise self._lost
        new = [piece for event in shown for piece in self._pieces(event)]
        if not new:
            return
        _gather(self._unwritten, new)
        if not self._is_written_ahead:
            self._live.publish(list(shown_by(new)))
        elif self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_ahead())

    async def settle(self) -> None:
        """Wait until nothing is under way; what is left then is written by `write_rest`."""
        self._settling.set()
        if self._writing is not None:
            await self._writing
        if self._lost is not None:
            raise self._lost

    def write_rest(self) -> None:
        """Write what is left, in the transaction that closes the turn."""
        if self._unwritten:
            sql.insert([Frame(turn_id=self._turn.pk, number=self._number, pieces=self._unwritten)])

    def publish_rest(self) -> None:
        """Publish what `write_rest` wrote."""
        if self._is_written_ahead:
            self._live.publish(list(shown_by(self._unwritten)))
        self._unwritten = []

    def stop(self) -> None:
        """The driver ends without closing its turn: what is not written yet is for another one to show."""
        if self._writing is not None:
            self._writing.cancel()

    def _pieces(self, event: ShownEvent) -> list[Piece]:
        match event:
            case AnswerShown(text=text, begins_at=None):
                piece = ["text", text]
            case AnswerShown(text=text, begins_at=int(at)):
                piece = ["message", text[at:]]
            case ReasoningShown(text=text):
                piece = ["thought", text]
            case StepShown(line=line):
                piece = ["step", line]
            case _:
                return []
        piece[1] = message_store.storable_text(piece[1])
        if not piece[1]:
            return []
        return [piece] if self._known is None else self._known.beyond(piece)

    async def _write_ahead(self) -> None:
        while self._unwritten and not self._settling.is_set():
            wait_seconds = self._written_at + GATHER_SECONDS - time.monotonic()
            if wait_seconds > 0 and await self._is_settling_within(wait_seconds):
                return
            pieces, self._unwritten = self._unwritten, []
            try:
                await self._write(pieces)
            except audit.TurnLost as lost:
                self._lost = lost
                return
            except DatabaseError:
                logger.exception("frame %s of turn %s could not be written yet", self._number, self._turn.pk)
                _gather(pieces, self._unwritten)
                self._unwritten = pieces
                if await self._is_settling_within(AGAIN_SECONDS):
                    return
                continue
            self._number += 1
            self._written_at = time.monotonic()
            self._live.frames = self._number
            self._live.publish(list(shown_by(pieces)))

    async def _is_settling_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._settling.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _write(self, pieces: list[Piece]) -> None:
        turn, number = self._turn, self._number

        def write() -> None:
            audit.hold(turn)
            sql.insert([Frame(turn_id=turn.pk, number=number, pieces=pieces)])

        await writer.run(write)


class _Known:
    """What an earlier driver has shown already, while this one sees the agent's work again from its log.

    The log holds whole texts and no pieces of them, and nothing of what an LLM wrote and took back. So texts are
    compared from where they begin: what was shown of one is passed over, and the rest of it is new.
    """

    def __init__(self, frames: Iterable[Iterable[Piece]]) -> None:
        self._texts: list[Piece] = []  # each text from its beginning to its end
        for pieces in frames:
            for piece in pieces:
                if _goes_on(self._texts, piece):
                    self._texts[-1][1] += piece[1]
                    continue
                if piece[0] == "retold":
                    self._texts.pop()  # the one that was cut: the agent's log does not have it
                self._texts.append(list(piece))
        self._at = -1
        self._upto = 0
        self._last_kind = ""
        self._is_over = False
        self._drops_thought = False

    def beyond(self, piece: Piece) -> list[Piece]:
        """What of a piece was not shown yet."""
        kind, text = piece
        goes_on = kind == "text" or (kind == "thought" and self._last_kind == "thought")
        self._last_kind = kind
        if not goes_on:
            self._at, self._upto, self._drops_thought = self._at + 1, 0, False
            self._is_over = self._is_over or self._at >= len(self._texts)
        if self._drops_thought:
            return []
        return [piece] if self._is_over else self._rest_of(kind, text)

    def _rest_of(self, kind: str, text: str) -> list[Piece]:
        known_kind, known = self._texts[self._at]
        ahead = known[self._upto :]
        is_last = self._at == len(self._texts) - 1
        if ahead.startswith(text) or ahead.rstrip() == text.rstrip():
            self._upto += len(text)
            return []
        if kind in ("step", "thought"):
            # Thoughts are told differently when they are told again; better less of one than the same twice.
            self._drops_thought = kind == "thought"
            self._is_over = self._is_over or (kind == "step" and is_last)
            return [[kind, text]] if kind == "step" and is_last else []
        if text.startswith(ahead) and is_last:
            self._is_over = True
            return [["text" if known_kind in ("text", "message", "retold") else "message", text[len(ahead) :]]]
        self._is_over = True
        return [["retold", text]]


def frames_of(turn_id: UUID, *, after: int = 0) -> list[list[Piece]]:
    """Read the pieces of a turn's frames, from a number on."""
    return list(
        Frame.objects.filter(turn_id=turn_id, number__gte=after).order_by("number").values_list("pieces", flat=True)
    )


def frames_of_each(turn_ids: Iterable[UUID]) -> dict[UUID, list[list[Piece]]]:
    """Read the pieces of the frames of many turns. One query."""
    found: dict[UUID, list[list[Piece]]] = {}
    rows = Frame.objects.filter(turn_id__in=list(turn_ids)).order_by("turn_id", "number")
    for turn_id, pieces in rows.values_list("turn_id", "pieces"):
        found.setdefault(turn_id, []).append(pieces)
    return found


def shown_by(pieces: Iterable[Piece]) -> Iterator[Shown]:
    """What the pieces of a frame show, one event per piece."""
    for kind, text in pieces:
        match kind:
            case "text":
                yield AnswerShown(text=text)
            case "message" | "retold":
                yield AnswerShown(text=text, begins_at=0, is_retold=kind == "retold")
            case "thought":
                yield ReasoningShown(text=text)
            case "step":
                yield StepShown(line=text)


def _gather(pieces: list[Piece], more: Iterable[Piece]) -> None:
    """Add pieces to others; neighbours that belong together become one."""
    for piece in more:
        if _goes_on(pieces, piece):
            pieces[-1] = [pieces[-1][0], pieces[-1][1] + piece[1]]
        else:
            pieces.append(piece)


def _goes_on(pieces: list[Piece], piece: Piece) -> bool:
    if not pieces:
        return False
    before, kind = pieces[-1][0], piece[0]
    return (kind == "text" and before in ("text", "message", "retold")) or (kind == before == "thought")
