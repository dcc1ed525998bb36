"""Where the gateway's CPU goes: `manage.py serve` under `sampled_serve`, a case of the suite as its load."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import cases, targets
from benchmarks.measuring import Measurements

PROFILED = {case.name: case for case in (*cases.STUB_CASES, cases.QUEUE)}
CASES = tuple(PROFILED)
WRITE_SECONDS = 5.0
LINES = 45


def profile(*, case_name: str, requests: int, postgres_url: str, stacks_path: Path | None) -> str:
    """Run the case and return its cost by function, in microseconds per request."""
    case = PROFILED[case_name]
    with tempfile.TemporaryDirectory(prefix="gateway-profile-") as scratch, contextlib.ExitStack() as stack:
        directory = Path(scratch)
        stacks = directory / "stacks"
        others = set(range(os.cpu_count() or 1)) - {0} or {0}
        backend = stack.enter_context(targets.stub_agent_server(directory, core=min(others)))
        database_url = targets.sqlite(directory, "gateway")
        if postgres_url:
            database_url = stack.enter_context(targets.postgres_database(postgres_url))
        serve = ("-m", "benchmarks.sampled_serve", str(stacks))
        target = stack.enter_context(
            targets.gateway(
                directory,
                backend,
                database_url=database_url,
                name="gateway",
                core=0,
                serve=serve,
                capacity=cases.SLOTS if case is cases.QUEUE else 5000,
            )
        )
        measurements = Measurements(is_quick=False, load_cores=others)
        measurements.once(case, target)  # everything is imported, cached and connected before anything counts
        if requests:
            case = dataclasses.replace(case, requests=requests)
        os.kill(target.pids[0], signal.SIGUSR1)
        result = measurements.once(case, target)
        os.kill(target.pids[0], signal.SIGUSR1)
        text = _written(stacks)
    if stacks_path is not None:
        stacks_path.write_text(text)
    warm_up = case.job.get("users", 1) * case.job.get("warm_up", 1)
    return _table(text, count=case.requests + warm_up, cpu_ms=result.cpu_ms)


def _written(stacks: Path) -> str:
    deadline = time.monotonic() + WRITE_SECONDS
    while not stacks.exists() or not stacks.stat().st_size:
        if time.monotonic() > deadline:
            raise TimeoutError("the profiled process wrote no stacks")
        time.sleep(0.1)
    time.sleep(0.5)
    return stacks.read_text()


def _table(text: str, *, count: int, cpu_ms: float) -> str:
    within: Counter[str] = Counter()
    itself: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, used = line.rpartition(" ")
        thread, *names = stack.split(";")
        threads[thread] += int(used)
        for name in {f"{thread} | {name}" for name in names}:
            within[name] += int(used)
        if names:
            itself[names[-1]] += int(used)
    lines = [f"{cpu_ms:.2f} ms CPU per request as the system counts it; below, microseconds per request", ""]
    for title, counted in (("thread", threads), ("function, with what it calls", within), ("function alone", itself)):
        lines += [f"| {title} | µs |", "|---|---|"]
        lines += [f"| {name} | {used / count:.0f} |" for name, used in counted.most_common(LINES)] + [""]
    return "\n".join(lines)
