"""`python -m benchmarks soak`: a long time under load, and nothing left behind.

Three imitations of agent-servers, two gateway processes and a worker on one PostgreSQL database, callers of every sort
who come when they come. Watched all the time: memory, threads, files, sockets, database connections. Asked at the end:
does the record agree with what the agent-servers served, to the token; is every turn closed, every slot and every hold
given back; is anything still open that was not open before?
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes, site, targets
from benchmarks.measuring import percentile
from benchmarks.open_load import Job, Result
from benchmarks.site import Site
from benchmarks.targets import ROOT

# How callers call, by weight.
KINDS = {
    "streamed": 25.0,
    "collected": 15.0,
    "continued": 20.0,
    "history": 20.0,
    "response": 8.0,
    "background": 3.0,
    "repeated": 4.0,
    "hang-up": 5.0,
}
TOKENS, DELAY_MS = 40, 40
# A key of its own reaches its ceiling all the time.
LIMITED_PER_MINUTE = 4
LIMITED_PER_SECOND = 0.2
# What is remembered between turns is forgotten by then: feeds (15 s), idle connections, interrupts not yet confirmed.
SETTLING_SECONDS = 40.0
SAMPLE_SECONDS = 5.0
# Memory grows until everything has been loaded and every pool has its size; it is judged after this part of the run.
WARM_UP_SHARE = 0.3
MAY_GROW = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    minutes: float
    per_second: float
    postgres_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One process at one moment. `sockets` are those that lead to other programs than the database."""

    at: float
    rss_kib: int
    threads: int
    files: int
    sockets: int
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    what: str
    found: str
    is_met: bool


@dataclass(slots=True, kw_only=True)
class Soak:
    """What a run found. `samples` by process."""

    plan: Plan
    load: Result
    samples: dict[str, list[Sample]]
    open_turns: list[int]
    record: dict[str, Any]
    books: dict[str, int]
    checks: list[Check] = field(default_factory=list)


def carry_out(plan: Plan) -> Soak:
    keys = {
        # With a ceiling in USD every turn sets something aside while it runs.
        "busy": {"max_usd_per_day": 10_000},
        "limited": {"max_requests_per_minute": LIMITED_PER_MINUTE},
    }
    with (
        tempfile.TemporaryDirectory(prefix="gateway-soak-") as scratch,
        targets.postgres_database(plan.postgres_url) as database_url,
        site.site(Path(scratch), database_url=database_url, keys=keys, with_worker=True) as running,
    ):
        watch = Watch(running)
        _load(plan, running, seconds=20, seed=0)  # what is loaded on first use is not a leak
        time.sleep(SETTLING_SECONDS)
        watch.look()
        loading = _start_load(plan, running, seconds=plan.minutes * 60, seed=1)
        while loading.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            watch.look()
        assert loading.stdout is not None
        result = Result(**json.load(loading.stdout))
        time.sleep(SETTLING_SECONDS)
        watch.look()
        soak = Soak(
            plan=plan,
            load=result,
            samples=watch.samples,
            open_turns=watch.open_turns,
            record=_record(database_url),
            books=running.books(),
        )
    soak.checks = list(checks(soak))
    return soak


def _start_load(plan: Plan, running: Site, *, seconds: float, seed: int) -> subprocess.Popen[str]:
    limited = {"collected": 1.0}
    job = Job(
        urls=running.urls,
        seconds=seconds,
        seed=seed,
        arrivals=[
            _arrivals(running.keys["busy"], plan.per_second, KINDS),
            _arrivals(running.keys["limited"], LIMITED_PER_SECOND, limited),
        ],
    )
    loading = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.open_load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert loading.stdin is not None
    json.dump(dataclasses.asdict(job), loading.stdin)
    loading.stdin.close()
    return loading


def _load(plan: Plan, running: Site, *, seconds: float, seed: int) -> None:
    loading = _start_load(plan, running, seconds=seconds, seed=seed)
    assert loading.stdout is not None
    loading.stdout.read()
    loading.wait()


def _arrivals(key: str, per_second: float, kinds: dict[str, float]) -> dict[str, Any]:
    return {"key": key, "per_second": per_second, "kinds": kinds, "tokens": TOKENS, "delay_ms": DELAY_MS}


