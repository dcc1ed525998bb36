from __future__ import annotations

import pytest

import chatgateway.tasks
import profiles.tasks
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
