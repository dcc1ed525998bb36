"""`python -m benchmarks simulate`: how many slots so many turns a day need, by a model of the queue.

`--check` puts the model to the test: requests at three imitations of agent-servers behind two real gateway processes,
more than they can take, one of them killed on the way. The model then gets the same requests, at the moments at which
they came and with the lengths that they had, and for each run an overhead drawn from those that the record shows: so
what is compared is the rules of the queue, not luck. The range is that of the draws.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import site, targets
from benchmarks.measuring import percentile
from benchmarks.open_load import MOST_TOKENS, Job, Result
from benchmarks.queue_model import Arrival, Callers, Model, Seen, Setup
from benchmarks.site import Site
from benchmarks.targets import ROOT

RUNS = 40
WORDS, WORD_SECONDS = 60, 0.05
# From a slot to the first word and from the last to the free slot, on a machine with nothing else to do.
FIXED_SECONDS = 0.03
# Beyond the range of the draws: slots freed in another process are noticed a quarter of a second later.
COUNT_SLACK, SHARE_SLACK, SECONDS_SLACK = 2.0, 0.05, 0.3
CHECK = Setup(
    callers=(Callers(key="busy", per_second=4.2), Callers(key="rare", per_second=0.4)),
    seconds=120,
    agent_servers=3,
    slots=4,
    queue_limit=30,
    queue_timeout=15,
    words=WORDS,
    word_seconds=WORD_SECONDS,
    fixed_seconds=FIXED_SECONDS,
    most_words=MOST_TOKENS,
    dies_at=80,
)
# Of a day's turns, the busiest hour has an eighth; a run lasts a minute, which is short for an agent with tools.
BUSIEST_HOUR = 1 / 8
RUN_SECONDS = 60.0
# An agent-server process carries so many turns at once (`docs/explanation/capacity.md`).
SLOTS = 10
WAIT_SECONDS = 2.0

Figure = Callable[[Seen], float]
# Each with how far beyond the model's range it may be.
FIGURES: dict[str, tuple[Figure, float]] = {
    "sent": (lambda seen: float(seen.sent), 0.0),
    "answered": (lambda seen: float(seen.answered), COUNT_SLACK),
    "refused": (lambda seen: float(seen.refused), COUNT_SLACK),
    "lost with its server": (lambda seen: float(seen.lost), COUNT_SLACK),
    "wait, median, s": (lambda seen: percentile(seen.waits, 50) if seen.waits else 0.0, SECONDS_SLACK),
    "wait, 95 of 100, s": (lambda seen: percentile(seen.waits, 95) if seen.waits else 0.0, SECONDS_SLACK),
}


# --- the model against the gateway ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the gateway's own record says: each key's turns, when they came, and what runs took beyond their words."""

    seen: dict[str, Seen]
    arrivals: list[Arrival]
    overheads: list[float]
    began_at: float  # Unix seconds, of the first request


