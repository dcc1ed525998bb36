"""The index of questions and answers: the only writer of `TurnText` rows. `removal` deletes them.

A turn's row is written in the transaction that closes the turn, so that what is found is what was recorded. Turns that
were closed by code that knew no index get theirs from `fill_in`.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import batched
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Min
from django.utils import timezone

from chatgateway import message_store, sql, words
from chatgateway.models import Message, Turn, TurnText, Watermark
from chatgateway.models.texts import SQLITE_INDEX

# Rows of one statement, and turns of one transaction of `fill_in`: some hundredths of a second each.
_BATCH = 200
# How long one run of the background task goes on.
RUN_SECONDS = 25.0
# A turn's time is taken before its transaction.
_GRACE = dt.timedelta(minutes=5)
_WATERMARK = "turn_texts"
# Pages of SQLite's index that are written in one transaction.
_PAGES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What a run has added. `is_complete`: every turn that has ended is in the index."""

    turns: int
    is_complete: bool


def question_of(message: Message | None) -> str:
    """Return the text of a caller's message; empty where it has none."""
    body = None if message is None else message.body
    return message_store.text_of(body.get("content")) if isinstance(body, dict) else ""


def write(turns: Iterable[Turn]) -> None:
    """Index the texts of turns that have ended. Those that are in the index already are passed over.

    Reads the last message of each, unless the turn was opened by this process and still has it.
    """
    is_postgresql = connection.vendor == "postgresql"
    mark, joined = ("%s::tsvector", words.for_postgresql) if is_postgresql else ("%s", " ".join)
    turn_id = TurnText._meta.get_field("turn")
    for some in batched(turns, _BATCH):
        values = [
            value
            for turn in some
            for value in (turn_id.get_db_prep_value(turn.pk, connection), joined(_words(turn)))
        ]  # fmt: skip
        rows = ", ".join([f"(%s, {mark})"] * len(some))
        sql.execute(
            f"INSERT INTO chatgateway_turntext (turn_id, words) VALUES {rows} ON CONFLICT DO NOTHING",  # noqa: S608
            values,
        )


def _words(turn: Turn) -> list[str]:
    return words.words_of(question_of(turn.last_message)) + words.words_of(turn.answer)


def fill_in(*, seconds: float = RUN_SECONDS) -> Filled:
    """Index what is missing, oldest first, for at most so long. May run twice at once, and die at any line.

    It goes on where it was, and never ends altogether: while several processes are upgraded one after the other, those
    with the old code close turns without indexing them.
    """
    deadline = time.monotonic() + seconds
    mark, _ = Watermark.objects.get_or_create(name=_WATERMARK, defaults={"at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC)})
    until = _over_until()
    filled = 0
    while time.monotonic() < deadline:
        missing = Turn.objects.filter(
            opened_at__gte=mark.at, opened_at__lt=until, content_removed_at__isnull=True, text__isnull=True
        )
        found = list(missing.order_by("opened_at").values_list("pk", "opened_at")[:_BATCH])
        filled += _fill([pk for pk, _ in found])
        _advance(mark, found[-1][1] if found else until)
        if not found:
            return Filled(turns=filled, is_complete=True)
    return Filled(turns=filled, is_complete=False)


def _over_until() -> dt.datetime:
    """Return the moment before which all turns have ended."""
    open_since = Turn.objects.open().aggregate(first=Min("opened_at"))["first"]
    over = timezone.now() - _GRACE
    return over if open_since is None else min(over, open_since)


def _fill(turn_ids: Sequence[UUID]) -> int:
    with transaction.atomic():
        # Locked: texts that are removed meanwhile must not come back. `removal` empties a turn, then deletes its row.
        rows = Turn.objects.filter(pk__in=turn_ids, content_removed_at__isnull=True)
        turns = list(
            rows.select_for_update(of=("self",), no_key=True)
            .select_related("last_message")
            .only("answer", "last_message__body")
        )
        write(turns)
    return len(turns)


def _advance(mark: Watermark, at: dt.datetime) -> None:
    mark.at = max(mark.at, at)
    Watermark.objects.filter(pk=mark.pk, at__lt=mark.at).update(at=mark.at)


def forget_deleted(*, seconds: float) -> None:
    """Take the words of rows that were deleted out of SQLite's index, for at most so long.

    It keeps them, hidden, until it happens to write anew the part they are in; PostgreSQL's vacuum does it by itself.
    """
    if connection.vendor != "sqlite":
        return
    deadline = time.monotonic() + seconds
    pages = -_PAGES_AT_ONCE  # negative: begins to make all parts one
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute("SELECT total_changes()")
            (before,) = cursor.fetchone()
            cursor.execute(
                f"INSERT INTO {SQLITE_INDEX} ({SQLITE_INDEX}, rank) VALUES ('merge', %s)",  # noqa: S608  our name
                [pages],
            )
            cursor.execute("SELECT total_changes()")
            (after,) = cursor.fetchone()
        if after - before < 2:  # as SQLite's manual says: there was nothing left to do
            return
        pages = _PAGES_AT_ONCE
