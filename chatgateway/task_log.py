"""What background tasks did last: the only writer of `TaskRun` rows. Called by the worker around every task."""

from __future__ import annotations

import datetime as dt

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from chatgateway.models import TaskRun

# The most frequent task runs every 10 s: when none has begun for this long, nobody runs them.
SILENCE_SECONDS = 60
# A run may be late by this, and by twice its period, before it counts as overdue.
GRACE_SECONDS = 60
# No task gives itself so much time.
LONGEST_SECONDS = 300


def begin(name: str, *, every_seconds: float) -> None:
    """Note that a task begins to run, which it should do `every_seconds`."""
    started = {
        "outcome": TaskRun.Outcome.RUNNING,
        "message": "",
        "started_at": timezone.now(),
        "every_seconds": int(every_seconds),
    }
    with transaction.atomic():
        row, _ = TaskRun.objects.get_or_create(name=name, defaults=started)
        TaskRun.objects.filter(pk=row.pk).update(**started, runs=F("runs") + 1)


def end(name: str, *, message: str, is_failure: bool) -> None:
    """Note how a run ended, and what it did."""
    TaskRun.objects.filter(name=name).update(
        outcome=TaskRun.Outcome.FAILED if is_failure else TaskRun.Outcome.DONE,
        message=message[:300],
        finished_at=timezone.now(),
        failures=F("failures") + (1 if is_failure else 0),
    )


def has_died(run: TaskRun, *, now: dt.datetime) -> bool:
    """Whether a run that did not end went with its worker."""
    return run.outcome == TaskRun.Outcome.RUNNING and (now - run.started_at).total_seconds() > LONGEST_SECONDS


def is_overdue(run: TaskRun, *, now: dt.datetime) -> bool:
    """Whether the task should have run again long ago."""
    return (now - run.started_at).total_seconds() > 3 * run.every_seconds + GRACE_SECONDS


def is_silent(*, now: dt.datetime) -> bool:
    """Whether no worker runs, as far as one can see: none has begun any task for a while, or ever."""
    recent = now - dt.timedelta(seconds=SILENCE_SECONDS)
    return not TaskRun.objects.filter(started_at__gt=recent).exists()
