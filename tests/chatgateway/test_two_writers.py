"""The threads of two processes that write to one database at once."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from chatgateway import audit, servers
from chatgateway.models import Turn
from chatgateway.writer import Writer
from tests.waiting import eventually

# Longer than PostgreSQL takes to find out that two transactions wait for one another.
WAIT_SECONDS = 30.0


@pytest.fixture
def postgres(transactional_db: None) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL: SQLite has one writer at a time")


class Together:
    """Jobs of two writers, as two processes have them, each in one group. How often each job ran is in `runs`."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.meeting = threading.Barrier(2)
        self.writers = Writer(), Writer()

    def job(self, name: str, work: Callable[[], object], *, meets: bool = False) -> Callable[[], None]:
        """`meets`: it then waits for a moment for the other writer's, if that gets as far."""

        def run() -> None:
            self.runs[name] += 1
            work()
            if meets:
                try:
                    self.meeting.wait(1.0)
                except threading.BrokenBarrierError:
                    return

        return run

    def run(self, first: list[Callable[[], None]], second: list[Callable[[], None]]) -> None:
        release = threading.Event()
        done = []
        for writer, jobs in zip(self.writers, (first, second), strict=True):
            writer.submit(lambda: release.wait(WAIT_SECONDS))  # what comes meanwhile makes one group
            done += [writer.submit(job) for job in jobs]
        release.set()
        for future in done:
            future.result(WAIT_SECONDS)
        for writer in self.writers:
            writer.close(timeout_seconds=WAIT_SECONDS)


@pytest.mark.usefixtures("postgres")
def test_groups_of_two_processes_never_wait_for_one_another() -> None:
    one, other = Turn.objects.create(request_id="one"), Turn.objects.create(request_id="other")
    together = Together()

    def touch(turn: Turn) -> Callable[[], object]:
        return lambda: Turn.objects.filter(pk=turn.pk).update(answer="written")

    together.run(
        [together.job("one closes", touch(one), meets=True), together.job("one opens", servers.lock)],
        [together.job("two opens", servers.lock, meets=True), together.job("two closes", touch(one))],
    )
    together.run(
        [together.job("one, other", touch(one), meets=True), together.job("then other", touch(other))],
        [together.job("other, one", touch(other), meets=True), together.job("then one", touch(one))],
    )

    # A deadlock would have been ended by PostgreSQL, and the jobs of one of the two run again.
    assert set(together.runs.values()) == {1}


@pytest.mark.usefixtures("postgres")
def test_leases_are_renewed_past_a_turn_that_is_being_written() -> None:
    busy = Turn.objects.create(request_id="busy", lease_owner="me", lease_generation=1)
    free = Turn.objects.create(request_id="free", lease_owner="me", lease_generation=1)
    writer, is_writing, may_end = Writer(), threading.Event(), threading.Event()

    def write() -> None:
        Turn.objects.filter(pk=busy.pk).update(answer="written")
        is_writing.set()
        may_end.wait(WAIT_SECONDS)

    written = writer.submit(write)
    is_writing.wait(WAIT_SECONDS)

    audit.renew_leases("me", [busy.pk, free.pk])  # does not wait

    renewed = set(Turn.objects.filter(lease_expires_at__isnull=False).values_list("request_id", flat=True))
    may_end.set()
    written.result(WAIT_SECONDS)
    writer.close(timeout_seconds=WAIT_SECONDS)
    assert renewed == {"free"}


@pytest.mark.usefixtures("postgres")
def test_a_lease_that_was_renewed_while_a_sweep_waited_does_not_look_like_one_from_the_future() -> None:
    turn = Turn.objects.create(request_id="driven", lease_owner="me", lease_generation=1)
    writer, is_locked = Writer(), threading.Event()

    def renew() -> None:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE chatgateway_turn IN ACCESS EXCLUSIVE MODE")
            is_locked.set()
            eventually(lambda: _is_waited_for(cursor, "chatgateway_turn"))
            time.sleep(0.05)  # the sweep has its time by now, and takes its look at the rows when this has ended
            cursor.execute("UPDATE chatgateway_turn SET lease_expires_at = statement_timestamp() + interval '20 s'")

    renewed = writer.submit(renew)
    is_locked.wait(WAIT_SECONDS)

    unclaimed = list(audit.unclaimed())

    renewed.result(WAIT_SECONDS)
    writer.close(timeout_seconds=WAIT_SECONDS)
    turn.refresh_from_db()
    assert turn.lease_expires_at is not None
    assert unclaimed == []


def _is_waited_for(cursor: Any, table: str) -> bool:
    cursor.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE d.datname = current_database() AND NOT granted AND relation = %s::regclass",
        [table],
    )
    return bool(cursor.fetchone()[0])


@pytest.mark.django_db
def test_a_lease_that_was_renewed_since_the_sweep_read_it_is_not_taken_over() -> None:
    late = Turn.objects.create(request_id="late", lease_owner="me", lease_generation=1)
    audit.drop_leases("me", [late.pk])
    [seen] = audit.unclaimed()
    audit.renew_leases("me", [late.pk])

    assert not audit.take_over(seen, owner="other")

    late.refresh_from_db()
    assert (late.lease_owner, late.lease_generation) == ("me", 1)


@pytest.mark.django_db
def test_a_lease_from_a_clock_that_was_set_back_is_taken_over() -> None:
    Turn.objects.create(
        request_id="ahead",
        lease_owner="me",
        lease_generation=1,
        lease_expires_at=timezone.now() + dt.timedelta(hours=1),
    )
    [seen] = audit.unclaimed()

    assert audit.take_over(seen, owner="other")
