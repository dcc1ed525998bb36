"""One thread that writes to the database for this process, many requests to a commit.

Opening a turn is a handful of statements; committing them one request at a time costs more than the statements
do, and on SQLite every commit waits for the one before. So jobs that arrive while a transaction is under way are
run together in the next one, each in a savepoint of its own: one caller's conflict fails that caller alone.
What nobody waits for is put down as a note, and written when nobody waits for the thread.
Measured at 32 callers: see `benchmarks/`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from django.db import connection, transaction
from django.db.utils import Error as DatabaseError
from django.db.utils import IntegrityError, InterfaceError, OperationalError

from chatgateway import sql

logger = logging.getLogger(__name__)
T = TypeVar("T")

# A group stays small enough that a caller at its front does not wait long for those behind it.
MAX_GROUP = 64
IDLE_SECONDS = 5.0
# A commit costs as much as two statements; what nobody waits for shares one with all that comes within this time.
PATIENCE_SECONDS = 0.1

# Between attempts of what is worth trying again.
PAUSES = (0.2, 1.0, 5.0)

_DEADLOCK = "40P01"  # PostgreSQL's code

# A job's future, and what it returned or raised.
Outcome = tuple[Future[Any], Any, BaseException | None]
Job = tuple[Callable[[], Any], Future[Any]]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that will be written without anybody waiting for it."""

    future: Future[Any]

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def withdraw(self) -> bool:
        """Take it back, because something else says the same. False if it is too late: it is, or is being, written."""
        return self.future.cancel()


@dataclass(slots=True)
class _Waiting:
    """A note that is not written yet. `after` is the last job that was there before it, `kind` what gathers it."""

    write: Callable[[], Any]
    future: Future[Any]
    after: int
    kind: Callable[[list[Any]], object] | None


@dataclass(frozen=True, slots=True)
class _Gathered:
    """A job that writes items of several authors, each of which could be written by itself."""

    write: Callable[[list[Any]], object]
    items: list[Any]

    def __call__(self) -> object:
        return self.write(self.items)


