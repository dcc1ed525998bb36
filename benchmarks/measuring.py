"""Runs cases against targets, the targets in turns, and keeps what came out."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.cases import Case
from benchmarks.load import Job, Result
from benchmarks.targets import ROOT, Target

# A measurement that takes longer than this is broken.
LOAD_SECONDS = 540


@dataclass(slots=True)
class Series:
    """The results of one case at one target, one for each repetition."""

    results: list[Result] = field(default_factory=list)

    def median(self, figure: Callable[[Result], float]) -> float:
        """The median over the repetitions of what `figure` makes of each."""
        return statistics.median(figure(result) for result in self.results)

    @property
    def total_ms(self) -> float:
        return self.median(lambda result: percentile(result.total_ms, 50))

    @property
    def first_text_ms(self) -> float:
        return self.median(lambda result: percentile(result.first_text_ms, 50))

    @property
    def cpu_ms(self) -> float:
        return self.median(lambda result: result.cpu_ms)

    @property
    def rps(self) -> float:
        return self.median(lambda result: len(result.total_ms) / result.seconds)

    @property
    def errors(self) -> dict[str, int]:
        counted: dict[str, int] = defaultdict(int)
        for result in self.results:
            for text, count in result.errors.items():
                counted[text] += count
        return dict(counted)


def percentile(values: list[float], percent: float) -> float:
    """The value below which `percent` of them lie; not a number if there are none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


class Measurements:
    """All series of a run, by case and target."""

    def __init__(self, *, is_quick: bool, load_cores: set[int] | None = None) -> None:
        self.is_quick = is_quick
        self.series: dict[str, dict[str, Series]] = defaultdict(lambda: defaultdict(Series))
        self.titles: dict[str, str] = {}
        self.load_cores = load_cores
        # By then a part of the run is to be over (`time.monotonic`); a repetition that would go beyond is left out.
        self.until = float("inf")

    def get(self, case: str, target: str) -> Series | None:
        return self.series[case][target] if case in self.series and target in self.series[case] else None

    def repeat(self, cases: Iterable[Case], targets: list[Target], *, times: int) -> int:
        """Every case at every target, `times` over. Targets take turns, so that a busy minute strikes all alike.

        Return how often it was done: once at least, and not again after `until`.
        """
        cases = list(cases)
        started = time.monotonic()
        for repetition in range(times):
            took = (time.monotonic() - started) / max(1, repetition)
            if repetition and time.monotonic() + took > self.until:
                return repetition
            for case in cases:
                # The other way round every second time: whoever comes first must not always be the same.
                for target in targets if repetition % 2 == 0 else targets[::-1]:
                    self.once(case, target)
        return times

    def once(self, case: Case, target: Target) -> Result:
        job = Job(
            **case.job
            | {
                "address": target.address,
                "is_native": target.is_native,
                "requests": case.requests_for(target.name, is_quick=self.is_quick),
                "watch": target.pids,
            }
        )
        result = self._load(job)
        self.titles[case.name] = case.title
        self.series[case.name][target.name].results.append(result)
        print(f"  {case.title} | {target.name} | {_line(result)}", file=sys.stderr, flush=True)
        return result

    def _load(self, job: Job) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            cwd=ROOT,
            input=json.dumps(dataclasses.asdict(job)),
            capture_output=True,
            text=True,
            timeout=LOAD_SECONDS,
            check=False,
            preexec_fn=None if self.load_cores is None else self._pin_load,
        )
        if done.returncode:
            return Result(errors={done.stderr.strip().rpartition("\n")[2][:300]: job.requests}, seconds=1.0)
        return Result(**json.loads(done.stdout))

    def _pin_load(self) -> None:
        assert self.load_cores is not None
        os.sched_setaffinity(0, self.load_cores)


def _line(result: Result) -> str:
    parts = [f"p50 {percentile(result.total_ms, 50):.1f} ms"]
    if result.first_text_ms:
        parts.append(f"first text {percentile(result.first_text_ms, 50):.1f} ms")
    parts += [f"{len(result.total_ms) / result.seconds:.1f}/s", f"CPU {result.cpu_ms:.2f} ms"]
    if result.errors:
        parts.append(f"ERRORS {result.errors}")
    return ", ".join(parts)
