"""`python -m benchmarks simulate`: how many slots so many turns a day need, by a model of the queue.

`--check` puts the model to the test: the same arrivals at three imitations of agent-servers behind two real gateway
processes, more than they can take, one of them killed on the way; what the gateway's record says stands beside what the
model says, with the range that chance alone gives the model.
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
from pathlib import Path
from typing import Any

from benchmarks import site, targets
from benchmarks.measuring import percentile
from benchmarks.open_load import MOST_TOKENS, Job, Result
from benchmarks.queue_model import Callers, Model, Seen, Setup
from benchmarks.site import Site
from benchmarks.targets import ROOT

RUNS = 40
WORDS, WORD_SECONDS = 60, 0.05
# From a slot to the first word and from the last to the free slot, with the imitation of an agent-server.
FIXED_SECONDS = 0.03
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
FIGURES: dict[str, Figure] = {
    "sent": lambda seen: float(seen.sent),
    "answered": lambda seen: float(seen.answered),
    "refused": lambda seen: float(seen.refused),
    "lost with its server": lambda seen: float(seen.lost),
    "wait, median, s": lambda seen: percentile(seen.waits, 50) if seen.waits else 0.0,
    "wait, 95 of 100, s": lambda seen: percentile(seen.waits, 95) if seen.waits else 0.0,
}


# --- the model against the gateway ------------------------------------------------------------------------------------


def check(postgres_url: str) -> tuple[str, bool]:
    """Return the table, and whether the gateway was within what the model says, give or take the rest."""
    found = _real(CHECK, postgres_url)
    models = [Model(CHECK, seed=seed).run() for seed in range(RUNS)]
    lines = ["| key | | gateway | model | range of 9 in 10 | |", "| --- | --- | --- | --- | --- | --- |"]
    is_met = True
    for callers in CHECK.callers:
        for name, figure in FIGURES.items():
            real = figure(found[callers.key])
            values = sorted(figure(model[callers.key]) for model in models)
            low, high = values[RUNS // 20], values[-1 - RUNS // 20]
            is_within = _is_near(real, low, high)
            is_met = is_met and is_within
            lines.append(
                f"| {callers.key} | {name} | {real:.1f} | {statistics.median(values):.1f} | {low:.1f} to {high:.1f} "
                f"| {'within' if is_within else '**outside**'} |"
            )
    return "\n".join(lines), is_met


def _is_near(real: float, low: float, high: float) -> bool:
    """A run is one draw of chance, and slots freed in another process are noticed a quarter of a second later."""
    return low - max(0.5, 0.1 * abs(low)) <= real <= high + max(0.5, 0.1 * abs(high))


def _real(setup: Setup, postgres_url: str) -> dict[str, Seen]:
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
        result = _load(setup, running)
        print(f"  the callers: {json.dumps(dataclasses.asdict(result) | {'first_text_ms': []})}", file=sys.stderr)
        return _recorded(database_url)


def _load(setup: Setup, running: Site) -> Result:
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
        json.dump(dataclasses.asdict(job), loading.stdin)
        loading.stdin.close()
        if setup.dies_at is not None:
            time.sleep(setup.dies_at)
            os.kill(running.agent_servers[-1].pid, signal.SIGKILL)
        return Result(**json.loads(loading.stdout.read()))


def _recorded(database_url: str) -> dict[str, Seen]:
    """What the gateway's own record says of each key's turns."""
    import psycopg

    found: dict[str, Seen] = {}
    with psycopg.connect(database_url) as connection:
        rows: list[Any] = connection.execute(
            "SELECT key_name, outcome, extract(epoch FROM started_at - opened_at)::float8 FROM chatgateway_turn"
        ).fetchall()
    for key, outcome, waited in rows:
        seen = found.setdefault(key, Seen())
        seen.sent += 1
        seen.answered += outcome == "answered"
        seen.refused += outcome == "refused"
        seen.lost += outcome in {"abandoned", "failed"}
        if waited is not None and outcome != "refused":
            seen.waits.append(waited)
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
