"""Where in the recorded conversations does a history end that a client has sent again?

Reads only. Two queries at most: by indexes over digests, and for the one row that was found. Runs inside the
transaction that opens a turn, under the lock that all of them take, so that what is the latest turn of its conversation
stays it until the commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models.functions import Now

from chatgateway import sql
from chatgateway.models import Attempt, Turn
from chatgateway.openai_api import histories
from chatgateway.openai_api.histories import SentHistory, Stop

# Of turns with equal histories the newest ones are looked at; more of them are a test or a greeting.
CANDIDATES = 20
# Of equal ones so many are read at most; those of deleted conversations and of other keys are among them.
SCANNED = 200
# Long texts of the turn that nobody asks for here.
_NOT_READ = ("parameters", "profile_snapshot", "reasoning", "answer")
_ANSWERED = "end_digest = %s"
# Spelled as the index's own condition is: SQLite uses a partial index for nothing else.
_UNANSWERED = "request_digest = %s AND NOT (outcome IN ('answered', 'refused'))"


class StillOpen(Exception):
    """The turn that the history may end with has not closed yet. Look again in a moment.

    `is_left`: nobody waits for it any more, so it is about to close. Otherwise its caller may have gone only just now.
    """

    def __init__(self, *, is_left: bool) -> None:
        super().__init__(is_left)
        self.is_left = is_left


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """Which turns count: those of a tenant, or of conversations that one key started; of one family of conversations
    (`root_id`), or of any."""

    tenant_id: int
    api_key_id: int | None = None
    root_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The turn that a history ends with, and how many of the sent messages are up to there.

    `is_latest`: its conversation has not gone on since.
    """

    turn: Turn
    is_latest: bool
    upto: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A turn with a digest that was looked for; `number` says which it was."""

    turn_id: UUID
    number: int
    is_open: bool
    answer: str
    is_latest: bool


def find(sent: SentHistory, *, within: Within, may_wait: bool) -> Place | None:
    """Return the place of a sent history, None if it is nobody's.

    Where several are equal, one whose conversation has not gone on is taken before others, then the newest. Raises
    StillOpen, unless `may_wait` is False, if what is looked for may be there in a moment.
    """
    if sent.is_alone:
        return None
    stops = sent.unanswered
    looked_for = [(_UNANSWERED, stop.digest) for stop in stops]
    if sent.answered:
        looked_for.append((_ANSWERED, sent.answered))
    found = list(_candidates(looked_for, within))
    answered = [one for one in found if one.number == len(stops)]
    # Two messages side by side: the longer history is the likelier one.
    is_next_to_another = stops[0].upto > sent.first_new
    if answered and not is_next_to_another:
        return _likeliest(answered, sent.first_new)
    return _unanswered(stops, found, may_wait=may_wait) or _likeliest(answered, sent.first_new)


def of_turn(turn: Turn, sent: SentHistory) -> Place | None:
    """Return where in a sent history a turn stands that was found by it before."""
    if turn.end_digest and turn.end_digest == sent.answered:
        return Place(turn=turn, is_latest=True, upto=sent.first_new)
    stop = next((stop for stop in sent.unanswered if stop.digest == turn.request_digest), None)
    return None if stop is None else Place(turn=turn, is_latest=True, upto=stop.upto)


def latest_turn(conversation_id: UUID) -> Turn | None:
    """Return the turn that the next one of a conversation goes on after; of its columns, id and `end_digest` are read.

    A turn that came to nothing is passed over. Every turn of a conversation that goes on asks, hence plain SQL.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, end_digest FROM chatgateway_turn "
            "WHERE conversation_id = %s AND outcome NOT IN ('refused', 'failed') ORDER BY arrival DESC LIMIT 1",
            [_uuid(conversation_id)],
        )
        found = cursor.fetchone()
    return (
        None if found is None else Turn.from_db(connection.alias, ["id", "end_digest"], [UUID(str(found[0])), found[1]])
    )


def is_latest(turn: Turn) -> bool:
    """Whether the turn's conversation has not gone on since."""
    later = Turn.objects.filter(conversation=turn.conversation, arrival__gt=turn.arrival)
    return not later.exclude(outcome__in=(Turn.Outcome.REFUSED, Turn.Outcome.FAILED)).exists()


