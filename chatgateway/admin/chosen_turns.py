"""The turns that a file is made of, however many: read in small batches, in threads of their own.

Which turns they are is decided once, when the file is asked for, and kept as a list of ids: nothing in the database is
held while a slow download goes on, and turns that come meanwhile do not shift the others.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID
from zoneinfo import ZoneInfo

from asgiref.sync import sync_to_async
from django.db import connection
from django.db.models import Count, QuerySet
from django.http import StreamingHttpResponse
from django.utils import timezone

from chatgateway import drivers
from chatgateway.admin import turn_story
from chatgateway.models import Event, Turn

TURNS_AT_ONCE = 100
# The events of so many are in memory at once, or those of one turn.
EVENTS_AT_ONCE = 1_000
_ID_BYTES = 16
# Ids of 65,000 turns; a longer list lies on disk.
_LIST_BYTES = 1 << 20
# Of all files together: pages of the admin and callers come first.
_threads = ThreadPoolExecutor(2, thread_name_prefix="gateway-files")

type Batch = list[tuple[Turn, list[Event]]]


class FileCutOff(Exception):
    """The process is about to end. Raised in mid-file, so that the download fails and does not look complete."""


class ChosenTurns:
    """The ids of the turns of a query, in its order. Reads them all at once, by a cursor of the database."""

    def __init__(self, turns: QuerySet[Turn]) -> None:
        self._ids = tempfile.SpooledTemporaryFile(max_size=_LIST_BYTES)  # noqa: SIM115  closed with the response
        self._close = weakref.finalize(self, self._ids.close)  # or with this, if nobody takes it
        self.count = 0
        for pk in turns.values_list("pk", flat=True).iterator(chunk_size=5_000):
            self._ids.write(pk.bytes)
            self.count += 1
        self._ids.seek(0)

    def close(self) -> None:
        self._close()

    def batches(self, *, with_events: bool) -> Iterator[Batch]:
        """Yield the turns with their events, which are at most one more of each than `turn_story` tells.

        Two queries for each batch, and one for each thousand events. Turns that were deleted meanwhile are left out.
        """
        while block := self._ids.read(_ID_BYTES * TURNS_AT_ONCE):
            ids = [UUID(bytes=block[at : at + _ID_BYTES]) for at in range(0, len(block), _ID_BYTES)]
            rows = Turn.objects.select_related("last_message", "file_changes").in_bulk(ids)
            turns = [rows[pk] for pk in ids if pk in rows]
            if with_events:
                yield from _with_events(turns)
            else:
                yield [(turn, []) for turn in turns]


def _with_events(turns: list[Turn]) -> Iterator[Batch]:
    """Divide turns so that the events of each part fit into memory."""
    counts = Event.objects.filter(turn__in=[turn.pk for turn in turns]).order_by().values_list("turn")
    events_of: dict[UUID, int] = dict(counts.annotate(n=Count("pk")))
    part: list[Turn] = []
    held = 0
    for turn in turns:
        count = events_of.get(turn.pk, 0)
        if part and held + count > EVENTS_AT_ONCE:
            yield _events_read(part, held)
            part, held = [], 0
        part.append(turn)
        held += count
    if part:
        yield _events_read(part, held)


def _events_read(turns: list[Turn], count: int) -> Batch:
    if count > EVENTS_AT_ONCE:  # it is one turn
        return [(turn, list(turn.events.order_by("seq")[: turn_story.MAXIMUM_EVENTS + 1])) for turn in turns]
    found: dict[UUID, list[Event]] = {}
    if count:
        for event in Event.objects.filter(turn__in=[turn.pk for turn in turns]).order_by("turn", "seq"):
            found.setdefault(event.turn_id, []).append(event)
    return [(turn, found.get(turn.pk, [])) for turn in turns]


class _File:
    """What a response streams: pieces made in a thread, in the viewer's time zone, one when the last one has left."""

    def __init__(self, chosen: ChosenTurns, pieces: Iterator[str], zone: ZoneInfo | None) -> None:
        self._chosen = chosen
        self._pieces = pieces
        self._zone = zone

    def close(self) -> None:
        self._chosen.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        take = sync_to_async(self._take, thread_sensitive=False, executor=_threads)
        try:
            while (piece := await take()) is not None:
                yield piece.encode()
                if drivers.current().is_draining:
                    raise FileCutOff
        finally:
            self.close()

    def _take(self) -> str | None:
        try:
            with timezone.override(self._zone):
                return next(self._pieces, None)
        finally:
            connection.close()  # the browser may take its time until it wants more


def streamed(
    chosen: ChosenTurns, made_of: Callable[[ChosenTurns], Iterator[str]], *, zone: ZoneInfo | None, content_type: str
) -> StreamingHttpResponse:
    """Return a response whose pieces `made_of` yields. They are made while it is sent; it takes a batch of memory."""
    response = StreamingHttpResponse(_File(chosen, made_of(chosen), zone), content_type=content_type)
    response["Cache-Control"] = "no-store, private"
    response["X-Accel-Buffering"] = "no"
    return response
