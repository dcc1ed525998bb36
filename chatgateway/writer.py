"""One thread that writes to the database for this process, many requests to a commit.

Opening a turn is a handful of statements; committing them one request at a time costs more than the statements
do, and on SQLite every commit waits for the one before. So jobs that arrive while a transaction is under way are
run together in the next one, each in a savepoint of its own: one caller's conflict fails that caller alone.
Measured at 32 callers: see `benchmarks/`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from django.db import connection, transaction
from django.db.utils import Error as DatabaseError
from django.db.utils import InterfaceError, OperationalError

from chatgateway import sql

logger = logging.getLogger(__name__)
T = TypeVar("T")

# A group stays small enough that a caller at its front does not wait long for those behind it.
MAX_GROUP = 64
IDLE_SECONDS = 5.0
# A commit costs as much as two statements; what nobody waits for shares the next one.
PATIENCE_SECONDS = 0.1

# Between attempts of what is worth trying again.
PAUSES = (0.2, 1.0, 5.0)

_DEADLOCK = "40P01"  # PostgreSQL's code

# A job's future, and what it returned or raised.
Outcome = tuple[Future[Any], Any, BaseException | None]


class Writer:
    """Runs jobs in order in one thread. Every job runs inside a transaction and must not begin its own."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._is_urgent = False

    def submit(self, job: Callable[[], T], *, may_wait: bool = False) -> Future[T]:
        """Queue `job`; the future resolves after its transaction was committed.

        `may_wait`: nobody waits for it, so it may wait up to `PATIENCE_SECONDS` for company.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._is_closing:
                raise RuntimeError("the writer is closed")
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="gateway-writer", daemon=True)
                self._thread.start()
            self._jobs.append((job, future))
            self._is_urgent = self._is_urgent or not may_wait
            self._wake.notify()
        return future

    async def run(self, job: Callable[[], T]) -> T:
        """Run `job` and wait for its commit. Cancelling the wait does not undo the job: it was promised."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(job)))

    async def run_patiently(self, job: Callable[[], T]) -> T:
        """`run`, and again if the database fails: one that restarts is back within seconds. For ends of turns."""
        for pause in PAUSES:
            try:
                return await self.run(job)
            except DatabaseError:
                await asyncio.sleep(pause)
        return await self.run(job)

    def post(self, job: Callable[[], object]) -> None:
        """Queue `job` without waiting for it; a failure is logged. For what a later job does not depend on."""
        self.submit(job, may_wait=True).add_done_callback(_log_failure)

    def close(self, *, timeout_seconds: float) -> None:
        """Finish what is queued, then stop."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)
        with self._wake:
            self._is_closing = False
            self._thread = None

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._jobs:
                    if self._is_closing:
                        connection.close()
                        return
                    # The thread keeps its connection while there is work: opening one costs more than a turn's
                    # statements (measured on SQLite: 1.5 ms). While nobody writes, others may have it.
                    if not self._wake.wait(timeout=IDLE_SECONDS):
                        connection.close()
                self._wake.wait_for(lambda: self._is_urgent or self._is_closing, timeout=PATIENCE_SECONDS)
                group = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_GROUP))]
                self._is_urgent = self._is_urgent and bool(self._jobs)
            self._run_group(group)

    def _run_group(self, group: list[tuple[Callable[[], Any], Future[Any]]]) -> None:
        was_connected = connection.connection is not None
        try:
            results = self._run_in_transaction(group)
        except (InterfaceError, OperationalError) as error:
            # The database restarted, or closed a connection that lay idle, or chose this transaction to end a deadlock:
            # nothing of the group was written, and it may do now. Once, and not for a connection that was new already.
            connection.close()
            may_do = was_connected or getattr(error.__cause__, "sqlstate", "") == _DEADLOCK
            results = self._once_more(group) if may_do else [(future, None, error) for _, future in group]
        except Exception as error:  # noqa: BLE001  belongs to the jobs' callers, who get it from their futures
            connection.close()
            results = [(future, None, error) for _, future in group]
        for future, result, own in results:
            if own is not None:
                future.set_exception(own)
            else:
                future.set_result(result)

    def _once_more(self, group: list[tuple[Callable[[], Any], Future[Any]]]) -> list[Outcome]:
        try:
            return self._run_in_transaction(group)
        except Exception as error:  # noqa: BLE001  as above
            connection.close()
            return [(future, None, error) for _, future in group]

    def _run_in_transaction(self, group: list[tuple[Callable[[], Any], Future[Any]]]) -> list[Outcome]:
        """Raises what made the commit fail. A job's own failure is in its outcome, and undoes that job alone."""
        results: list[Outcome] = []
        try:
            with transaction.atomic():
                if len(group) > 1:
                    # Jobs lock rows in the order in which they came, and some of them the placement of turns: beside
                    # another process's group, in any order at all. So groups go one after the other.
                    sql.lock_placement()
                for job, future in group:
                    results.append((future, *self._run_one(job, needs_savepoint=len(group) > 1)))
        except _LoneJobFailed as failed:
            return [(group[0][1], None, failed.error)]
        return results

    def _run_one(self, job: Callable[[], Any], *, needs_savepoint: bool) -> tuple[Any, BaseException | None]:
        try:
            if not needs_savepoint:
                return job(), None
            with transaction.atomic():
                return job(), None
        except (InterfaceError, OperationalError):
            raise
        except Exception as error:
            if not needs_savepoint:
                raise _LoneJobFailed(error) from error
            return None, error


class _LoneJobFailed(Exception):
    """Rolls back the transaction of a group of one."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _log_failure(future: Future[Any]) -> None:
    error = future.exception()
    if error is not None:
        logger.error("a write to the record failed", exc_info=error)


writer = Writer()