class Watch:
    """Looks at the processes and at the database."""

    def __init__(self, running: Site) -> None:
        import psycopg

        self._database = psycopg.connect(running.database_url, autocommit=True, application_name="watch")
        pids = dict(zip((f"gateway-{n}" for n in range(1, len(running.pids) + 1)), running.pids, strict=True))
        self._pids = pids | ({"worker": running.worker_pid} if running.worker_pid else {})
        self.samples: dict[str, list[Sample]] = {name: [] for name in self._pids}
        self.open_turns: list[int] = []

    def look(self) -> None:
        now = time.monotonic()
        sql = "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database() GROUP BY 1"
        connections = dict(self._database.execute(sql).fetchall())
        for name, pid in self._pids.items():
            held = connections.get(name, 0)
            files = processes.files(pid)
            self.samples[name].append(
                Sample(
                    at=now,
                    rss_kib=processes.usage([pid]).rss_kib,
                    threads=processes.threads(pid),
                    files=len(files),
                    sockets=sum(link.startswith("socket:") for link in files) - held,
                    connections=held,
                )
            )
        [open_turns] = self._database.execute(
            "SELECT count(*) FROM chatgateway_turn WHERE outcome = 'open'"
        ).fetchone() or [0]
        self.open_turns.append(open_turns)


def _record(database_url: str) -> dict[str, Any]:
    """What the database says when all is over."""
    import psycopg

    questions = {
        "open": "SELECT count(*) FROM chatgateway_turn WHERE outcome = 'open'",
        "slots": "SELECT count(*) FROM chatgateway_turn WHERE run_ended_at IS NULL AND agent_server_id IS NOT NULL",
        "held": "SELECT count(*) FROM chatgateway_turn WHERE outcome = 'open' AND held_usd IS NOT NULL",
        "attached": "SELECT count(*) FROM chatgateway_attempt WHERE detached_at IS NULL",
        "began": "SELECT count(*) FROM chatgateway_turn WHERE user_event_seq IS NOT NULL",
        "wrong": "SELECT count(*) FROM chatgateway_turn WHERE outcome IN ('failed', 'timed_out', 'abandoned')",
        "ledger": "SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0)"
        " FROM chatgateway_ledgerentry WHERE NOT is_estimated",
        "turns": "SELECT coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost_usd), 0)"
        " FROM chatgateway_turn",
        "all": "SELECT coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost_usd), 0)"
        " FROM chatgateway_ledgerentry",
        "days": "SELECT coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost_usd), 0)"
        " FROM chatgateway_dailyusage",
        "deadlocks": "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
        "events": "SELECT count(*) FROM chatgateway_event",
        "bytes": "SELECT pg_database_size(current_database())",
        "outcomes": "SELECT outcome, count(*) FROM chatgateway_turn GROUP BY 1 ORDER BY 1",
    }
    found: dict[str, Any] = {}
    with psycopg.connect(database_url) as connection:
        for name, question in questions.items():
            rows = connection.execute(question).fetchall()
            found[name] = dict(rows) if name == "outcomes" else rows[0][0] if len(rows[0]) == 1 else rows[0]
    return found


# --- what must hold ---------------------------------------------------------------------------------------------------


