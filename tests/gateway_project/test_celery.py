from __future__ import annotations

import pytest

import chatgateway.tasks
import profiles.tasks
from chatgateway.models import TaskRun
from chatgateway.writer import writer
from gateway_project.celery import app

SCHEDULE = app.conf.beat_schedule
OURS = (chatgateway.tasks.__name__, profiles.tasks.__name__)


def test_every_task_is_scheduled_and_everything_scheduled_is_a_task() -> None:
    """A sweep that nobody runs and a schedule of nothing are both mistakes, and neither shows."""
    tasks = {name for name in app.tasks if name.startswith(OURS)}

    assert {entry["task"] for entry in SCHEDULE.values()} == tasks


@pytest.mark.parametrize("name", SCHEDULE)
def test_a_run_that_comes_too_late_is_left_to_the_next(name: str) -> None:
    assert SCHEDULE[name]["options"]["expires"] == SCHEDULE[name]["schedule"]


@pytest.mark.django_db(transaction=True)  # one of them writes from a thread of its own
def test_every_scheduled_task_leaves_its_last_run_in_the_record_and_may_run_again_at_once() -> None:
    for _ in range(2):
        for entry in SCHEDULE.values():
            app.tasks[entry["task"]].apply().get()
    writer.close(timeout_seconds=5)  # its connection would be in the way of the database's end

    assert {run.name: (run.outcome, run.runs, run.failures) for run in TaskRun.objects.all()} == {
        entry["task"]: ("done", 2, 0) for entry in SCHEDULE.values()
    }
    assert TaskRun.objects.get(name="chatgateway.tasks.probe_servers").message == "0 of 0 agent-servers answered"
    assert {run.every_seconds for run in TaskRun.objects.all()} >= {10, 60, 3600, 86_400}


@pytest.mark.django_db
def test_a_task_that_fails_leaves_why(monkeypatch: pytest.MonkeyPatch) -> None:
    task = app.tasks["profiles.tasks.sweep_keys"]

    def fail() -> str:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(task, "run", fail)

    task.apply()

    run = TaskRun.objects.get()
    assert (run.outcome, run.message, run.failures) == ("failed", "RuntimeError: the disk is full", 1)
    assert run.finished_at is not None
