"""Who used which key, and who failed to: kept in memory on the request path, written once a minute.

Lossy on purpose: what a killed process had not written yet is lost. `start` is called by whoever serves requests
(nobody else has anything to note), `stop` writes what is left.
"""

from __future__ import annotations

import atexit
import datetime as dt
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import batched

from django.db import connection, transaction
from django.db.models import Case, F, PositiveIntegerField, Value, When
from django.db.utils import Error as DatabaseError

from profiles.models import ApiKey, FailedAuthentication

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 60.0
# More different failures within a minute are counted together, so that an attack cannot fill memory or the table.
MAXIMUM_BUCKETS = 1_000
EVERYONE_ELSE = "(others)"
# SQLite takes 32,766 parameters in a statement; a bucket needs four in the largest one.
_ROWS_PER_STATEMENT = 200

Bucket = tuple[dt.datetime, str, str]  # minute, address, prefix


@dataclass(slots=True)
class _Notes:
    """What has not been written yet."""

    uses: dict[int, tuple[dt.datetime, str]] = field(default_factory=dict)
    failures: dict[Bucket, int] = field(default_factory=dict)


_notes = _Notes()
_lock = threading.Lock()
_thread: threading.Thread | None = None
_is_stopping = threading.Event()


def note_use(api_key_id: int, *, client: str, now: dt.datetime) -> None:
    """Remember that a key was used. `client` is what the caller says it is; at most 200 characters are kept."""
    with _lock:
        _notes.uses[api_key_id] = (now, client[:200])


def note_failure(*, address: str, prefix: str, now: dt.datetime) -> None:
    """Count a failed authentication. `prefix` is empty when the text was no key of ours."""
    bucket = (now.replace(second=0, microsecond=0), address[:64], prefix)
    with _lock:
        if bucket not in _notes.failures and len(_notes.failures) >= MAXIMUM_BUCKETS:
            bucket = (bucket[0], EVERYONE_ELSE, "")
        _notes.failures[bucket] = _notes.failures.get(bucket, 0) + 1


def flush() -> None:
    """Write what was noted since the last time; a failure is logged and what it concerned is lost."""
    global _notes  # swapped whole, so that nothing noted meanwhile is lost
    with _lock:
        notes, _notes = _notes, _Notes()
    try:
        _write_uses(notes.uses)
        _write_failures(notes.failures)
    except DatabaseError:
        logger.exception("uses of API keys and failed authentications could not be recorded")


def discard() -> None:
    """Forget what was noted and not written."""
    global _notes  # noqa: PLW0603
    with _lock:
        _notes = _Notes()


def _write_uses(uses: dict[int, tuple[dt.datetime, str]]) -> None:
    # No full rows: whatever an administrator changed meanwhile stays.
    stamps = (
        ApiKey(pk=api_key_id, last_used_at=used_at, last_used_client=client)
        for api_key_id, (used_at, client) in uses.items()
    )
    for rows in batched(stamps, _ROWS_PER_STATEMENT):
        ApiKey.objects.bulk_update(rows, ["last_used_at", "last_used_client"])


def _write_failures(failures: dict[Bucket, int]) -> None:
    # Sorted, so that two processes lock the same rows in the same order.
    for counts in batched(sorted(failures.items()), _ROWS_PER_STATEMENT):
        with transaction.atomic():
            _add(counts)


def _add(counts: Iterable[tuple[Bucket, int]]) -> None:
    """Add to the buckets' counts, which other processes may be adding to at the same time."""
    counts = list(counts)
    FailedAuthentication.objects.bulk_create(
        [
            FailedAuthentication(minute=minute, address=address, prefix=prefix)
            for (minute, address, prefix), _ in counts
        ],
        ignore_conflicts=True,
    )
    added = Case(
        *(
            When(minute=minute, address=address, prefix=prefix, then=Value(count))
            for (minute, address, prefix), count in counts
        ),
        default=Value(0),
        output_field=PositiveIntegerField(),
    )
    minutes = {minute for (minute, _, _), _ in counts}
    addresses = {address for (_, address, _), _ in counts}
    rows = FailedAuthentication.objects.filter(minute__in=minutes, address__in=addresses)
    rows.update(count=F("count") + added)


# --- the thread ---------------------------------------------------------------------------------------------------


def start(*, every_seconds: float = FLUSH_SECONDS) -> None:
    """Begin to write once a minute, from a thread of its own. Calling it again changes nothing."""
    global _thread  # noqa: PLW0603  one per process
    if _thread is not None:
        return
    _is_stopping.clear()
    _thread = threading.Thread(target=_flush_forever, args=(every_seconds,), name="bookkeeping", daemon=True)
    _thread.start()
    atexit.register(stop)


def stop(*, timeout_seconds: float = 5.0) -> None:
    """Write what is left and end the thread."""
    global _thread
    atexit.unregister(stop)
    thread, _thread = _thread, None
    if thread is not None:
        _is_stopping.set()
        thread.join(timeout_seconds)


def _flush_forever(every_seconds: float) -> None:
    is_last = False
    while not is_last:
        is_last = _is_stopping.wait(every_seconds)
        try:
            flush()
        finally:
            connection.close()  # nobody else uses this thread's connection
