"""A whole run: starts the targets, measures the cases that the chosen goals need, returns what came out."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import cases, targets
from benchmarks.measuring import Measurements
from benchmarks.processes import DidNotStart
from benchmarks.targets import Target, Unavailable

GATEWAY = "gateway"
GATEWAY_POSTGRES = "gateway (PostgreSQL)"
ONE_SERVER, TWO_SERVERS = "gateway, 1 agent-server", "gateway, 2 agent-servers"
FULL = "gateway, 1 agent-server, short queue"
AGENT_GOALS = {1, 2, 3, 4}
STUB_GOALS = {5, 6, 7, 8, 9}
TARGET_CORE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`postgres_url` names a database on a server where databases may be created; empty: SQLite alone.

    `minutes` bounds the run: then there may be fewer repetitions. `goals_alone`: nothing is measured that no goal asks
    for.
    """

    goals: set[int]
    is_quick: bool
    repetitions: int
    postgres_url: str
    cache: Path
    has_tools: bool = False
    minutes: float = math.inf
    goals_alone: bool = False


@dataclass(slots=True, kw_only=True)
class Run:
    """What a run found. `left_out` says what could not be measured, and why."""

    machine: dict[str, str]
    measurements: Measurements
    record: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def carry_out(plan: Plan) -> Run:
    run = Run(machine=machine(), measurements=Measurements(is_quick=plan.is_quick))
    ends_at = time.monotonic() + plan.minutes * 60
    parts = [part for part in _PARTS if plan.goals & part.goals]
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as scratch:
        for number, part in enumerate(parts):
            share = part.share / sum(one.share for one in parts[number:])
            run.measurements.until = time.monotonic() + (ends_at - time.monotonic()) * share
            _attempt(run, part.name, lambda part=part: part.measure(plan, run, Path(scratch)))  # type: ignore[misc]
    return run


def _repeat(plan: Plan, run: Run, what: str, of: list[cases.Case], at: list[Target]) -> None:
    done = run.measurements.repeat(of, at, times=plan.repetitions)
    if done < plan.repetitions:
        run.left_out.append(f"{what}: {plan.repetitions - done} of {plan.repetitions} repetitions, for want of time")


def _attempt(run: Run, what: str, part: Any) -> None:
    print(f"{what}:", file=sys.stderr, flush=True)
    try:
        part()
    except (Unavailable, DidNotStart) as error:
        run.left_out.append(f"{what}: {error}")


