"""`python -m benchmarks run`, `goals`, `profile`, `soak`, `capacity`, `retention`, `admin` and `simulate`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from benchmarks import admin_pages, capacity, profiling, report, retention_cost, simulation, soak, suite
from benchmarks.targets import ROOT

DEFAULT_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the gateway costs, measured.")
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="measure, and print the goals and the figures as Markdown")
    run.add_argument("--goals", type=_goals, default=set(range(1, 12)), metavar="1-4,10", help="only these (all)")
    run.add_argument("--quick", action="store_true", help="a few requests once: shows that it works, nothing more")
    run.add_argument("--repetitions", type=int, default=3)
    run.add_argument(
        "--tools", action="store_true", help="goals 1-4 with an agent that has tools, instead of a bare one"
    )
    run.add_argument("--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL")
    run.add_argument("--no-postgres", dest="postgres", action="store_const", const="")
    run.add_argument("--out", type=Path, metavar="DIR", help="also write results.md and results.json there")
    run.set_defaults(command=_run)

    goals = commands.add_parser("goals", help="the eleven goals and nothing else, as a table for the documentation")
    goals.add_argument("--minutes", type=float, default=18, help="the most it may take; repetitions are left out then")
    goals.add_argument("--repetitions", type=int, default=3)
    goals.add_argument("--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL")
    goals.set_defaults(command=_print_goals)

    profile = commands.add_parser("profile", help="serve under a sampling profiler and print where the CPU goes")
    profile.add_argument("--case", default="reused-sync", choices=profiling.CASES)
    profile.add_argument("--requests", type=int, default=0, help="how many (as many as `run` sends)")
    profile.add_argument("--postgres", default="", metavar="URL", help="on PostgreSQL instead of SQLite")
    profile.add_argument("--stacks", type=Path, help="write the stacks there, in the form flame graphs are made from")
    profile.set_defaults(command=_profile)

    long = commands.add_parser("soak", help="two gateways under load for long: what leaks, and does the ledger agree")
    long.add_argument("--minutes", type=float, default=30)
    long.add_argument("--per-second", type=float, default=4, help="requests, on average")
    long.add_argument("--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL")
    long.add_argument("--out", type=Path, metavar="DIR", help="also write soak.md and soak.json there")
    long.set_defaults(command=_soak)

    sizes = commands.add_parser("capacity", help="what a turn needs, and what so many turns a day come to")
    sizes.add_argument("--turns", type=int, default=400, help="so many of each kind")
    sizes.add_argument("--open-turns", type=int, default=500, help="so many at once")
    sizes.add_argument("--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL")
    sizes.set_defaults(command=_capacity)

    kept = commands.add_parser("retention", help="generate a record of a year, and remove from it what is due")
    kept.add_argument("--events", type=int, default=1_000_000)
    kept.add_argument("--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL")
    kept.set_defaults(command=_retention)

    pages = commands.add_parser("admin", help="how long the server works on each page of the admin over a large record")
    pages.add_argument("--turns", type=int, default=100_000)
    pages.add_argument("--repetitions", type=int, default=15)
    pages.add_argument("--only", default="", metavar="TEXT", help="pages whose name holds this")
    pages.add_argument("--explain", action="store_true", help="name the slowest query of each page that is too slow")
    pages.add_argument("--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL")
    pages.set_defaults(command=_admin)

    simulated = commands.add_parser("simulate", help="how many slots so many turns a day need, by a model of the queue")
    simulated.add_argument("--turns-a-day", type=int, nargs="*", default=[100, 10_000, 1_000_000])
    simulated.add_argument("--check", action="store_true", help="run the model against real gateways instead")
    simulated.add_argument(
        "--postgres", default=os.environ.get("BENCHMARK_POSTGRES_URL", DEFAULT_POSTGRES), metavar="URL"
    )
    simulated.set_defaults(command=_simulate)

    arguments = parser.parse_args()
    arguments.command(arguments)


def _run(arguments: argparse.Namespace) -> None:
    plan = suite.Plan(
        goals=arguments.goals,
        is_quick=arguments.quick,
        repetitions=1 if arguments.quick else arguments.repetitions,
        postgres_url=arguments.postgres,
        cache=_cache(),
        has_tools=arguments.tools,
    )
    run = suite.carry_out(plan)
    verdicts = report.Goals(run).verdicts(plan.goals)
    text = report.markdown(run, verdicts)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "results.md").write_text(text)
        (arguments.out / "results.json").write_text(report.as_json(run, verdicts))


def _print_goals(arguments: argparse.Namespace) -> None:
    plan = suite.Plan(
        goals=set(range(1, 12)),
        is_quick=False,
        repetitions=arguments.repetitions,
        postgres_url=arguments.postgres,
        cache=_cache(),
        minutes=arguments.minutes,
        goals_alone=True,
    )
    run = suite.carry_out(plan)
    print(report.goals_table(run, report.Goals(run).verdicts(plan.goals)))


def _profile(arguments: argparse.Namespace) -> None:
    print(
        profiling.profile(
            case_name=arguments.case,
            requests=arguments.requests,
            postgres_url=arguments.postgres,
            stacks_path=arguments.stacks,
        )
    )


def _soak(arguments: argparse.Namespace) -> None:
    plan = soak.Plan(minutes=arguments.minutes, per_second=arguments.per_second, postgres_url=arguments.postgres)
    done = soak.carry_out(plan)
    text = soak.markdown(done)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "soak.md").write_text(text)
        (arguments.out / "soak.json").write_text(json.dumps(dataclasses.asdict(done), default=str))
    if not all(check.is_met for check in done.checks):
        sys.exit(1)


def _capacity(arguments: argparse.Namespace) -> None:
    plan = capacity.Plan(postgres_url=arguments.postgres, turns=arguments.turns, open_turns=arguments.open_turns)
    print(capacity.markdown(capacity.carry_out(plan)))


def _retention(arguments: argparse.Namespace) -> None:
    plan = retention_cost.Plan(events=arguments.events, postgres_url=arguments.postgres)
    print(retention_cost.as_text(retention_cost.carry_out(plan)))


def _admin(arguments: argparse.Namespace) -> None:
    plan = admin_pages.Plan(
        turns=arguments.turns,
        repetitions=arguments.repetitions,
        postgres_url=arguments.postgres,
        only=arguments.only,
        explain=arguments.explain,
    )
    pages = admin_pages.carry_out(plan)
    print(admin_pages.markdown(pages))
    if not all(page.is_met for page in pages):
        sys.exit(1)


def _simulate(arguments: argparse.Namespace) -> None:
    if not arguments.check:
        print("\n".join(simulation.capacity_lines(tuple(arguments.turns_a_day))))
        return
    text, is_met = simulation.check(arguments.postgres)
    print(text)
    if not is_met:
        sys.exit(1)


def _cache() -> Path:
    """Where LiteLLM's environment is kept between runs."""
    path = Path(os.environ.get("BENCHMARK_CACHE", ROOT / "data/benchmarks"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def _goals(text: str) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            numbers |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a number nor a range such as 1-4") from None
    return numbers


if __name__ == "__main__":
    sys.exit(main())
