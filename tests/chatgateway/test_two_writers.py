"""The threads of two processes that write to one database at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from django.db import connection

from chatgateway import audit, servers
from chatgateway.models import Turn
from chatgateway.writer import Writer

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
