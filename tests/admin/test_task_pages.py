"""What an administrator sees of the worker: what it did last, and that there is none."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from chatgateway import task_log
from chatgateway.models import TaskRun

pytestmark = pytest.mark.django_db

LIST = "admin:chatgateway_taskrun_changelist"
PROBE = "chatgateway.tasks.probe_servers"


def ran(name: str = PROBE, *, ago_seconds: float = 5, every_seconds: float = 10, **fields: object) -> None:
    task_log.begin(name, every_seconds=every_seconds)
    began = timezone.now() - timedelta(seconds=ago_seconds)
    given = {"outcome": "done", "started_at": began, "finished_at": began + timedelta(seconds=1.5)} | fields
    TaskRun.objects.filter(name=name).update(**given)


def page(admin: Client, name: str = LIST) -> str:
    return admin.get(reverse(name)).content.decode()


def test_the_list_says_what_each_task_did_last(admin: Client) -> None:
    ran(message="3 of 3 agent-servers answered")
    ran(
        "profiles.tasks.refresh_catalogues",
        every_seconds=86_400,
        outcome="failed",
        message="ValueError: no",
        failures=1,
    )

    html = page(admin)

    for text in ("Probe agent-servers", "3 of 3 agent-servers answered", "1.50 s", "10 s", "done",
                 "Refresh prices", "ValueError: no", "failed", ">day<"):  # fmt: skip
        assert text in html
    assert "No worker runs" not in html


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"ago_seconds": 5, "outcome": "running", "finished_at": None}, "running"),
        ({"ago_seconds": 400, "every_seconds": 3600, "outcome": "running", "finished_at": None}, "did not end"),
        ({"ago_seconds": 91}, "overdue"),
        ({"ago_seconds": 89}, "done"),
    ],
)
def test_a_run_that_died_and_one_that_is_overdue_are_called_so(
    admin: Client, run: dict[str, object], told: str
) -> None:
    ran(**run)

    assert told in page(admin)


def test_before_any_worker_ran_the_list_says_how_to_start_one(admin: Client) -> None:
    html = page(admin)

    assert "No background task has run yet" in html
    assert "celery -A gateway_project.celery worker --beat" in html


@pytest.mark.parametrize(("ago_seconds", "is_told"), [(70, True), (30, False)])
def test_without_a_worker_the_list_and_the_overview_say_so(admin: Client, ago_seconds: float, is_told: bool) -> None:
    ran(ago_seconds=ago_seconds)

    told = ["No worker runs" in html for html in (page(admin), page(admin, "admin:index"))]

    assert told == [is_told, is_told]