def check(postgres_url: str) -> tuple[str, bool]:
    """Return the table, and whether the gateway was within what the model says, give or take the rest."""
    found, died_at = _real(CHECK, postgres_url)
    setup = dataclasses.replace(CHECK, dies_at=died_at - found.began_at)
    models = [Model(setup, seed=seed, arrivals=found.arrivals, overheads=found.overheads).run() for seed in range(RUNS)]
    median, most = (percentile(found.overheads, percent) for percent in (50, 95))
    story = (
        f"{len(found.arrivals)} requests in {setup.seconds:.0f} s; {setup.agent_servers} agent-servers of "
        f"{setup.slots} slots, one of them lost after {setup.dies_at:.0f} s; beyond its words a run took "
        f"{median:.2f} s (median), {most:.2f} s (95 of 100)."
    )
    lines = [
        story,
        "",
        "| key | | gateway | model | range of 9 in 10 | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    is_met = True
    for callers in CHECK.callers:
        for name, (figure, slack) in FIGURES.items():
            real = figure(found.seen[callers.key])
            values = sorted(figure(model[callers.key]) for model in models)
            low, high = values[RUNS // 20], values[-1 - RUNS // 20]
            is_within = low - max(slack, SHARE_SLACK * low) <= real <= high + max(slack, SHARE_SLACK * high)
            is_met = is_met and is_within
            lines.append(
                f"| {callers.key} | {name} | {real:.1f} | {statistics.median(values):.1f} | {low:.1f} to {high:.1f} "
                f"| {'within' if is_within else '**outside**'} |"
            )
    return "\n".join(lines), is_met


def _real(setup: Setup, postgres_url: str) -> tuple[Recorded, float]:
    """Return the record, and when the agent-server was killed, in Unix seconds."""
    settings = {
        "GATEWAY_QUEUE_LIMIT": str(setup.queue_limit),
        "GATEWAY_QUEUE_TIMEOUT_SECONDS": f"{setup.queue_timeout:g}",
    }
    with (
        tempfile.TemporaryDirectory(prefix="gateway-simulation-") as scratch,
        targets.postgres_database(postgres_url) as database_url,
        site.site(
            Path(scratch),
            database_url=database_url,
            keys={callers.key: {} for callers in setup.callers},
            agent_servers=setup.agent_servers,
            slots=setup.slots,
            settings=settings,
        ) as running,
    ):
        result, died_at = _load(setup, running)
        print(f"  the callers: {json.dumps(dataclasses.asdict(result) | {'first_text_ms': []})}", file=sys.stderr)
        return _recorded(database_url, setup), died_at


def _load(setup: Setup, running: Site) -> tuple[Result, float]:
    arrivals = [
        {
            "key": running.keys[callers.key],
            "per_second": callers.per_second,
            "kinds": {"streamed": 1.0, "collected": 1.0},
            "tokens": round(setup.words),
            "delay_ms": round(setup.word_seconds * 1000),
            "is_exponential": True,
        }
        for callers in setup.callers
    ]
    job = Job(urls=running.urls, seconds=setup.seconds, arrivals=arrivals)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.open_load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as loading:
        assert loading.stdin is not None
        assert loading.stdout is not None
        assert setup.dies_at is not None
        json.dump(dataclasses.asdict(job), loading.stdin)
        loading.stdin.close()
        time.sleep(setup.dies_at)
        os.kill(running.agent_servers[-1].pid, signal.SIGKILL)
        died_at = time.time()
        return Result(**json.loads(loading.stdout.read())), died_at


def _recorded(database_url: str, setup: Setup) -> Recorded:
    import psycopg

    with psycopg.connect(database_url) as connection:
        rows: list[Any] = connection.execute(
            "SELECT t.key_name, t.outcome, extract(epoch FROM t.opened_at)::float8,"
            " extract(epoch FROM t.started_at - t.opened_at)::float8,"
            " extract(epoch FROM t.run_ended_at - t.started_at)::float8,"
            " substring(m.body->>'content' FROM 'tokens=([0-9]+)')::int"
            " FROM chatgateway_turn t JOIN chatgateway_message m ON m.id = t.last_message_id ORDER BY t.arrival"
        ).fetchall()
    began_at = min(row[2] for row in rows)
    found = Recorded(seen={}, arrivals=[], overheads=[], began_at=began_at)
    for key, outcome, opened_at, waited, ran, words in rows:
        run_seconds = (words - 1) * setup.word_seconds
        found.arrivals.append(Arrival(key=key, at=opened_at - began_at, run_seconds=run_seconds))
        seen = found.seen.setdefault(key, Seen())
        seen.sent += 1
        seen.answered += outcome == "answered"
        seen.refused += outcome == "refused"
        seen.lost += outcome in {"abandoned", "failed"}
        if waited is not None and outcome != "refused":
            seen.waits.append(waited)
        if outcome == "answered":
            found.overheads.append(ran - run_seconds)
    return found


# --- what a number of turns needs -------------------------------------------------------------------------------------


def needs(turns_a_day: int, *, run_seconds: float = RUN_SECONDS) -> tuple[int, float, int]:
    """Return the slots with which 95 of 100 turns of the busiest hour wait less than `WAIT_SECONDS`, that wait, and
    how many turns run at once on average."""
    per_second = turns_a_day * BUSIEST_HOUR / 3600
    at_once = per_second * run_seconds
    slots = max(1, round(at_once))
    while True:
        wait = _wait(per_second, slots, run_seconds)
        if wait <= WAIT_SECONDS:
            return slots, wait, round(at_once)
        slots += max(1, slots // 50)


def _wait(per_second: float, slots: int, run_seconds: float) -> float:
    setup = Setup(
        callers=tuple(Callers(key=str(number), per_second=per_second / 10) for number in range(10)),
        seconds=max(3600.0, 3000 / per_second),
        agent_servers=1,
        slots=slots,
        queue_limit=10**9,
        queue_timeout=10**9,
        words=run_seconds,
        word_seconds=1.0,
        fixed_seconds=1.0,
    )
    waits = [wait for seen in Model(setup, seed=1).run().values() for wait in seen.waits]
    return percentile(waits, 95)


def capacity_lines(sizes: tuple[int, ...]) -> Iterator[str]:
    yield "| turns a day | in the busiest hour | at once, on average | slots for 95 of 100 within 2 s | agent-servers |"
    yield "| --- | --- | --- | --- | --- |"
    for turns in sizes:
        slots, wait, at_once = needs(turns)
        servers = -(-slots // SLOTS)
        hour = turns * BUSIEST_HOUR
        yield f"| {turns:,} | {hour:,.0f} | {at_once} | {slots} ({wait:.1f} s) | {servers} |"