def machine() -> dict[str, str]:
    """What the figures belong to."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    packages = ("django", "djangorestframework", "uvicorn", "aiohttp", "uvloop")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{os.cpu_count()} cores, {model}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "LiteLLM proxy": targets.LITELLM.rpartition("==")[2],
        "openhands-agent-server": _agent_server_version(),
    }


def _agent_server_version() -> str:
    with contextlib.suppress(Unavailable):
        found = sorted(targets.agent_python().parents[1].glob("lib/python*/site-packages/openhands_agent_server-*"))
        return found[-1].name.split("-")[1].removesuffix(".dist") if found else "unknown"
    return "not installed"


@contextlib.contextmanager
def _databases(plan: Plan, run: Run, directory: Path) -> Iterator[dict[str, str]]:
    """URLs of empty databases by the name of the gateway that gets each."""
    with contextlib.ExitStack() as stack:
        found = {GATEWAY: targets.sqlite(directory, "gateway")}
        if plan.postgres_url:
            try:
                found[GATEWAY_POSTGRES] = stack.enter_context(targets.postgres_database(plan.postgres_url))
            except Unavailable as error:
                run.left_out.append(str(error))
        yield found


def _with_agents(plan: Plan, run: Run, directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        home = _subdirectory(directory, "agents")
        llm_url = stack.enter_context(targets.scripted_llm(home))
        backend = stack.enter_context(targets.agent_server(home, llm_url, has_tools=plan.has_tools))
        databases = stack.enter_context(_databases(plan, run, home))
        gateways = [
            stack.enter_context(targets.gateway(home, backend, database_url=url, name=name, llm_url=llm_url))
            for name, url in databases.items()
            if name == GATEWAY or not plan.goals_alone
        ]
        measured = [*gateways, targets.native(backend, llm_url), targets.built_in(backend)]
        if not plan.goals_alone:
            measured.insert(-1, targets.native(backend, llm_url, posts_message=True))
        _repeat(plan, run, "goals 1-4", list(cases.AGENT_CASES), measured)


def _with_stub(plan: Plan, run: Run, directory: Path) -> None:
    home = _subdirectory(directory, "stub")
    others = set(range(os.cpu_count() or 1)) - {TARGET_CORE} or {TARGET_CORE}
    run.measurements.load_cores = others
    helper_core = min(others)
    with contextlib.ExitStack() as stack:
        llm_url = stack.enter_context(targets.scripted_llm(home, core=helper_core))
        backend = stack.enter_context(targets.stub_agent_server(home, core=helper_core))
        databases = stack.enter_context(_databases(plan, run, home))
        measured = [
            stack.enter_context(targets.gateway(home, backend, database_url=url, name=name, core=TARGET_CORE))
            for name, url in databases.items()
            if name == GATEWAY or not plan.goals_alone
        ]
        with contextlib.suppress(_NoLiteLLM):
            measured.append(stack.enter_context(_litellm(plan, run, home, llm_url)))
        if 8 in plan.goals:
            _open_streams(plan, run, measured)
        if plan.goals & (STUB_GOALS - {8}):
            wanted = [case for case in cases.STUB_CASES if not (plan.goals_alone and case.name == "burst")]
            _repeat(plan, run, "goals 5-9", wanted, measured)


class _NoLiteLLM(Exception):
    pass


@contextlib.contextmanager
def _litellm(plan: Plan, run: Run, home: Path, llm_url: str) -> Iterator[Target]:
    try:
        targets.litellm_python(plan.cache)
    except Unavailable as error:
        run.left_out.append(str(error))
        raise _NoLiteLLM from error
    with targets.litellm(home, plan.cache, llm_url, core=TARGET_CORE) as target:
        yield target


def _open_streams(plan: Plan, run: Run, measured: list[Target]) -> None:
    """Once and first: memory that was used is kept, and whoever comes later finds it there already."""
    for target in measured:
        count = 20 if plan.is_quick else 100 if target.name == "LiteLLM proxy" else 1000
        run.measurements.once(cases.open_streams(count), target)


def _record(plan: Plan, run: Run, directory: Path) -> None:
    home = _subdirectory(directory, "record")
    asked = {"turns": 64 if plan.is_quick else 640, "users": 32}
    with _databases(plan, run, home) as databases:
        for name, url in databases.items():
            results = []
            env = targets.gateway_environment(_subdirectory(home, name.replace(" ", "-")), url)
            targets.command(["manage.py", "migrate", "--verbosity", "0"], env=env)
            for _ in range(plan.repetitions):
                results.append(
                    json.loads(targets.command(["-m", "benchmarks.audit_cost"], env=env, stdin=json.dumps(asked)))
                )
                print(f"  record | {name} | {results[-1]}", file=sys.stderr, flush=True)
            run.record[name] = {"runs": results}


def _over_capacity(plan: Plan, run: Run, directory: Path) -> None:
    """Gateways with more callers than their agent-servers have slots."""
    home = _subdirectory(directory, "capacity")
    others = set(range(os.cpu_count() or 1)) - {TARGET_CORE} or {TARGET_CORE}
    run.measurements.load_cores = others
    with contextlib.ExitStack() as stack:
        backends = [
            stack.enter_context(targets.stub_agent_server(_subdirectory(home, name), core=min(others)))
            for name in ("stub-1", "stub-2")
        ]

        def gateway(name: str, *behind: targets.Backend, queue_limit: int | None = None) -> Target:
            return stack.enter_context(
                targets.gateway(
                    home,
                    *behind,
                    database_url=targets.sqlite(home, name.replace(" ", "-")),
                    name=name,
                    core=TARGET_CORE,
                    capacity=cases.SLOTS,
                    queue_limit=queue_limit,
                )
            )

        pair = [gateway(ONE_SERVER, backends[0]), gateway(TWO_SERVERS, *backends)]
        full = gateway(FULL, backends[0], queue_limit=cases.QUEUED)
        _repeat(plan, run, "goal 11, the queue", [cases.QUEUE], pair)
        _repeat(plan, run, "goal 11, refusals", [cases.REFUSED], [full])


def _subdirectory(directory: Path, name: str) -> Path:
    made = directory / name
    made.mkdir()
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What measures some of the goals; `share` is its part of a whole run's time."""

    name: str
    goals: set[int]
    share: float
    measure: Callable[[Plan, Run, Path], None]


_PARTS = (
    _Part(name="goals 1-4", goals=AGENT_GOALS, share=0.4, measure=_with_agents),
    _Part(name="goals 5-9", goals=STUB_GOALS, share=0.4, measure=_with_stub),
    _Part(name="goal 10", goals={10}, share=0.06, measure=_record),
    _Part(name="goal 11", goals={11}, share=0.14, measure=_over_capacity),
)
