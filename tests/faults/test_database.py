"""The database is away, full, or its clock jumps."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterator

import httpx
import pytest
from django.db import DatabaseError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from chatgateway import sql
from chatgateway.models import Turn
from tests.fakes.agent_script import Gate
from tests.faults import calls
from tests.faults.processes import DATABASE_CLIENT
from tests.faults.site import Site, lasting, waiting_at
from tests.waiting import eventually


def cut_connections() -> int:
    """What a restart of PostgreSQL does to the gateways: every connection ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = %s",
            [DATABASE_CLIENT],
        )
        return int(cursor.fetchone()[0])


@contextlib.contextmanager
def locked_database() -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN")
        if connection.vendor == "postgresql":
            cursor.execute("LOCK TABLE chatgateway_turn IN EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


@contextlib.contextmanager
def frozen_writer() -> Iterator[BaseDatabaseWrapper]:
    """A process that stopped inside a transaction, with the lock that turns are opened under."""
    frozen = connection.copy()
    frozen.set_autocommit(False)
    with frozen.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [sql.PLACEMENT_LOCK])
    try:
        yield frozen
    finally:
        frozen.close()


@pytest.mark.usefixtures("postgres")
@pytest.mark.scenario("A process freezes while it holds the lock that turns are opened under, and stays frozen")
def test_a_process_that_freezes_in_a_transaction_holds_up_nobody_for_long(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    site.plays(lasting(0.2))
    with frozen_writer() as frozen:
        made = [one.result(60) for one in site.asking_both(gateway.url)]
        with pytest.raises(DatabaseError):
            frozen.cursor().execute("SELECT 1")

    assert [call.told for call in made if not call.is_answered] == []
    site.settle(answered=2)


@pytest.mark.scenario("Somebody else locks the database in mid-run, for longer than a lease's renewal")
def test_a_locked_database_costs_time_and_no_turn(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    running = site.asking_both(gateway.url)
    gate.wait_until_reached(by=2)
    with locked_database():
        later = site.asking_both(gateway.url)
        gate.open()
        time.sleep(6)

    made = [one.result(60) for one in (*running, *later)]

    assert [call.told for call in made if not call.is_answered] == []
    site.settle(answered=4)


@pytest.mark.scenario("The database is restarted under load")
@pytest.mark.usefixtures("postgres")
def test_a_database_that_is_restarted_costs_no_run(site: Site) -> None:
    site.agent(capacity=30)
    gateway = site.gateway()
    site.plays(lasting(0.5))
    collected = site.ask_many(30, gateway.url, every_seconds=0.1)
    streamed = site.ask_many(30, gateway.url, every_seconds=0.1, stream=True)
    eventually(lambda: Turn.objects.exclude(outcome="open").count() > 5)

    assert sum(cut_connections() for _ in range(3)) > 0
    made = collected.result(60) + streamed.result(60)

    assert [call.told for call in made if not call.is_answered] == []
    site.settle(answered=60)


@contextlib.contextmanager
def unreachable_database() -> Iterator[None]:
    """PostgreSQL takes no connection, and ends those there are; the test's own goes on."""
    import psycopg

    known = connection.settings_dict
    name = connection.ops.quote_name(known["NAME"])
    where = {"host": known["HOST"], "port": known["PORT"], "user": known["USER"], "password": known["PASSWORD"]}
    with psycopg.connect(**where, dbname="postgres", autocommit=True) as other:
        other.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        cut_connections()
        try:
            yield
        finally:
            other.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")


@pytest.mark.scenario("The database cannot be reached for some seconds, under load")
@pytest.mark.usefixtures("postgres")
def test_a_database_that_is_away_for_some_seconds_costs_no_run(site: Site) -> None:
    site.agent(capacity=40)
    gateway = site.gateway()
    site.plays(lasting(1.5))
    collected = site.ask_many(30, gateway.url, every_seconds=0.1)
    streamed = site.ask_many(30, gateway.url, every_seconds=0.1, stream=True)
    eventually(lambda: Turn.objects.exclude(outcome="open").count() > 5)
    with unreachable_database():
        time.sleep(3)
    made = collected.result(60) + streamed.result(60)

    assert all(call.is_answered or call.told.is_clear for call in made)
    answered = sum(call.is_answered for call in made)
    assert answered > 20
    site.settle(outcomes_matter=False)
    assert Turn.objects.exclude(outcome__in=("answered", "refused")).count() == 0


@pytest.mark.scenario("The disk is full")
@pytest.mark.usefixtures("sqlite")
def test_a_full_disk_refuses_turns_before_the_agent_starts_and_keeps_the_history_readable(site: Site) -> None:
    agent = site.agent()
    gateway = site.gateway()
    known = site.ask(gateway.url)
    gateway.end()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA page_count")
        pages = cursor.fetchone()[0]
    full = site.gateway(DJANGO_SETTINGS_MODULE="tests.faults.full_disk", FAULTS_SQLITE_PAGES=str(pages))

    long = [{"role": "user", "content": "long " * 40_000}]
    call = site.ask(full.url, messages=long, client={"max_retries": 0})
    history = httpx.get(
        f"{full.url}/api/conversations/{known.conversation_id}",
        headers={"Authorization": f"Bearer {site.key}"},
        timeout=100,
    )

    assert call.told is not None
    assert (call.told.status, call.told.code) == (503, "service_unavailable")
    assert int(call.told.headers["retry-after"]) <= 60
    assert history.status_code == 200, history.text
    assert len(agent.conversations) == 1
    site.settle(answered=1)


@pytest.mark.scenario("The clock is set back an hour, and the web process is killed")
def test_leases_from_the_future_do_not_keep_turns_for_an_hour(site: Site) -> None:
    site.agent()
    first, second = site.gateway(is_ready=False), site.gateway(is_ready=False)
    gate = Gate()
    site.plays(waiting_at(gate))
    first.wait_until_ready()
    second.wait_until_ready()
    asking = site.asking_both(first.url, client={"max_retries": 0})
    gate.wait_until_reached(by=2)
    site.open_turns(2)
    first.kill()
    left = [one.result(60) for one in asking]
    site.set_clock_back(dt.timedelta(hours=1))
    gate.open()

    site.settle(answered=2)
    assert {turn.answer for turn in Turn.objects.all()} == {calls.answer_to(call.token) for call in left}


@pytest.mark.scenario("The clock is set back an hour while a turn runs")
def test_a_turn_whose_process_lives_goes_on_when_the_clock_is_set_back(site: Site) -> None:
    site.agent()
    gateway = site.gateway()
    gate = Gate()
    site.plays(waiting_at(gate))
    asking = site.asking(gateway.url)
    gate.wait_until_reached()
    site.open_turn()
    site.set_clock_back(dt.timedelta(hours=1))
    gate.open()

    call = asking.result(60)

    assert call.text == calls.answer_to(call.token)
    site.settle(answered=1)