def _unanswered(stops: tuple[Stop, ...], found: list[_Candidate], *, may_wait: bool) -> Place | None:
    found = [one for one in found if one.number < len(stops)]
    for number, stop in enumerate(stops):
        fitting = [one for one in found if one.number == number and not one.is_open and _fits(one, stop)]
        if (place := _likeliest(fitting, stop.upto)) is not None:
            return place
    still_open = [one.turn_id for one in found if one.is_open]
    if may_wait and still_open:
        raise StillOpen(is_left=not all(_is_waited_for(turn_id) for turn_id in still_open))
    return None


def _likeliest(candidates: list[_Candidate], upto: int) -> Place | None:
    """The place of the newest candidate whose conversation has not gone on, else of the newest."""
    best = next((one for one in candidates if one.is_latest), candidates[0] if candidates else None)
    return None if best is None else _place(best, upto)


def _fits(candidate: _Candidate, stop: Stop) -> bool:
    """Whether what the client has may be what had arrived when the answer was cut."""
    return histories.cut_text(candidate.answer).startswith(stop.text)


def _candidates(looked_for: list[tuple[str, str]], within: Within) -> Iterator[_Candidate]:
    """The newest turns that have one of these digests: (condition on the row, digest). Plain SQL: most requests of chat
    clients run it.

    Each digest is read from its index, newest first, and no further than `SCANNED` rows: of a greeting there may be
    thousands. A named conversation's family is looked through before that, however common its beginning is.
    """
    branches: list[str] = []
    parameters: list[Any] = []
    own_key = "" if within.api_key_id is None else " AND c.api_key_id = %s"
    for number, (condition, digest) in enumerate(looked_for):
        conditions = [condition, "tenant_id = %s"]
        of_digest: list[Any] = [digest, within.tenant_id]
        if within.root_id is not None:
            conditions.append(
                "conversation_id IN (SELECT id FROM chatgateway_conversation WHERE id = %s "
                "UNION ALL SELECT id FROM chatgateway_conversation WHERE root_id = %s)"
            )
            of_digest += [_uuid(within.root_id)] * 2
        branches.append(
            # Every value is a parameter; the conditions are those above and below.
            f"SELECT * FROM (SELECT {number:d} AS number, newest.* FROM (SELECT id, outcome, continued_text, answer, "  # noqa: S608
            f"conversation_id, arrival FROM chatgateway_turn WHERE {' AND '.join(conditions)} "
            f"ORDER BY arrival DESC LIMIT {SCANNED}) newest JOIN chatgateway_conversation c "
            f"ON c.id = newest.conversation_id WHERE c.state <> 'deleted'{own_key} "
            f"ORDER BY newest.arrival DESC LIMIT {CANDIDATES}) of_digest"
        )
        parameters += of_digest if within.api_key_id is None else [*of_digest, within.api_key_id]
    rows = sql.execute(
        "SELECT t.id, t.number, t.outcome, "  # noqa: S608  the branches above
        "CASE WHEN t.outcome = 'answered' THEN '' ELSE t.continued_text || t.answer END, "
        "NOT EXISTS (SELECT 1 FROM chatgateway_turn later WHERE later.conversation_id = t.conversation_id "
        "AND later.arrival > t.arrival AND later.outcome NOT IN ('refused', 'failed')) "
        f"FROM ({' UNION ALL '.join(branches)}) t ORDER BY t.arrival DESC",
        parameters,
    ).fetchall()
    for turn_id, number, outcome, answer, is_latest in rows:
        yield _Candidate(
            turn_id=UUID(str(turn_id)),
            number=number,
            is_open=outcome == Turn.Outcome.OPEN,
            answer=answer,
            is_latest=bool(is_latest),
        )


def _place(candidate: _Candidate, upto: int) -> Place:
    turns = sql.select_with(Turn, related="conversation", where={"id": candidate.turn_id}, leaving_out=_NOT_READ)
    return Place(turn=turns[0], is_latest=candidate.is_latest, upto=upto)


def _is_waited_for(turn_id: UUID) -> bool:
    """Whether a caller is still there for the turn. One that is being cancelled has lost its caller."""
    waiting = Attempt.objects.filter(turn_id=turn_id, detached_at__isnull=True, lease_expires_at__gt=Now())
    return waiting.filter(turn__cancel_requested_at__isnull=True).exists()


def _uuid(value: UUID) -> Any:
    return Turn._meta.get_field("id").get_db_prep_value(value, connection)
