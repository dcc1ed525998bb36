"""Is a request the repeat of one that was made already? If so it joins that turn, and no agent runs twice.

Clients repeat a request whose answer they lost. Three signs of it, in this order:

- an `Idempotency-Key`: the same key means the same request, for a day;
- OpenAI's SDKs count their attempts (`X-Stainless-Retry-Count`): a second one joins the turn of an equal request that
  is open, or whose answer never arrived;
- other clients mark nothing and repeat after an error within seconds: they get that error again, twice at most.

Two equal requests without any such sign are two requests. Synchronous; runs inside the transaction that opens a turn,
and locks the row it finds, so that a turn that is being cancelled is not joined.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.utils import timezone

from chatgateway import audit
from chatgateway.audit import Arrival
from chatgateway.errors import IdempotencyMismatch
from chatgateway.models import Turn
from chatgateway.querysets import TurnQuerySet

KEY_HOURS = 24
# Python's SDK gives up on a silent reply after 600 s, so that its third attempt begins 1,200 s after the first: what
# counts is when the turn ended.
UNDELIVERED_MINUTES = 15
# The AI SDK repeats after about 2 s and 4 s, says nothing of it and ignores `x-should-retry` (measured).
ERROR_AGAIN_SECONDS = 10
ERROR_AGAIN_TIMES = 2
_REPEATED_STATUSES = (408, 409, 429)
# How many equal requests of one key are told apart when all of them are repeated at once.
SEVERAL = 16


@dataclass(frozen=True, slots=True)
class _Equal:
    """The newest turn of an equal request, as much of it as nearly always shows that it is not repeated."""

    id: Any
    outcome: str
    http_status: int | None

    def read(self) -> Turn | None:
        return _rows().filter(pk=self.id).first()


def find(arrival: Arrival) -> Turn | None:
    """Return the turn that this request repeats, or None for a request of its own.

    Raises IdempotencyMismatch when its key names a different request.
    """
    if arrival.idempotency_key:
        return _of_key(arrival)
    if arrival.retry_count is None:
        return _failed_just_now(arrival)
    return _undelivered(arrival) if arrival.retry_count > 0 else None


def _of_key(arrival: Arrival) -> Turn | None:
    rows = _rows().filter(api_key_id=arrival.caller.api_key_id, idempotency_key=arrival.idempotency_key)
    turn = rows.first()
    if turn is None:
        return None
    if turn.outcome != Turn.Outcome.OPEN and turn.opened_at < timezone.now() - dt.timedelta(hours=KEY_HOURS):
        audit.release_key(turn)
        return None
    if turn.retry_digest != arrival.retry_digest:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used for another request. Use a new key for each request; repeat a request "
            "unchanged to get its answer."
        )
    return turn


def _undelivered(arrival: Arrival) -> Turn | None:
    newest = [turn for equal in _newest_equal(arrival, SEVERAL) if (turn := equal.read()) is not None]
    if newest and newest[0].outcome == Turn.Outcome.REFUSED:
        return None  # this request's own first attempt, most likely: nothing was begun for it
    joinable = [turn for turn in newest if _has_undelivered_answer(turn)]
    # Several equal questions at once, whose callers all come back: each to a turn of its own.
    return next((turn for turn in joinable if not audit.is_waited_for(turn)), joinable[0] if joinable else None)


def _has_undelivered_answer(turn: Turn) -> bool:
    """Whether the turn's answer is there and did not arrive, or will be there."""
    if _is_stopped_for_good(turn):
        return False
    if turn.closed_at is None:
        return True
    if turn.closed_at < timezone.now() - dt.timedelta(minutes=UNDELIVERED_MINUTES):
        return False
    return not turn.attempts.filter(delivered_at__isnull=False).exists()


def _failed_just_now(arrival: Arrival) -> Turn | None:
    equal = next(iter(_newest_equal(arrival, 1)), None)
    if equal is None or not _has_failed(equal):
        return None  # the same question again: its row is not worth reading
    turn = equal.read()
    if turn is None or turn.closed_at is None or _is_stopped_for_good(turn):
        return None
    if turn.closed_at < timezone.now() - dt.timedelta(seconds=ERROR_AGAIN_SECONDS):
        return None
    return turn if turn.attempts.count() <= ERROR_AGAIN_TIMES else None


def _has_failed(turn: _Equal) -> bool:
    status = turn.http_status or 0
    has_ended = turn.outcome not in (Turn.Outcome.OPEN, Turn.Outcome.REFUSED)
    return has_ended and (status >= 500 or status in _REPEATED_STATUSES)


def _is_stopped_for_good(turn: Turn) -> bool:
    """Nothing was begun, or nobody waited for it any more: there is nothing to wait for."""
    return turn.outcome == Turn.Outcome.REFUSED or turn.cancel_reason == "disconnect"


def _newest_equal(arrival: Arrival, count: int) -> list[_Equal]:
    with connection.cursor() as cursor:
        # Plain SQL: every request of a client that marks nothing runs it, and hardly ever finds anything. A repeat
        # that was turned away, by a process that was ending, says nothing of the turn that it repeated.
        cursor.execute(
            "SELECT id, outcome, http_status FROM chatgateway_turn "
            "WHERE api_key_id = %s AND retry_digest = %s AND idempotency_key = '' "
            "AND NOT (outcome = 'refused' AND EXISTS (SELECT 1 FROM chatgateway_attempt "
            "WHERE turn_id = chatgateway_turn.id AND retry_count > 0)) ORDER BY arrival DESC LIMIT %s",
            [arrival.caller.api_key_id, arrival.retry_digest, count],
        )
        return [_Equal(*row) for row in cursor.fetchall()]


def _rows() -> TurnQuerySet:
    return Turn.objects.select_for_update(of=("self",)).select_related("profile", "conversation")
