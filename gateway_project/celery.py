"""The Celery application and its schedule. Every task is a sweep over rows that may run twice or be lost once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import celeryd_init, setup_logging, task_postrun, task_prerun, worker_ready
from celery.states import SUCCESS

from gateway_project.hardening import protect_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

app = Celery("gateway")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

_READY_FILE = "GATEWAY_WORKER_READY_FILE"
_DAY = 86_400.0

# Seconds between runs. A run that is lost costs one period, never data.
app.conf.beat_schedule = {
    "probe agent-servers": {"task": "chatgateway.tasks.probe_servers", "schedule": 10.0},
    "recover turns": {"task": "chatgateway.tasks.recover_turns", "schedule": 15.0},
    "expire conversations": {"task": "chatgateway.tasks.expire_conversations", "schedule": 60.0},
    "remove leftovers": {"task": "chatgateway.tasks.remove_leftovers", "schedule": 60.0},
    "remove strays": {"task": "chatgateway.tasks.remove_strays", "schedule": 3600.0},
    "warn of ceilings": {"task": "chatgateway.tasks.warn_of_ceilings", "schedule": 60.0},
    "sum up hours": {"task": "chatgateway.tasks.sum_up_hours", "schedule": 300.0},
    "index texts": {"task": "chatgateway.tasks.index_texts", "schedule": 60.0},
    "release idempotency keys": {"task": "chatgateway.tasks.release_idempotency_keys", "schedule": 3600.0},
    "erase end users": {"task": "chatgateway.tasks.erase_end_users", "schedule": 60.0},
    "apply retention": {"task": "chatgateway.tasks.apply_retention", "schedule": 3600.0},
    "refresh the catalogue": {"task": "profiles.tasks.refresh_catalogues", "schedule": _DAY},
    "sweep keys": {"task": "profiles.tasks.sweep_keys", "schedule": _DAY},
}
# A task that could not run at its time is not worth running later: the next one does the same.
for entry in app.conf.beat_schedule.values():
    entry["options"] = {"expires": entry["schedule"]}
_EVERY_SECONDS: dict[str, float] = {entry["task"]: entry["schedule"] for entry in app.conf.beat_schedule.values()}


@celeryd_init.connect
def _protect(**_: Any) -> None:
    protect_process()
    if path := os.environ.get(_READY_FILE):
        Path(path).unlink(missing_ok=True)  # of an earlier run


@setup_logging.connect
def _leave_logging_alone(**_: Any) -> None:
    """Connected, it keeps Celery from setting up a log format of its own; ours is set up with Django."""


@worker_ready.connect
def _tell_supervisor(**_: Any) -> None:
    """`up` waits for this file; other set-ups do not name one."""
    if path := os.environ.get(_READY_FILE):
        Path(path).touch()


# --- the record of runs that the admin shows. Celery logs what fails here, and runs the task all the same. ---


@task_prerun.connect
def _note_begin(task: Task[Any, Any], **_: Any) -> None:
    if task.name in _EVERY_SECONDS:
        from chatgateway import task_log  # models: not before Django is set up

        task_log.begin(task.name, every_seconds=_EVERY_SECONDS[task.name])


@task_postrun.connect
def _note_end(task: Task[Any, Any], retval: Any, state: str, **_: Any) -> None:
    if task.name in _EVERY_SECONDS:
        from chatgateway import task_log

        is_failure = state != SUCCESS
        message = f"{type(retval).__name__}: {retval}" if is_failure else str(retval or "")
        task_log.end(task.name, message=message, is_failure=is_failure)
