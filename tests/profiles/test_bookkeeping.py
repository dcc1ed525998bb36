import datetime as dt
import logging
import threading

import pytest
from django.db import connection

from profiles import bookkeeping
from profiles.models import ApiKey, FailedAuthentication
from tests import factories
from tests.profiles.together import at_once
from tests.waiting import eventually

NOW = dt.datetime(2026, 6, 1, 12, 0, 31, 5, tzinfo=dt.UTC)
MINUTE = NOW.replace(second=0, microsecond=0)


def counts():
    return set(FailedAuthentication.objects.values_list("minute", "address", "prefix", "count"))


def fail(*attempts):
    for address, prefix in attempts:
        bookkeeping.note_failure(address=address, prefix=prefix, now=NOW)


@pytest.mark.django_db
def test_the_last_use_of_each_key_is_written_in_one_statement(django_assert_num_queries):
    first, second, unused = factories.api_key().row, factories.api_key().row, factories.api_key().row
    bookkeeping.note_use(first.pk, client="old", now=NOW - dt.timedelta(seconds=9))
    bookkeeping.note_use(first.pk, client="OpenAI/Python 2.54.0", now=NOW)
    bookkeeping.note_use(second.pk, client="x" * 500, now=NOW)
    with django_assert_num_queries(1):
        bookkeeping.flush()
    rows = dict(ApiKey.objects.values_list("pk", "last_used_client"))
    assert rows == {first.pk: "OpenAI/Python 2.54.0", second.pk: "x" * 200, unused.pk: ""}
    assert ApiKey.objects.get(pk=first.pk).last_used_at == NOW


@pytest.mark.django_db
def test_what_was_noted_is_written_once(django_assert_num_queries):
    bookkeeping.note_use(factories.api_key().row.pk, client="", now=NOW)
    bookkeeping.note_failure(address="10.0.0.1", prefix="", now=NOW)
    bookkeeping.flush()
    with django_assert_num_queries(0):
        bookkeeping.flush()


@pytest.mark.django_db
def test_a_deleted_key_is_no_reason_to_fail():
    made = factories.api_key().row
    bookkeeping.note_use(made.pk, client="", now=NOW)
    made.delete()
    bookkeeping.flush()
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_failures_are_counted_by_minute_address_and_prefix():
    fail(("10.0.0.1", "aa"), ("10.0.0.1", "aa"), ("10.0.0.1", ""), ("10.0.0.2", "aa"))
    bookkeeping.note_failure(address="10.0.0.1", prefix="aa", now=NOW + dt.timedelta(minutes=1))
    bookkeeping.flush()
    assert counts() == {
        (MINUTE, "10.0.0.1", "aa", 2),
        (MINUTE, "10.0.0.1", "", 1),
        (MINUTE, "10.0.0.2", "aa", 1),
        (MINUTE + dt.timedelta(minutes=1), "10.0.0.1", "aa", 1),
    }


@pytest.mark.django_db
def test_counts_of_several_processes_add_up():
    FailedAuthentication.objects.create(minute=MINUTE, address="10.0.0.1", prefix="aa", count=5)
    FailedAuthentication.objects.create(minute=MINUTE, address="10.0.0.1", prefix="bb", count=7)
    bookkeeping.note_failure(address="10.0.0.1", prefix="aa", now=NOW)
    bookkeeping.flush()
    assert counts() == {(MINUTE, "10.0.0.1", "aa", 6), (MINUTE, "10.0.0.1", "bb", 7)}


@pytest.mark.django_db
def test_an_attack_from_everywhere_fills_neither_memory_nor_table():
    fail(*((f"10.0.{n // 250}.{n % 250}", "aa") for n in range(bookkeeping.MAXIMUM_BUCKETS + 50)), ("10.0.0.0", "aa"))
    bookkeeping.flush()
    assert FailedAuthentication.objects.count() == bookkeeping.MAXIMUM_BUCKETS + 1
    assert FailedAuthentication.objects.get(address=bookkeeping.EVERYONE_ELSE).count == 50
    assert FailedAuthentication.objects.get(address="10.0.0.0").count == 2


@pytest.mark.django_db
def test_a_database_that_fails_costs_the_notes_and_nothing_else(caplog):
    bookkeeping.note_failure(address="10.0.0.1", prefix="aa", now=NOW)

    def fail(*_):
        from django.db import OperationalError

        raise OperationalError("disk full")

    with connection.execute_wrapper(fail), caplog.at_level(logging.ERROR):
        bookkeeping.flush()
    bookkeeping.flush()
    assert "could not be recorded" in caplog.text
    assert counts() == set()


@pytest.mark.django_db(transaction=True)
def test_the_thread_writes_by_itself_and_once_more_at_the_end():
    bookkeeping.start(every_seconds=0.05)
    bookkeeping.start(every_seconds=0.05)
    bookkeeping.note_failure(address="10.0.0.1", prefix="aa", now=NOW)
    eventually(counts)
    bookkeeping.note_failure(address="10.0.0.1", prefix="bb", now=NOW)
    bookkeeping.stop()
    assert counts() == {(MINUTE, "10.0.0.1", "aa", 1), (MINUTE, "10.0.0.1", "bb", 1)}
    assert "bookkeeping" not in [thread.name for thread in threading.enumerate()]
    bookkeeping.stop()


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_write_the_same_bucket_at_once_lose_nothing():
    counted = {(MINUTE, "10.0.0.1", "aa"): 10, (MINUTE, "10.0.0.2", "aa"): 1}
    assert at_once(lambda _: bookkeeping._write_failures(counted), times=4) == [None] * 4
    assert counts() == {(MINUTE, "10.0.0.1", "aa", 40), (MINUTE, "10.0.0.2", "aa", 4)}
