"""Background tasks in the admin: what the worker did last, and whether there is one."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from chatgateway import task_log
from chatgateway.models import TaskRun
from profiles.admin_theme import ReadOnlyAdmin, column, duration, moment

NO_WORKER = "No worker runs: agent-servers are not probed and nothing is cleaned up. Turns are served all the same."

# What each task is for, in the words of somebody who looks after the gateway.
PURPOSES = {
    "chatgateway.tasks.probe_servers": "Probe agent-servers",
    "chatgateway.tasks.expire_conversations": "End conversations that are idle or too many",
    "chatgateway.tasks.remove_leftovers": "Remove what they leave on agent-servers",
    "chatgateway.tasks.remove_strays": "Remove agents whose turn was never opened",
    "chatgateway.tasks.release_idempotency_keys": "Release idempotency keys of a day ago",
    "chatgateway.tasks.warn_of_ceilings": "Warn of ceilings that are nearly used up",
    "chatgateway.tasks.sum_up_hours": "Sum up past hours for the overview",
    "chatgateway.tasks.index_texts": "Make older texts searchable",
    "chatgateway.tasks.apply_retention": "Remove texts and turns that are kept no longer",
    "chatgateway.tasks.erase_end_users": "Delete end users' data that was asked to be deleted",
    "chatgateway.tasks.recover_turns": "Recover turns whose process died",
    "profiles.tasks.refresh_catalogues": "Refresh prices",
    "profiles.tasks.sweep_keys": "Delete ended key secrets",
}
STATES = {"done": "success", "failed": "danger", "running": "info", "died": "danger", "overdue": "warning"}


@admin.register(TaskRun)
class TaskRunAdmin(ReadOnlyAdmin[TaskRun]):
    """One row per task: its last run."""

    empty_title = "No background task has run yet"
    empty_text = (
        "A Celery worker with beat runs them. The gateway's start command brings one; elsewhere start it with "
        "“celery -A gateway_project.celery worker --beat”."
    )
    list_display = ("purpose", "state", "began", "took", "every", "message", "runs", "failures")
    list_display_links = None
    ordering = ("name",)
    fields = ("name", "purpose", "state_told", "began", "took", "every", "message", "runs", "failures")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if task_log.is_silent(now=timezone.now()) and TaskRun.objects.exists():
            messages.warning(request, NO_WORKER)
        return super().changelist_view(request, extra_context)

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("task", ordering="name")
    def purpose(self, row: TaskRun) -> str:
        return PURPOSES.get(row.name, row.name)

    @column("last run", labels=STATES)
    def state(self, row: TaskRun) -> tuple[str, str]:
        return state_of(row, now=timezone.now())

    @column("last run")
    def state_told(self, row: TaskRun) -> str:
        return state_of(row, now=timezone.now())[1]

    @column("began", ordering="started_at")
    def began(self, row: TaskRun) -> str:
        return moment(row.started_at, seconds=True)

    @column("took")
    def took(self, row: TaskRun) -> str:
        if row.finished_at is None or row.finished_at < row.started_at:
            return ""
        return duration((row.finished_at - row.started_at).total_seconds())

    @column("every", ordering="every_seconds")
    def every(self, row: TaskRun) -> str:
        seconds = row.every_seconds
        for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
            if seconds >= unit and seconds % unit == 0:
                return name if seconds == unit else f"{seconds // unit} {name}s"
        return f"{seconds} s"


def state_of(row: TaskRun, *, now: dt.datetime) -> tuple[str, str]:
    """What is to be said of the last run, and in which words; `STATES` gives the colour."""
    if task_log.has_died(row, now=now):
        return "died", "did not end"
    if task_log.is_overdue(row, now=now):
        return "overdue", "overdue"
    return row.outcome, row.get_outcome_display()
