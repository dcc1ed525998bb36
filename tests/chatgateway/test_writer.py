"""The writer's thread: what is waited for, what is not, and in which order both are written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db.utils import IntegrityError

from chatgateway.models import Message
from chatgateway.writer import Writer
from profiles.models import Tenant
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    made.close(timeout_seconds=5)


@pytest.fixture
def held_up(writer: Writer) -> Iterator[threading.Event]:
    """The thread is busy until the event is set."""
    go_on = threading.Event()
    busy = writer.submit(lambda: go_on.wait(10))
    yield go_on
    go_on.set()
    busy.result(5)


def tenant(name: str) -> Tenant:
    return Tenant.objects.create(name=name)


def names() -> list[str]:
    return list(Tenant.objects.order_by("pk").values_list("name", flat=True))


def test_a_note_is_written_although_nobody_waits_for_it(writer: Writer) -> None:
    writer.post(lambda: tenant("noted"))

    eventually(lambda: names() == ["noted"], timeout_seconds=5)


def test_a_note_does_not_hold_up_a_job_that_comes_after_it(writer: Writer, held_up: threading.Event) -> None:
    writer.post(lambda: tenant("noted"))
    job = writer.submit(lambda: tenant("waited for"))
    held_up.set()
    job.result(5)

    eventually(lambda: names() == ["waited for", "noted"], timeout_seconds=5)


def test_a_note_never_overtakes_a_job_that_came_before_it(writer: Writer, held_up: threading.Event) -> None:
    jobs = [writer.submit(lambda n=n: tenant(f"job {n}")) for n in range(130)]  # type: ignore[misc]  # three groups
    writer.post(lambda: tenant("noted"))
    held_up.set()
    jobs[-1].result(10)

    eventually(lambda: names()[-1] == "noted", timeout_seconds=5)


def test_notes_are_written_while_jobs_never_end(writer: Writer) -> None:
    def again(_: Any = None) -> None:
        if "noted" not in names():
            writer.submit(lambda: None).add_done_callback(again)

    again()
    writer.post(lambda: tenant("noted"))

    eventually(lambda: names() == ["noted"], timeout_seconds=5)


def test_a_note_can_be_taken_back_until_it_is_written(writer: Writer) -> None:
    note = writer.post(lambda: tenant("never"))
    is_taken_back = note.withdraw()
    written = writer.post(lambda: tenant("noted"))
    eventually(lambda: names() == ["noted"], timeout_seconds=5)

    assert is_taken_back
    eventually(lambda: not written.withdraw(), timeout_seconds=5)


def test_notes_of_one_kind_are_written_together(writer: Writer) -> None:
    calls: list[list[str]] = []
    writer.gather(calls.append, "one")
    writer.gather(calls.append, "two")
    eventually(lambda: len(calls) == 1, timeout_seconds=5)
    writer.gather(calls.append, "three")
    eventually(lambda: len(calls) == 2, timeout_seconds=5)

    assert calls == [["one", "two"], ["three"]]


def test_what_was_noted_is_written_before_the_writer_closes(writer: Writer) -> None:
    writer.post(lambda: tenant("noted"))
    writer.gather(lambda found: [tenant(name) for name in found], "gathered")
    writer.close(timeout_seconds=5)

    assert names() == ["noted", "gathered"]


def test_a_job_that_fails_among_others_undoes_itself_alone(writer: Writer, held_up: threading.Event) -> None:
    def fail() -> None:
        tenant("undone")
        Message.objects.create(id="0" * 32, tenant_id=10**9, depth=0, role="user", body={})
        raise IntegrityError("as if the database had said so")

    first, failing, last = (
        writer.submit(lambda: tenant("first")),
        writer.submit(fail),
        writer.submit(lambda: tenant("last")),
    )
    held_up.set()

    assert (first.result(5).name, last.result(5).name) == ("first", "last")
    with pytest.raises(IntegrityError):
        failing.result(5)
    assert names() == ["first", "last"]


def refer_to_nobody(name: str) -> None:
    """A row whose tenant does not exist, which databases notice with the commit."""
    tenant(name)
    Message.objects.create(id="0" * 32, tenant_id=10**9, depth=0, role="user", body={})


def test_a_job_that_the_commit_is_refused_for_undoes_itself_alone(writer: Writer, held_up: threading.Event) -> None:
    first, failing, last = (
        writer.submit(lambda: tenant("first")),
        writer.submit(lambda: refer_to_nobody("undone")),
        writer.submit(lambda: tenant("last")),
    )
    held_up.set()

    assert (first.result(5).name, last.result(5).name) == ("first", "last")
    with pytest.raises(IntegrityError):
        failing.result(5)
    assert names() == ["first", "last"]


def test_what_was_gathered_with_it_is_written(
    writer: Writer, held_up: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def write(items: list[str]) -> None:
        for name in items:
            refer_to_nobody(name) if name == "undone" else tenant(name)

    with caplog.at_level(logging.ERROR):
        for name in ("first", "undone", "last"):
            writer.gather(write, name)
        held_up.set()
        eventually(lambda: names() == ["first", "last"], timeout_seconds=5)
        eventually(lambda: caplog.text.count("a write to the record failed") == 1, timeout_seconds=5)


def test_a_note_that_fails_is_logged_and_the_next_one_is_written(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("no such thing")

    with caplog.at_level(logging.ERROR):
        writer.post(fail)
        writer.post(lambda: tenant("noted"))
        eventually(lambda: "a write to the record failed" in caplog.text, timeout_seconds=5)

    eventually(lambda: names() == ["noted"], timeout_seconds=5)
