from __future__ import annotations

import asyncio
import stat
import time
from pathlib import Path

import pytest

from gateway_project.supervisor.child import ChildGivenUp, RestartPolicy, State
from tests.gateway_project.supervisor.tiny_programs import TinyProgram, eventually, is_alive, living, supervised

# A child of the script, one in a session of its own, one that ignores SIGTERM, and the script ignores it as well.
STUBBORN_TREE = """
trap '' TERM
sleep 300 & echo $! >> pids
setsid sleep 301 & echo $! >> pids
sh -c 'trap "" TERM; echo $$ >> pids; touch ready; while :; do sleep 0.1; done' &
echo $$ >> pids
while :; do sleep 0.1; done
"""


IGNORES_SIGTERM = "trap '' TERM; touch ready; while :; do sleep 0.1; done"


async def test_a_program_is_up_when_it_says_it_is_ready_and_gone_after_stop(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, "echo $$ >> pids; touch ready; exec sleep 300")
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        state, alive = program.child.state, living(program.pids())
        await supervisor.stop()

    assert (state, alive) == (State.UP, program.pids())
    assert living(program.pids()) == []
    assert program.child.state is State.ENDED


async def test_a_program_that_dies_is_started_again_and_the_operator_is_told(tmp_path: Path) -> None:
    script = "echo x >> starts; [ $(wc -l < starts) -ge 2 ] || exit 7; touch ready; exec sleep 300"
    program = TinyProgram(tmp_path, script)
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        await supervisor.stop()

    assert program.starts() == 2
    assert program.restarts == ["tiny ended with status 7; it is started again in 0.01 s."]


async def test_a_program_killed_while_it_is_up_comes_back(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, "echo $$ >> pids; touch ready; exec sleep 300")
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        first = program.pids()[0]
        await asyncio.create_subprocess_exec("kill", "-9", str(first))
        came_back = await eventually(lambda: len(program.pids()) == 2, within_seconds=5)
        await supervisor.stop()

    assert came_back
    assert program.restarts == ["tiny was ended by SIGKILL; it is started again in 0.01 s."]


async def test_a_program_that_keeps_dying_is_given_up_in_one_sentence_with_its_last_words(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, "echo x >> starts; echo the port is taken; exit 3")
    with supervised(program) as supervisor:
        with pytest.raises(ChildGivenUp) as given_up:
            await supervisor.wait()
        await supervisor.stop()

    assert str(given_up.value) == (
        f"tiny ended with status 3, 3 times in a row. Its log is {tmp_path}/logs/tiny.log. "
        f"Its last line: the port is taken"
    )
    assert program.starts() == 3
    assert len(program.restarts) == 2


async def test_a_long_life_forgives_earlier_deaths(tmp_path: Path) -> None:
    """With every life counted as long, no number of deaths is too many."""
    policy = RestartPolicy(first_delay_seconds=0.01, rapid_seconds=0.0, rapid_deaths=2)
    program = TinyProgram(
        tmp_path, "echo x >> starts; [ $(wc -l < starts) -lt 4 ] || { touch ready; exec sleep 300; }", policy=policy
    )
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        await supervisor.stop()

    assert program.starts() == 4


async def test_a_program_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, "echo $$ >> pids; exec sleep 300", ready_within_seconds=0.3)
    with supervised(program) as supervisor:
        with pytest.raises(ChildGivenUp, match=r"was not ready within 0\.3 s, 3 times in a row"):
            await supervisor.until_ready(program.child)
        await supervisor.stop()

    assert len(program.pids()) == 3
    assert living(program.pids()) == []


async def test_a_program_that_cannot_be_started_is_given_up_with_the_reason(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, "", command=("/nowhere/at-all",))
    with supervised(program) as supervisor:
        with pytest.raises(ChildGivenUp, match=r"/nowhere/at-all cannot be started: No such file or directory"):
            await supervisor.wait()
        await supervisor.stop()


async def test_stopping_ends_everything_a_program_started_within_its_grace(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, STUBBORN_TREE)
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        alive = living(program.pids())
        began = time.monotonic()
        await supervisor.stop()
        took = time.monotonic() - began

    assert len(alive) == 4
    assert living(program.pids()) == []
    assert took < 3


async def test_what_a_dead_program_left_is_gone_before_it_is_started_again(tmp_path: Path) -> None:
    script = """
    [ -e pids ] && { kill -0 $(cat pids) 2>/dev/null && echo left > left; touch ready; exec sleep 300; }
    setsid sleep 300 & echo $! >> pids
    exit 1
    """
    program = TinyProgram(tmp_path, script)
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        await supervisor.stop()

    assert not is_alive(program.pids()[0])
    assert not (tmp_path / "left").exists()


async def test_a_second_request_to_stop_cuts_the_grace_short(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, IGNORES_SIGTERM, grace_seconds=30)
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        began = time.monotonic()
        stopping = asyncio.create_task(supervisor.stop())
        is_ending = await eventually(lambda: program.child.state is State.ENDED, within_seconds=5)
        supervisor.hurry()
        await stopping

    assert is_ending
    assert time.monotonic() - began < 5


async def test_whoever_is_in_a_hurry_ends_nothing_that_was_not_to_end_yet(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, IGNORES_SIGTERM, grace_seconds=30)
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        supervisor.hurry()
        state = program.child.state
        began = time.monotonic()
        await supervisor.stop()

    assert (state, program.restarts) == (State.UP, [])
    assert time.monotonic() - began < 5


async def test_the_gateway_is_ended_before_what_it_needs(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    ends = "trap 'echo {} >> ../ended; exit 0' TERM; touch ready; while :; do sleep 0.05; done"
    gateway = TinyProgram(first, f"{ends.format('gateway')}")
    other = TinyProgram(second, f"{ends.format('other')}")
    with supervised(gateway, other) as supervisor:
        await supervisor.until_ready(gateway.child)
        await supervisor.until_ready(other.child)
        await supervisor.stop(first=[gateway.child])

    assert (tmp_path / "ended").read_text().split() == ["gateway", "other"]


async def test_a_program_gets_the_environment_it_was_given_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "do-not-pass-me-on")
    program = TinyProgram(tmp_path, "env > seen; touch ready; exec sleep 300", environment={"PATH": "/usr/bin:/bin"})
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        await supervisor.stop()

    names = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert names <= {"PATH", "PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"}


async def test_output_is_logged_for_the_owner_only_and_without_credentials(tmp_path: Path) -> None:
    key = "gw-0123abcd-" + "x" * 43
    program = TinyProgram(tmp_path, f"echo the key is {key}; echo done >&2; touch ready; exec sleep 300")
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        await supervisor.stop()

    log = tmp_path / "logs" / "tiny.log"
    assert log.read_text() == "the key is gw-0123abcd-••••\ndone\n"
    assert program.lines == ["the key is gw-0123abcd-••••", "done"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_a_line_too_long_to_keep_whole_is_passed_on_in_pieces(tmp_path: Path) -> None:
    program = TinyProgram(tmp_path, "head -c 200000 /dev/zero | tr '\\0' a; echo; touch ready; exec sleep 300")
    with supervised(program) as supervisor:
        await supervisor.until_ready(program.child)
        await supervisor.stop()

    assert sum(map(len, program.lines)) == 200_000


@pytest.mark.parametrize(
    ("deaths", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 10.0), (60, 10.0)]
)
def test_each_death_in_a_row_doubles_the_delay_up_to_a_limit(deaths: int, seconds: float) -> None:
    assert RestartPolicy().delay_seconds(deaths) == seconds
