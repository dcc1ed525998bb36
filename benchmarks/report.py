"""From measurements to the goals and the tables that people read."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import Series, percentile
from benchmarks.suite import FULL, GATEWAY, GATEWAY_POSTGRES, ONE_SERVER, TWO_SERVERS, Run

NATIVE, BUILT_IN, LITELLM = "native API", "built-in gateway", "LiteLLM proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`is_met` is None where it could not be measured."""

    number: int
    goal: str
    measured: str
    is_met: bool | None


class _Missing(Exception):
    """A goal cannot be judged: its case or a target was not measured."""


class Goals:
    """The goals, each a method; what they compare was measured in one run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def verdicts(self, numbers: set[int]) -> list[Verdict]:
        checks: dict[int, tuple[Callable[[], tuple[str, str, bool]], ...]] = {
            1: (self._reused_turn, self._reused_turn_built_in),
            2: (self._first_text_new, self._first_text_new_built_in),
            3: (self._first_text_reused, self._first_text_reused_built_in),
            4: (self._new_turn,),
            5: (self._cpu_reused, self._cpu_new),
            6: (self._cpu_stream,),
            7: (self._rate,),
            8: (self._memory,),
            9: (self._first_text_parallel,),
            10: (self._record_sqlite, self._record_postgres),
            11: (self._refusal, self._queue, self._two_servers),
        }
        return [self._judge(number, check) for number in sorted(numbers & set(checks)) for check in checks[number]]

    def _judge(self, number: int, check: Callable[[], tuple[str, str, bool]]) -> Verdict:
        try:
            goal, measured, is_met = check()
        except _Missing as missing:
            return Verdict(number=number, goal=(check.__doc__ or "").strip(), measured=str(missing), is_met=None)
        return Verdict(number=number, goal=goal, measured=measured, is_met=is_met)

    def _series(self, case: str, target: str) -> Series:
        series = self.run.measurements.get(case, target)
        if series is None or not any(result.total_ms for result in series.results):
            raise _Missing(f"not measured: {case}, {target}")
        return series

    def _pair(self, case: str, other: str) -> tuple[Series, Series]:
        return self._series(case, GATEWAY), self._series(case, other)

    def _reused_turn(self) -> tuple[str, str, bool]:
        """Next turn of a conversation, collected: against the native API"""
        ours, native = (series.total_ms for series in self._pair("agent-reused-sync", NATIVE))
        goal = "next turn of a conversation, collected: ≤ 1.10 × native API + 3 ms"
        return goal, _against(ours, native), ours <= native * 1.1 + 3

    def _reused_turn_built_in(self) -> tuple[str, str, bool]:
        """The same: against the built-in gateway"""
        ours, other = (series.total_ms for series in self._pair("agent-reused-sync", BUILT_IN))
        return "the same: ≥ 20 × faster than the built-in gateway", _faster(ours, other), other / ours >= 20

    def _first_text_new(self) -> tuple[str, str, bool]:
        """First text of a new conversation, streamed: against the native API"""
        ours, native = (series.first_text_ms for series in self._pair("agent-new-stream", NATIVE))
        goal = "first text, new conversation, streamed: ≤ 1.10 × native API"
        return goal, _against(ours, native), ours <= native * 1.1

    def _first_text_new_built_in(self) -> tuple[str, str, bool]:
        """The same: against the built-in gateway"""
        ours, other = (series.first_text_ms for series in self._pair("agent-new-stream", BUILT_IN))
        goal = "the same, of a 2 s answer: ≥ 8 × sooner than the built-in gateway"
        return goal, _faster(ours, other), other / ours >= 8

    def _first_text_reused(self) -> tuple[str, str, bool]:
        """First text of the next turn, streamed: against the native API"""
        ours, native = (series.first_text_ms for series in self._pair("agent-reused-stream", NATIVE))
        goal = "first text, next turn, streamed: ≤ native API + 5 ms"
        return goal, _against(ours, native), ours <= native + 5

    def _first_text_reused_built_in(self) -> tuple[str, str, bool]:
        """The same: against the built-in gateway"""
        ours = self._series("agent-reused-stream", GATEWAY).first_text_ms
        other = self._series("agent-new-stream", BUILT_IN).first_text_ms
        goal = "the same: ≤ 1/40 of the built-in gateway's for a new conversation"
        return goal, _faster(ours, other), other / ours >= 40

    def _new_turn(self) -> tuple[str, str, bool]:
        """New conversation, collected: against built-in gateway and native API"""
        ours, native = (series.total_ms for series in self._pair("agent-new-sync", NATIVE))
        built_in = self._series("agent-new-sync", BUILT_IN).total_ms
        measured = (
            f"{ours:.0f} ms; built-in {built_in:.0f} ms ({ours / built_in:.2f} ×), "
            f"native {native:.0f} ms ({ours / native:.2f} ×)"
        )
        goal = "new conversation, collected: ≤ 1.05 × built-in gateway and native API"
        return goal, measured, ours <= 1.05 * min(built_in, native)

    def _cpu_reused(self) -> tuple[str, str, bool]:
        """CPU of a next turn: against LiteLLM"""
        ours, other = (series.cpu_ms for series in self._pair("reused-sync", LITELLM))
        goal = "CPU per collected turn, same conversation: ≥ 10 × less than LiteLLM"
        return goal, _cheaper(ours, other), other / ours >= 10

    def _cpu_new(self) -> tuple[str, str, bool]:
        """CPU of a new conversation's turn: against LiteLLM"""
        ours, other = (series.cpu_ms for series in self._pair("new-sync", LITELLM))
        goal = "CPU per collected turn, new conversation: ≥ 8 × less than LiteLLM"
        return goal, _cheaper(ours, other), other / ours >= 8

    def _cpu_stream(self) -> tuple[str, str, bool]:
        """CPU of a stream of 50 tokens: against LiteLLM"""
        ours, other = (series.cpu_ms for series in self._pair("stream", LITELLM))
        return "CPU per stream of 50 tokens: ≥ 12 × less than LiteLLM", _cheaper(ours, other), other / ours >= 12

    def _rate(self) -> tuple[str, str, bool]:
        """Collected turns per second and core: against LiteLLM"""
        ours, other = self._pair("reused-sync", LITELLM)
        failed = sum(ours.errors.values())
        measured = f"{ours.rps:.0f}/s; LiteLLM {other.rps:.0f}/s ({ours.rps / other.rps:.1f} ×), {failed} errors"
        goal = "collected turns per second on one core: ≥ 10 × LiteLLM, no errors"
        return goal, measured, ours.rps / other.rps >= 10 and not failed

    def _memory(self) -> tuple[str, str, bool]:
        """Memory of open streams"""
        ours, count = self._open(GATEWAY)
        each = _kib_per_stream(ours, count)
        goal = "1000 open streams: ≤ 60 KiB each, ≤ 150 MiB in all, ≤ 1/2.5 of LiteLLM's per stream"
        other, other_count = self._open(LITELLM)
        other_each = _kib_per_stream(other, other_count)
        rss = ours.results[-1].rss_kib / 1024
        measured = (
            f"{each:.0f} KiB each, {rss:.0f} MiB in all; LiteLLM {other_each:.0f} KiB each ({other_each / each:.1f} ×)"
        )
        return goal, measured, each <= 60 and rss <= 150 and other_each / each >= 2.5

    def _open(self, target: str) -> tuple[Series, int]:
        for case in self.run.measurements.series:
            if case.startswith("open-") and self.run.measurements.get(case, target) is not None:
                return self._series(case, target), int(case.removeprefix("open-"))
        raise _Missing(f"not measured: open streams, {target}")

    def _first_text_parallel(self) -> tuple[str, str, bool]:
        """First text with 50 parallel streams: against LiteLLM"""
        ours, other = (series.first_text_ms for series in self._pair("parallel-50", LITELLM))
        return "first text, 50 streams at once: ≤ 1/10 of LiteLLM's", _faster(ours, other), other / ours >= 10

    def _record_sqlite(self) -> tuple[str, str, bool]:
        """The record of a turn on SQLite"""
        return self._record(GATEWAY, "SQLite", limit_ms=1.0)

    def _record_postgres(self) -> tuple[str, str, bool]:
        """The record of a turn on PostgreSQL"""
        return self._record(GATEWAY_POSTGRES, "PostgreSQL", limit_ms=10.0)

    def _record(self, name: str, label: str, *, limit_ms: float) -> tuple[str, str, bool]:
        found = self.run.record.get(name)
        if found is None:
            raise _Missing(f"not measured: {label}")
        wait = recorded(found, "rows", "wait_ms")
        cpu = recorded(found, "rows", "cpu_ms")
        spread = recorded(found, "rows_spread", "wait_ms")
        goal = f"opening and closing a turn's rows on {label}, 32 at once: ≤ {limit_ms:g} ms added, ≤ 0.1 ms CPU"
        measured = (
            f"{wait:.1f} ms with nothing in between, {spread:.1f} ms at one turn per 0.3 s and user, {cpu:.2f} ms CPU"
        )
        return goal, measured, wait <= limit_ms and cpu <= 0.1

    def _refusal(self) -> tuple[str, str, bool]:
        """A call beyond what may wait is refused"""
        series = self._series("refused", FULL)
        failed = sum(series.errors.values())
        p99 = series.median(lambda result: percentile(result.total_ms, 99))
        measured = f"{series.total_ms:.1f} ms, p99 {p99:.1f} ms, {failed} errors"
        goal = (
            "all slots and all places in the queue taken: 429 with Retry-After in < 20 ms, those who were there served"
        )
        return goal, measured, series.total_ms < 20 and not failed

    def _queue(self) -> tuple[str, str, bool]:
        """A call that finds all slots taken waits and is answered"""
        both = [self._series("queue", target) for target in (ONE_SERVER, TWO_SERVERS)]
        failed = sum(sum(series.errors.values()) for series in both)
        answered = sum(len(result.total_ms) for series in both for result in series.results)
        longest = max(max(result.total_ms) for series in both for result in series.results)
        goal = "more callers than slots (four times, and twice, as many): every call answered, none timed out"
        return goal, f"{answered} answered, {failed} not; the longest took {longest / 1000:.1f} s", not failed

    def _two_servers(self) -> tuple[str, str, bool]:
        """Turns per second with a second agent-server"""
        one, two = (self._series("queue", target).rps for target in (ONE_SERVER, TWO_SERVERS))
        goal = "turns per second with two agent-servers, which are the bottleneck: ≥ 1.8 × with one"
        return goal, f"{two:.1f}/s; {one:.1f}/s ({two / one:.2f} ×)", two / one >= 1.8


