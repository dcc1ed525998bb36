"""`python -m benchmarks capacity`: what one turn needs of agent-server, gateway and database, and what so many turns a
day come to.

Measured on this machine: a real agent-server with a scripted LLM, and a gateway on PostgreSQL in front of an imitation.
Everything else is arithmetic on it and on the model of the queue, shown so that it can be done again with other
figures: an agent that works for ten minutes is not one that works for one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes, simulation, suite, targets
from benchmarks.load import Job, Result
from benchmarks.measuring import LOAD_SECONDS
from benchmarks.targets import ROOT, Target

SIZES = (100, 10_000, 1_000_000)
# Turns with tools write more events than a bare answer: two for each step (`tests/recordings`).
STEPS = 15
EVENTS_PER_STEP = 2
# A process is full long before its core is: beyond this share of it, answers wait for one another.
BUSY_SHARE = 0.5
# One process serves so many open turns (`docs/explanation/performance.md`), and two outlive one of them.
OPEN_TURNS_PER_PROCESS = 1000
LEAST_PROCESSES = 2
AGENT_SERVERS_PER_MACHINE = 8
SAMPLE_SECONDS = 0.5
_TABLES = (
    "SELECT c.relname, pg_total_relation_size(c.oid), (xpath('/row/n/text()', query_to_xml("
    "format('SELECT count(*) AS n FROM %I', c.relname), false, true, '')))[1]::text::bigint"
    " FROM pg_class c WHERE c.relkind = 'r' AND c.relname LIKE 'chatgateway_%'"
)
_STATISTICS = (
    "SELECT xact_commit, tup_inserted, tup_updated, tup_deleted FROM pg_stat_database"
    " WHERE datname = current_database()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`turns` of each kind are made; `open_turns` are held open at once."""

    postgres_url: str
    turns: int = 400
    open_turns: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the database had to do for a turn."""

    commits: float
    inserted: float
    updated: float
    rows: dict[str, float]
    bytes: dict[str, float]


@dataclass(slots=True, kw_only=True)
class Figures:
    """`cpu_ms` and rates by kind of turn. Sizes are of one open turn. `written` by kind of turn."""

    machine: dict[str, str]
    agent_server: dict[str, dict[str, float]] = field(default_factory=dict)
    gateway: dict[str, dict[str, float]] = field(default_factory=dict)
    open_turn: dict[str, float] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def carry_out(plan: Plan) -> Figures:
    found = Figures(machine=suite.machine())
    with tempfile.TemporaryDirectory(prefix="gateway-capacity-") as scratch:
        try:
            _measure_agent_server(plan, found, Path(scratch))
        except targets.Unavailable as error:
            found.left_out.append(str(error))
        _measure_gateway(plan, found, Path(scratch))
    return found


# --- measuring --------------------------------------------------------------------------------------------------------

_SHORT = {"tokens": 10, "users": 8, "warm_up": 2}
_STREAM = {"stream": True, "tokens": 50, "delay_ms": 40, "users": 24, "warm_up": 1, "ramp_seconds": 2.0}
_KINDS: dict[str, dict[str, Any]] = {
    "new conversation": _SHORT,
    "next turn": {**_SHORT, "keeps_conversation": True},
    "stream of 2 s": {**_STREAM, "keeps_conversation": True},
}


def _measure_agent_server(plan: Plan, found: Figures, directory: Path) -> None:
    home = _made(directory / "agents")
    with (
        targets.scripted_llm(home) as llm_url,
        targets.agent_server(home, llm_url, has_tools=False) as backend,
        targets.gateway(
            home, backend, database_url=targets.sqlite(home, "gateway"), name="gateway", llm_url=llm_url
        ) as gateway,
    ):
        for kind, job in _KINDS.items():
            result = _load(gateway, job, requests=max(24, plan.turns // 6), watch=[backend.pid])
            grown = result.rss_kib - result.rss_before_kib
            found.agent_server[kind] = {
                "per_second": len(result.total_ms) / result.seconds,
                "cpu_ms": result.cpu_ms,
                "mib": result.rss_kib / 1024,
                "grown_kib_per_turn": grown / max(1, len(result.total_ms)),
            }
            _note(found, f"agent-server, {kind}", result)


def _measure_gateway(plan: Plan, found: Figures, directory: Path) -> None:
    import psycopg

    home = _made(directory / "gateway")
    with (
        targets.stub_agent_server(home) as backend,
        targets.postgres_database(plan.postgres_url) as database_url,
        targets.gateway(home, backend, database_url=database_url, name="gateway") as gateway,
        psycopg.connect(database_url, autocommit=True, application_name="watch") as database,
    ):
        _hold_open(plan, found, gateway)
        for kind, job in _KINDS.items():
            with _written(found, kind, plan.turns + job["users"] * job["warm_up"], database):
                result = _load(gateway, job, requests=plan.turns, watch=gateway.pids)
            found.gateway[kind] = {"per_second": len(result.total_ms) / result.seconds, "cpu_ms": result.cpu_ms}
            _note(found, f"gateway, {kind}", result)


def _hold_open(plan: Plan, found: Figures, gateway: Target) -> None:
    """So many streams open at once, a word a second: what does each hold?"""
    [pid] = gateway.pids
    ramp = max(1.0, plan.open_turns / 125)
    job = {"stream": True, "tokens": 20, "delay_ms": 1000, "users": plan.open_turns, "warm_up": 3}
    before = _sockets(pid)
    with _started(gateway, job | {"ramp_seconds": ramp, "holds": True}, plan.open_turns, gateway.pids) as loading:
        most = {"sockets": 0, "threads": 0}
        while loading.poll() is None:
            most["sockets"] = max(most["sockets"], _sockets(pid))
            most["threads"] = max(most["threads"], processes.threads(pid))
            time.sleep(SAMPLE_SECONDS)
        result = _result(loading)
    found.open_turn = {
        "kib": (result.rss_kib - result.rss_before_kib) / plan.open_turns,
        "sockets": (most["sockets"] - before) / plan.open_turns,
        "process_mib": result.rss_kib / 1024,
        "threads_in_all": most["threads"],
        "at_once": plan.open_turns,
    }
    _note(found, "gateway, open turns", result)


def _sockets(pid: int) -> int:
    return sum(link.startswith("socket:") for link in processes.files(pid))


@contextlib.contextmanager
def _written(found: Figures, kind: str, turns: int, database: Any) -> Iterator[None]:
    def look() -> tuple[dict[str, tuple[int, int]], tuple[int, ...]]:
        time.sleep(2.0)  # notes are written, and the server's statistics are told, within a second
        database.execute("SELECT pg_stat_clear_snapshot()")
        tables = {name: (size, rows) for name, size, rows in database.execute(_TABLES).fetchall()}
        return tables, database.execute(_STATISTICS).fetchone()

    tables, statistics = look()
    yield
    tables_after, statistics_after = look()
    commits, inserted, updated, _ = (
        (after - before) / turns for before, after in zip(statistics, statistics_after, strict=True)
    )
    grown = {name: [(b - a) / turns for a, b in zip(tables[name], tables_after[name], strict=True)] for name in tables}
    found.written[kind] = Written(
        commits=commits,
        inserted=inserted,
        updated=updated,
        rows={name.removeprefix("chatgateway_"): rows for name, (_, rows) in grown.items() if rows > 0},
        bytes={name.removeprefix("chatgateway_"): size for name, (size, _) in grown.items() if size > 0},
    )


def _load(target: Target, job: dict[str, Any], *, requests: int, watch: list[int]) -> Result:
    with _started(target, job, requests, watch) as loading:
        return _result(loading)


@contextlib.contextmanager
def _started(target: Target, job: dict[str, Any], requests: int, watch: list[int]) -> Iterator[subprocess.Popen[str]]:
    asked = Job(**job, address=target.address, is_native=target.is_native, requests=requests, watch=watch)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as loading:
        assert loading.stdin is not None
        json.dump(dataclasses.asdict(asked), loading.stdin)
        loading.stdin.close()
        yield loading


def _result(loading: subprocess.Popen[str]) -> Result:
    assert loading.stdout is not None
    text = loading.stdout.read()
    loading.wait(LOAD_SECONDS)
    return Result(**json.loads(text))


def _note(found: Figures, what: str, result: Result) -> None:
    print(f"  {what}: {len(result.total_ms)} turns, CPU {result.cpu_ms:.1f} ms", file=sys.stderr, flush=True)
    if result.errors:
        found.left_out.append(f"{what}: {result.errors}")


def _made(path: Path) -> Path:
    path.mkdir()
    return path


# --- telling ----------------------------------------------------------------------------------------------------------


def markdown(found: Figures) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in found.machine.items()), ""]
    lines += ["| | turns per second | CPU per turn | memory | grown per turn |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| agent-server, {kind} | {of['per_second']:.1f} | {of['cpu_ms']:.0f} ms | {of['mib']:.0f} MiB "
        f"| {of['grown_kib_per_turn']:.0f} KiB |"
        for kind, of in found.agent_server.items()
    ]
    lines += [
        f"| gateway, {kind} | {of['per_second']:.0f} | {of['cpu_ms']:.1f} ms | | |"
        for kind, of in found.gateway.items()
    ]
    held = found.open_turn
    told = (
        f"An open turn, of {held['at_once']} at once: {held['kib']:.0f} KiB, {held['sockets']:.1f} sockets; the whole "
        f"process {held['process_mib']:.0f} MiB and {held['threads_in_all']:.0f} threads."
    )
    lines += [
        "",
        told,
        "",
        "| PostgreSQL, per turn | commits | rows inserted | rows updated | kB kept | rows kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, of in found.written.items():
        kept = ", ".join(f"{name} {rows:.1f}" for name, rows in sorted(of.rows.items(), key=lambda pair: -pair[1]))
        lines.append(
            f"| {kind} | {of.commits:.1f} | {of.inserted:.1f} | {of.updated:.1f} "
            f"| {sum(of.bytes.values()) / 1000:.1f} | {kept} |"
        )
    lines += ["", *_sizes(found), "", *(f"Left out: {text}" for text in found.left_out)]
    return "\n".join(lines).rstrip() + "\n"


def _sizes(found: Figures) -> Iterator[str]:
    columns = [_column(size, found) for size in SIZES]
    yield f"| turns a day | {' | '.join(f'{size:,}' for size in SIZES)} |"
    yield f"| --- |{' --- |' * len(SIZES)}"
    for name in columns[0]:
        yield f"| {name} | {' | '.join(column[name] for column in columns)} |"


def _column(turns: int, found: Figures) -> dict[str, str]:
    """What so many turns a day come to, the dearest kind of turn taken for all."""
    slots, wait, at_once = simulation.needs(turns)
    per_second = turns * simulation.BUSIEST_HOUR / 3600
    cores = per_second * max(of["cpu_ms"] for of in found.gateway.values()) / 1000
    gateways = max(LEAST_PROCESSES, -(-at_once // OPEN_TURNS_PER_PROCESS), math.ceil(cores / BUSY_SHARE))
    agent_servers = -(-slots // simulation.SLOTS)
    machines = -(-agent_servers // AGENT_SERVERS_PER_MACHINE)
    of_turn, a_year = found.written["next turn"], turns * 365
    events, bare = of_turn.rows["event"], sum(of_turn.bytes.values())
    more_events = STEPS * EVENTS_PER_STEP
    more_bytes = more_events * of_turn.bytes["event"] / events
    commits, rows = per_second * of_turn.commits, per_second * (of_turn.inserted + of_turn.updated)
    open_mib, open_sockets = at_once * found.open_turn["kib"] / 1024, at_once * found.open_turn["sockets"]
    return {
        "turns per second in the busiest hour": _short(per_second),
        f"turns at once, of {simulation.RUN_SECONDS:.0f} s each": str(at_once),
        f"slots for 95 of 100 to wait less than {simulation.WAIT_SECONDS:.0f} s": f"{slots} ({wait:.1f} s)",
        f"agent-servers of {simulation.SLOTS} slots": str(agent_servers),
        f"machines for them, of {AGENT_SERVERS_PER_MACHINE} cores": str(machines),
        "gateway: cores busy": _short(cores),
        "gateway: processes": str(gateways),
        "gateway: memory and sockets of open turns": f"{open_mib:.0f} MiB, {open_sockets:.0f}",
        "database: commits and rows written per second": f"{_short(commits)}, {_short(rows)}",
        "database: GB a year, bare answers": _short(a_year * bare / 1e9),
        f"database: GB a year, {STEPS} steps a turn": _short(a_year * (bare + more_bytes) / 1e9),
        "events a year, in millions": f"{_short(a_year * events / 1e6)} to "
        f"{_short(a_year * (events + more_events) / 1e6)}",
    }


def _short(value: float) -> str:
    """A figure as far as it is worth telling."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}" if value > 0.01 else "0"