def checks(soak: Soak) -> Iterator[Check]:
    load, record, books = soak.load, soak.record, soak.books
    yield Check(what="errors other than announced 429", found=str(load.errors or 0), is_met=not load.errors)
    yield Check(
        what="429 of the key with a ceiling; of others none",
        found=str(load.refused),
        is_met=bool(load.refused.get("collected")) and set(load.refused) == {"collected"},
    )
    yield Check(what="turns that failed in the record", found=str(record["wrong"]), is_met=record["wrong"] == 0)
    for name, what in {
        "open": "turns left open",
        "slots": "slots left taken",
        "held": "holds left",
        "attached": "requests that still wait",
    }.items():
        yield Check(what=what, found=str(record[name]), is_met=record[name] == 0)
    yield Check(
        what="runs at the agent-servers, and turns that began one",
        found=f"{books['runs']}, {record['began']}",
        is_met=books["runs"] == record["began"],
    )
    yield Check(what="deadlocks in the database", found=str(record["deadlocks"]), is_met=record["deadlocks"] == 0)
    yield Check(what="runs still going", found=str(books["running"]), is_met=books["running"] == 0)
    ledger = tuple(map(int, record["ledger"]))
    served = (books["calls"], books["input_tokens"], books["output_tokens"])
    yield Check(
        what="calls, input and output tokens: the agent-servers' books, and the ledger",
        found=f"{served}, {ledger}",
        is_met=ledger == served,
    )
    yield Check(
        what="the ledger, the turns and the sums by day agree",
        found=", ".join(map(str, record["all"])),
        is_met=record["all"] == record["turns"] == record["days"],
    )
    for name, samples in soak.samples.items():
        yield from _process_checks(name, samples, is_judged=soak.plan.minutes >= 10)


def _process_checks(name: str, samples: list[Sample], *, is_judged: bool) -> Iterator[Check]:
    first, *during, last = samples
    for what, before, peak, after, allowed in (
        ("threads", first.threads, max(s.threads for s in samples), last.threads, 2),
        ("sockets", first.sockets, max(s.sockets for s in samples), last.sockets, 2),
        ("files", first.files - first.connections, max(s.files for s in samples), last.files - last.connections, 3),
    ):
        yield Check(
            what=f"{name}: {what} before, at most, after",
            found=f"{before}, {peak}, {after}",
            is_met=after <= before + allowed,
        )
    connections = max(sample.connections for sample in samples)
    yield Check(
        what=f"{name}: database connections at most, after",
        found=f"{connections}, {last.connections}",
        is_met=connections <= 17,  # the pool's 16, and one while it is being replaced
    )
    judged = during[int(len(during) * WARM_UP_SHARE) :]
    third = max(1, len(judged) // 3)
    early = statistics.median(sample.rss_kib for sample in judged[:third])
    late = statistics.median(sample.rss_kib for sample in judged[-third:])
    note = "" if is_judged else " (a run this short is not judged)"
    yield Check(
        what=f"{name}: memory early and late, MiB{note}",
        found=f"{early / 1024:.1f}, {late / 1024:.1f} ({_slope(judged):+.1f} MiB/h)",
        is_met=not is_judged or late <= early * (1 + MAY_GROW),
    )


def _slope(samples: list[Sample]) -> float:
    """MiB per hour, by least squares."""
    if len(samples) < 3:
        return 0.0
    line = statistics.linear_regression([s.at for s in samples], [s.rss_kib for s in samples])
    return line.slope * 3600 / 1024


def markdown(soak: Soak) -> str:
    load, plan = soak.load, soak.plan
    sent, answered = sum(load.sent.values()), sum(load.answered.values())
    sent_by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(load.sent.items()))
    outcomes = ", ".join(f"{outcome} {count}" for outcome, count in soak.record["outcomes"].items())
    story = (
        f"{plan.minutes:g} minutes, {plan.per_second:g} requests a second and {LIMITED_PER_SECOND:g} of a limited key: "
        f"{sent} sent, {answered} answered, of which {load.hung_up} were left after the first word, "
        f"{sum(load.refused.values())} refused. Turns open at once: at most {max(soak.open_turns)}. First text: median "
        f"{percentile(load.first_text_ms, 50):.0f} ms, 99 of 100 within {percentile(load.first_text_ms, 99):.0f} ms. "
        f"The load was {load.late_ms:.0f} ms behind its schedule at worst."
    )
    counts = (
        f"Sent: {sent_by_kind}. Turns: {outcomes}. Events recorded: {soak.record['events']}. "
        f"Database: {soak.record['bytes'] / 2**20:.0f} MiB."
    )
    lines = [
        f"# Soak, {time.strftime('%Y-%m-%d')}",
        "",
        story,
        "",
        counts,
        "",
        "| | found | |",
        "| --- | --- | --- |",
        *(f"| {check.what} | {check.found} | {'ok' if check.is_met else '**NOT MET**'} |" for check in soak.checks),
        "",
    ]
    return "\n".join(lines)
