import pytest

from profiles import attempts
from profiles.attempts import FailedAttempts
from profiles.exceptions import TooManyFailedAttempts


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit(clock):
    return FailedAttempts(clock=clock)


def fill(limit, count):
    for number in range(count):
        limit.note(f"stranger {number}")


def fail(limit, address, times):
    for _ in range(times):
        limit.note(address)


def test_the_twentieth_failure_is_the_last_that_is_looked_up(limit, clock):
    fail(limit, "10.0.0.1", 19)
    limit.check("10.0.0.1")
    limit.note("10.0.0.1")
    clock.seconds += 17.5
    with pytest.raises(TooManyFailedAttempts) as refused:
        limit.check("10.0.0.1")
    assert refused.value.retry_after_seconds == 43


def test_a_minute_after_the_first_failure_the_address_begins_anew(limit, clock):
    fail(limit, "10.0.0.1", 20)
    clock.seconds += 60
    limit.check("10.0.0.1")
    fail(limit, "10.0.0.1", 19)
    limit.check("10.0.0.1")
    limit.note("10.0.0.1")
    with pytest.raises(TooManyFailedAttempts):
        limit.check("10.0.0.1")


@pytest.mark.parametrize(
    ("guilty", "innocent"),
    [
        ("10.0.0.1", "10.0.0.2"),
        ("2001:db8:0:1::1", "2001:db8:0:2::1"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2"),
        ("", "10.0.0.1"),
    ],
)
def test_other_addresses_are_not_affected(limit, guilty, innocent):
    fail(limit, guilty, 20)
    limit.check(innocent)
    with pytest.raises(TooManyFailedAttempts):
        limit.check(guilty)


@pytest.mark.parametrize(
    ("first", "second"),
    [("2001:db8:0:1::1", "2001:db8:0:1:ffff::9"), ("::ffff:10.0.0.1", "10.0.0.1")],
)
def test_addresses_of_one_host_count_together(limit, first, second):
    fail(limit, first, 20)
    with pytest.raises(TooManyFailedAttempts):
        limit.check(second)


def test_more_addresses_than_can_be_kept_push_out_the_oldest(limit):
    fail(limit, "10.0.0.1", 20)
    fail(limit, "10.0.0.2", 20)
    fill(limit, attempts.MAXIMUM_ADDRESSES - 1)
    limit.check("10.0.0.1")
    with pytest.raises(TooManyFailedAttempts):
        limit.check("10.0.0.2")