def recorded(found: dict[str, Any], part: str, figure: str) -> float:
    return statistics.median(run[part][figure] for run in found["runs"])


def _against(ours: float, other: float) -> str:
    return f"{ours:.1f} ms; {other:.1f} ms ({ours / other:.2f} ×, {ours - other:+.1f} ms)"


def _faster(ours: float, other: float) -> str:
    return f"{ours:.1f} ms; {other:.0f} ms ({other / ours:.1f} ×)"


def _cheaper(ours: float, other: float) -> str:
    return f"{ours:.2f} ms; {other:.2f} ms ({other / ours:.1f} ×)"


def _kib_per_stream(series: Series, count: int) -> float:
    return series.median(lambda result: (result.rss_kib - result.rss_before_kib) / count)


# --- tables -----------------------------------------------------------------------------------------------------------


_COLUMNS = (
    "target",
    "p10 ms",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "first text p10 ms",
    "first text p50 ms",
    "per s",
    "CPU ms",
    "RSS MiB",
    "errors",
)


def goals_table(run: Run, verdicts: list[Verdict]) -> str:
    """The goals, with what was measured when, where and of which versions."""
    return "\n".join([*_heading(run, verdicts), "", *_left_out(run)]).rstrip() + "\n"


def _heading(run: Run, verdicts: list[Verdict]) -> list[str]:
    lines = [", ".join(f"{name} {value}" for name, value in run.machine.items()), ""]
    if verdicts:
        lines += ["| # | goal | measured (ours; theirs) | |", "|---|---|---|---|"]
        words = {True: "met", False: "**not met**", None: "not measured"}
        lines += [f"| {v.number} | {v.goal} | {v.measured} | {words[v.is_met]} |" for v in verdicts]
    return lines