class Writer:
    """Runs jobs in order in one thread. Every job runs inside a transaction and must not begin its own.

    Notes are written in order too, each after the jobs that were submitted before it; a job that is submitted after it
    may overtake it.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._submitted = self._done = 0
        self._notes: deque[_Waiting] = deque()
        self._gathered: dict[Callable[[list[Any]], object], list[Any]] = {}
        self._notes_due_at = 0.0
        self._wrote_jobs_last = False
        self._wake = threading.Condition()
        self._is_asleep = False
        self._active_at = 0.0
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue `job`; the future resolves after its transaction was committed."""
        future: Future[T] = Future()
        with self._wake:
            self._be_open()
            self._jobs.append((job, future))
            self._submitted += 1
            self._wake.notify()
        return future

    async def run(self, job: Callable[[], T]) -> T:
        """Run `job` and wait for its commit. Cancelling the wait does not undo the job: it was promised."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        # In one step to whoever waits; `wrap_future` and `shield` take four, and every turn takes several.
        self.submit(job).add_done_callback(lambda made: _hand_over(made, done, loop))
        return await done

    async def run_patiently(self, job: Callable[[], T]) -> T:
        """`run`, and again if the database fails: one that restarts is back within seconds. For ends of turns."""
        for pause in PAUSES:
            try:
                return await self.run(job)
            except DatabaseError:
                await asyncio.sleep(pause)
        return await self.run(job)

    def post(self, write: Callable[[], object]) -> Note:
        """Put down a note; a failure is logged. For what nothing depends on that may overtake it."""
        with self._wake:
            return self._put_down(write, None)

    def gather[I](self, write: Callable[[list[I]], object], item: I) -> None:
        """`post`, for a note that is written together with others of its kind: `write` gets the items of all."""
        with self._wake:
            items = self._gathered.get(write)
            if items is not None:
                items.append(item)
                return
            items = self._gathered[write] = [item]
            self._put_down(_Gathered(write, items), write)

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

    # --- under the lock -----------------------------------------------------------------------------------------------

    def _be_open(self) -> None:
        if self._is_closing:
            raise RuntimeError("the writer is closed")
        if self._thread is None or not self._thread.is_alive():
            self._active_at = time.monotonic()
            self._thread = threading.Thread(target=self._work, name="gateway-writer", daemon=True)
            self._thread.start()

    def _put_down(self, write: Callable[[], object], kind: Callable[[list[Any]], object] | None) -> Note:
        self._be_open()
        future: Future[Any] = Future()
        future.add_done_callback(log_failure)
        if not self._notes:
            self._notes_due_at = time.monotonic() + PATIENCE_SECONDS
            if self._is_asleep:  # else it looks by itself, and is left alone while somebody waits for the event loop
                self._wake.notify()
        self._notes.append(_Waiting(write, future, self._submitted, kind))
        return Note(future)

    def _next_group(self) -> list[Job]:
        """Take jobs, or notes once they are due, in turns if there are both; empty if there is nothing to do yet."""
        are_due = bool(self._notes) and (self._is_closing or time.monotonic() >= self._notes_due_at)
        if self._jobs and not (are_due and self._wrote_jobs_last):
            self._wrote_jobs_last = True
            group = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_GROUP))]
            self._done += len(group)
            return group
        self._wrote_jobs_last = False
        return self._take_notes() if are_due else []

    def _take_notes(self) -> list[Job]:
        group: list[Job] = []
        while self._notes and self._notes[0].after <= self._done and len(group) < MAX_GROUP:
            note = self._notes.popleft()
            if note.kind is not None:
                del self._gathered[note.kind]
            if note.future.set_running_or_notify_cancel():
                group.append((note.write, note.future))
        return group

    def _rest(self) -> None:
        """Wait for something to do. While jobs come, the thread looks for notes by itself."""
        if self._notes or time.monotonic() - self._active_at < IDLE_SECONDS:
            self._wake.wait(PATIENCE_SECONDS)
            return
        # The thread keeps its connection while there is work: opening one costs more than a turn's statements
        # (measured on SQLite: 1.5 ms). While nobody writes, others may have it.
        connection.close()
        self._is_asleep = True
        self._wake.wait()
        self._is_asleep = False
        self._active_at = time.monotonic()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (group := self._next_group()):
                    if self._is_closing and not self._jobs and not self._notes:
                        connection.close()
                        return
                    self._rest()
            self._run_group(group)
            self._active_at = time.monotonic()

    def _run_group(self, group: list[Job]) -> None:
        was_connected = connection.connection is not None
        try:
            results = self._run_in_transaction(group)
        except (InterfaceError, OperationalError) as error:
            # The database restarted, or closed a connection that lay idle, or chose this transaction to end a deadlock:
            # nothing of the group was written, and it may do now. Once, and not for a connection that was new already.
            connection.close()
            may_do = was_connected or getattr(error.__cause__, "sqlstate", "") == _DEADLOCK
            results = self._once_more(group) if may_do else [(future, None, error) for _, future in group]
        except IntegrityError:
            # Looked at with the commit: something refers to a row that went meanwhile, as what an agent did last in a
            # turn that was deleted. The others must not lose theirs by it.
            results = [self._by_itself(job, future) for job, future in group]
        except Exception as error:  # noqa: BLE001  belongs to the jobs' callers, who get it from their futures
            connection.close()
            results = [(future, None, error) for _, future in group]
        for future, result, own in results:
            if own is not None:
                future.set_exception(own)
            else:
                future.set_result(result)

    def _once_more(self, group: list[Job]) -> list[Outcome]:
        try:
            return self._run_in_transaction(group)
        except Exception as error:  # noqa: BLE001  as above
            connection.close()
            return [(future, None, error) for _, future in group]

    def _by_itself(self, job: Callable[[], Any], future: Future[Any]) -> Outcome:
        """Run a job in a transaction of its own, and each item of a gathered one."""
        parts = [partial(job.write, [item]) for item in job.items] if isinstance(job, _Gathered) else [job]
        outcomes = [outcome for part in parts for outcome in self._once_more([(part, future)])]
        return next((outcome for outcome in outcomes if outcome[2] is not None), outcomes[0])

    def _run_in_transaction(self, group: list[Job]) -> list[Outcome]:
        """Raises what made the commit fail. A job's own failure is in its outcome, and undoes that job alone."""
        results: list[Outcome] = []
        try:
            with transaction.atomic():
                run = _run_alone if len(group) == 1 else _run_among_others
                if len(group) > 1:
                    # Jobs lock rows in the order in which they came, and some of them the placement of turns: beside
                    # another process's group, in any order at all. So groups go one after the other.
                    sql.lock_placement()
                for job, future in group:
                    results.append((future, *run(job)))
        except _LoneJobFailed as failed:
            return [(group[0][1], None, failed.error)]
        return results


def _hand_over(made: Future[T], to: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
    """Tell an event loop of a job's outcome, from the writer's thread."""

    def tell() -> None:
        if to.done():  # nobody waits any more
            log_failure(made)
        elif (error := made.exception()) is not None:
            to.set_exception(error)
        else:
            to.set_result(made.result())

    if not loop.is_closed():
        loop.call_soon_threadsafe(tell)


def _run_alone(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except (InterfaceError, OperationalError):
        raise
    except Exception as error:
        raise _LoneJobFailed(error) from error


def _run_among_others(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """In a savepoint. Its name is always the same, because databases remember statements by their text; Django's are
    new every time (measured: a twelfth of a turn's CPU)."""
    sql.execute("SAVEPOINT gateway_job")
    try:
        result = job()
        if transaction.get_rollback():
            raise transaction.TransactionManagementError("a job went on after one of its statements had failed")
    except (InterfaceError, OperationalError):
        raise
    except Exception as error:  # noqa: BLE001  belongs to the job's caller
        transaction.set_rollback(False)
        sql.execute("ROLLBACK TO SAVEPOINT gateway_job")
        sql.execute("RELEASE SAVEPOINT gateway_job")
        return None, error
    sql.execute("RELEASE SAVEPOINT gateway_job")
    return result, None


class _LoneJobFailed(Exception):
    """Rolls back the transaction of a group of one."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def log_failure(future: Future[Any]) -> None:
    """For whoever does not wait for a job."""
    if future.cancelled():
        return
    error = future.exception()
    if error is not None:
        logger.error("a write to the record failed", exc_info=error)


writer = Writer()
