"""Turns summed by the hour: whatever was summed and whatever was not, the figures are those of the turns."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from chatgateway import hourly
from chatgateway.models import HourlyTimes, HourlyTraffic, Turn
from profiles.models import ApiKey, Profile, Tenant
from tests import factories

pytestmark = pytest.mark.django_db

NOON = dt.datetime(2026, 11, 20, 12, 0, tzinfo=dt.UTC)
HOUR, MINUTE, SECOND = dt.timedelta(hours=1), dt.timedelta(minutes=1), dt.timedelta(seconds=1)


def turn(at: dt.datetime, *, took: float = 10.0, **fields: Any) -> Turn:
    closed_at = None if fields.get("outcome") == "open" else at + took * SECOND
    given_: dict[str, Any] = {
        "outcome": "answered", "phase": "closed", "opened_at": at, "started_at": at + SECOND,
        "first_text_at": at + took / 2 * SECOND, "closed_at": closed_at, "run_ended_at": closed_at,
    }  # fmt: skip
    return Turn.objects.create(endpoint="chat.completions", **given_ | fields)


def varied() -> None:
    """Three days of turns of two keys and two profiles, at uneven moments, of every outcome."""
    keys = [factories.api_key().row, factories.api_key().row]
    profiles = [factories.profile(), factories.profile()]
    outcomes = ("answered", "answered", "failed", "refused", "cancelled", "timed_out", "abandoned")
    for number in range(60):
        key = keys[number % 2]
        turn(
            NOON - number * 73 * MINUTE, took=1 + number, outcome=outcomes[number % 7], api_key=key, tenant=key.tenant,
            profile=profiles[number % 3 % 2], kind="housekeeping" if number % 5 == 0 else "agent",
            input_tokens=100 * (number % 4), output_tokens=number % 4, cost_usd=None if number % 4 == 1 else "0.25",
        )  # fmt: skip


def parts(start: dt.datetime, end: dt.datetime, step: dt.timedelta) -> list[dt.datetime]:
    first = hourly.floor(start) + HOUR
    marks = [first + number * step for number in range(int((end - first) / step) + 1)]
    return [start, *(mark for mark in marks if start < mark < end), end]


@pytest.mark.parametrize("step_hours", [1, 3, 24])
@pytest.mark.parametrize("summed_until", [NOON - 30 * HOUR, NOON - 3 * HOUR, NOON + 2 * HOUR])
def test_what_was_summed_and_what_is_counted_make_the_same_figures(
    monkeypatch: pytest.MonkeyPatch, step_hours: int, summed_until: dt.datetime
) -> None:
    monkeypatch.setattr(hourly, "MOST_COUNTED", dt.timedelta(days=30))
    varied()
    bounds = parts(NOON - 55 * HOUR + 17 * MINUTE, NOON + 20 * MINUTE, step_hours * HOUR)
    counted = hourly.read(bounds)

    hourly.sum_up(summed_until)
    summed = hourly.read(bounds)

    assert HourlyTimes.objects.exists()
    assert summed == counted
    assert summed.in_all.turns == Turn.objects.filter(opened_at__gte=bounds[0], opened_at__lt=bounds[-1]).count()
    assert sum(one.turns for one in summed.by_whose.values()) == summed.in_all.turns


def test_each_outcome_and_each_sum_is_what_the_turns_say() -> None:
    turn(NOON, cost_usd="0.5", input_tokens=10, output_tokens=5)
    turn(NOON, kind="housekeeping", cost_usd="0.25", input_tokens=1)
    turn(NOON, outcome="timed_out", input_tokens=7)  # of unknown price
    turn(NOON, outcome="refused")
    turn(NOON, outcome="cancelled")
    turn(NOON, outcome="open")

    found = hourly.read([NOON, NOON + HOUR]).in_all

    assert found == hourly.Sums(
        turns=6, answered=2, failed=1, refused=1, cancelled=1, saved=1, unpriced=1, input_tokens=18, output_tokens=5,
        cost_usd=Decimal("0.75"), saved_cost_usd=Decimal("0.25"),
    )  # fmt: skip


def test_an_hour_waits_for_its_open_turns_but_not_for_ever() -> None:
    turn(NOON, outcome="open")
    turn(NOON + HOUR)

    soon, much_later = (hourly.sum_up(NOON + 3 * HOUR).hours, hourly.sum_up(NOON + 26 * HOUR).hours)

    assert (soon, much_later) == (0, 2)
    assert hourly.read([NOON, NOON + 2 * HOUR]).in_all.turns == 2


def test_an_hour_that_is_not_over_is_left_and_one_that_was_summed_is_not_summed_again() -> None:
    turn(NOON)

    done = [hourly.sum_up(NOON + minutes * MINUTE).hours for minutes in (59, 64, 65, 66)]

    assert done == [0, 0, 1, 0]
    assert HourlyTraffic.objects.get().turns == 1


def test_out_of_time_the_rest_is_left_for_the_next_run() -> None:
    turn(NOON)
    turn(NOON + HOUR)

    first = hourly.sum_up(NOON + 5 * HOUR, seconds=-1)
    second = hourly.sum_up(NOON + 5 * HOUR)

    assert (first.hours, first.is_complete) == (0, False)
    assert (second.hours, second.is_complete) == (2, True)


def test_two_workers_at_once_do_not_count_an_hour_twice() -> None:
    turn(NOON)
    HourlyTimes.objects.create(hour=NOON)  # the other one's

    assert not hourly._write(NOON)
    assert not HourlyTraffic.objects.exists()


def test_figures_outlive_the_turns_and_whoever_they_were_of() -> None:
    key, profile = (
        factories.api_key(tenant=factories.tenant(name="Gone"), name="laptop").row,
        factories.profile(slug="old"),
    )
    turn(NOON, api_key=key, tenant=key.tenant, profile=profile, cost_usd="2")
    hourly.sum_up(NOON + 2 * HOUR)
    ids = (key.tenant_id, key.pk, profile.pk)
    Turn.objects.all().delete()
    profile.delete()
    key.delete()
    Tenant.objects.all().delete()

    found = hourly.read([NOON, NOON + HOUR])
    names = [hourly.names_of([pk], model) for pk, model in zip(ids, (Tenant, ApiKey, Profile), strict=True)]

    assert found.in_all.cost_usd == 2
    assert list(found.by_whose) == [ids]
    assert [next(iter(name.values())) for name in names] == [
        "Gone (deleted)", "Gone: laptop (deleted)", "old (deleted)",
    ]  # fmt: skip


def test_an_old_database_is_not_counted_turn_by_turn_for_ever_and_says_what_is_missing() -> None:
    turn(NOON - 100 * HOUR)
    turn(NOON)
    bounds = [NOON - 120 * HOUR, NOON - 50 * HOUR, NOON + HOUR]

    before = hourly.read(bounds)
    hourly.sum_up(NOON + 2 * HOUR)
    after = hourly.read(bounds)

    assert (before.in_all.turns, before.counted_since) == (1, NOON + HOUR - hourly.MOST_COUNTED)
    assert (after.in_all.turns, after.counted_since) == (2, None)


def test_a_long_time_takes_as_many_queries_as_a_short_one() -> None:
    varied()
    hourly.sum_up(NOON + 2 * HOUR)

    with CaptureQueriesContext(connection) as day:
        hourly.read(parts(NOON - 24 * HOUR, NOON, HOUR))
    with CaptureQueriesContext(connection) as month:
        hourly.read(parts(NOON - 720 * HOUR, NOON, 24 * HOUR))

    assert len(month) == len(day)


def test_what_is_older_than_figures_are_kept_is_forgotten() -> None:
    turn(NOON)
    hourly.sum_up(NOON + 2 * HOUR)

    hourly.sum_up(NOON + hourly.KEPT + 3 * HOUR)

    assert not HourlyTraffic.objects.exists()
    assert not HourlyTimes.objects.exists()


@given(st.lists(st.floats(min_value=0.002, max_value=40_000), min_size=1), st.integers(min_value=1, max_value=100))
def test_percentiles_are_right_to_five_percent(seconds: list[float], percent: int) -> None:
    times = hourly.Times()
    for one in seconds:
        times.total[hourly._step(one)] += 1
    place = -(-len(seconds) * percent // 100) - 1  # rounded up

    found = hourly.percentile(times.total, percent)

    assert found == pytest.approx(sorted(seconds)[place], rel=0.0501)


def test_the_parts_of_a_time_hold_the_turns_that_were_opened_in_them() -> None:
    varied()
    bounds = parts(NOON - 25 * HOUR, NOON + MINUTE, HOUR)

    found = hourly.read(bounds)

    expected = [Turn.objects.filter(opened_at__gte=a, opened_at__lt=b).count() for a, b in pairwise(bounds)]
    assert [part.turns for part in found.parts] == expected