def _left_out(run: Run) -> list[str]:
    return [f"Left out: {text}" for text in run.left_out]


def markdown(run: Run, verdicts: list[Verdict]) -> str:
    lines = _heading(run, verdicts)
    for case, by_target in run.measurements.series.items():
        lines += ["", f"**{run.measurements.titles[case]}**", ""]
        lines += [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
        lines += [_row(name, series) for name, series in by_target.items()]
    if run.record:
        lines += ["", "**The record of a turn, 32 at once** (median wait for the database in ms, CPU in ms)", ""]
        lines += [
            "| database of | rows: wait / CPU | rows, spread: wait | all: wait / CPU | all, spread: wait | all, per s |"
        ]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_record_row(name, found) for name, found in run.record.items()]
    lines += ["", *_left_out(run)]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, series: Series) -> str:
    def at(percent: float) -> str:
        return _number(series.median(lambda result: percentile(result.total_ms, percent)))

    rss = series.results[-1].rss_kib / 1024

    def first_text(percent: float) -> str:
        return _number(series.median(lambda result: percentile(result.first_text_ms, percent)))

    figures = [
        at(10),
        at(50),
        at(95),
        at(99),
        first_text(10),
        first_text(50),
        _number(series.rps),
        f"{series.cpu_ms:.2f}",
    ]
    return f"| {name} | {' | '.join(figures)} | {rss:.0f} | {sum(series.errors.values())} |"


def _record_row(name: str, found: dict[str, Any]) -> str:
    def of(part: str, figure: str) -> str:
        return f"{recorded(found, part, figure):.2f}"

    return (
        f"| {name} | {of('rows', 'wait_ms')} / {of('rows', 'cpu_ms')} | {of('rows_spread', 'wait_ms')} "
        f"| {of('all', 'wait_ms')} / {of('all', 'cpu_ms')} | {of('all_spread', 'wait_ms')} "
        f"| {of('all', 'per_second')} |"
    )


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def as_json(run: Run, verdicts: list[Verdict]) -> str:
    """Everything, single requests included, for whoever wants to look closer."""
    return json.dumps(
        {
            "machine": run.machine,
            "goals": [dataclasses.asdict(verdict) for verdict in verdicts],
            "cases": {
                case: {
                    name: [dataclasses.asdict(result) for result in series.results] for name, series in found.items()
                }
                for case, found in run.measurements.series.items()
            },
            "record": run.record,
            "left_out": run.left_out,
        },
        indent=1,
    )
