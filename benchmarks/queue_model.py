"""A model of the gateway's queue: turns arrive, get a slot on an agent-server or wait for one, and end.

The rules are those of `chatgateway.servers`: the server with the most free slots; those who wait are served by the
fewest running turns of their key, then by arrival; a full queue and too long a wait are refused. Time is the model's
own, so a day takes seconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Requests of one key, at random moments."""

    key: str
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """`seconds` of arrivals; then what is left ends. A run lasts a fixed part and `words`, drawn, at `word_seconds`.

    `dies_at`: when the last agent-server is lost, with the turns that run on it.
    """

    callers: tuple[Callers, ...]
    seconds: float
    agent_servers: int
    slots: int
    queue_limit: int
    queue_timeout: float
    words: float
    word_seconds: float
    fixed_seconds: float
    most_words: int = 10**9
    dies_at: float | None = None


@dataclass(slots=True)
class Seen:
    """What became of a key's requests. `waits` are those of turns that got a slot."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    lost: int = 0
    waits: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request that came `at` a moment, and how long its run takes of itself, without `Setup.fixed_seconds`."""

    key: str
    at: float
    run_seconds: float


@dataclass(slots=True)
class _Turn:
    key: str
    arrived: float
    seconds: float
    server: int = -1
    is_over: bool = False


class Model:
    """`run` once. With `arrivals`, these come instead of drawn ones; `overheads`: each run's fixed part is drawn from
    them."""

    def __init__(
        self, setup: Setup, *, seed: int, arrivals: Sequence[Arrival] = (), overheads: Sequence[float] = ()
    ) -> None:
        self.setup = setup
        self._arrivals = arrivals
        self._overheads = overheads or (setup.fixed_seconds,)
        self.seen: dict[str, Seen] = defaultdict(Seen)
        self.most_waiting = 0
        self.busy_seconds = 0.0
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, str, _Turn | Callers | Arrival | None]] = []
        self._free = [setup.slots] * setup.agent_servers
        self._waiting: list[_Turn] = []
        self._on_server: list[set[int]] = [set() for _ in range(setup.agent_servers)]
        self._running: dict[int, _Turn] = {}
        self._running_of_key: dict[str, int] = defaultdict(int)

    def run(self) -> dict[str, Seen]:
        for arrival in self._arrivals:
            self._at(arrival.at, "arrive", arrival)
        for callers in self.setup.callers if not self._arrivals else ():
            self._next_arrival(callers, 0.0)
        if self.setup.dies_at is not None:
            self._at(self.setup.dies_at, "die", None)
        while self._events:
            now, _, what, about = heapq.heappop(self._events)
            match what, about:
                case "arrive", Callers():
                    self._next_arrival(about, now)
                    self._arrive(about.key, now, self._drawn_seconds())
                case "arrive", Arrival():
                    self._arrive(about.key, now, about.run_seconds)
                case "end", _Turn():
                    self._end(about, now)
                case "give up", _Turn():
                    self._give_up(about)
                case _:
                    self._die(now)
        return self.seen

    def _at(self, moment: float, what: str, about: _Turn | Callers | Arrival | None) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), what, about))

    def _next_arrival(self, callers: Callers, now: float) -> None:
        moment = now + self._random.expovariate(callers.per_second)
        if moment <= self.setup.seconds:
            self._at(moment, "arrive", callers)

    def _drawn_seconds(self) -> float:
        words = min(self.setup.most_words, max(1, round(self._random.expovariate(1 / self.setup.words))))
        return (words - 1) * self.setup.word_seconds

    def _arrive(self, key: str, now: float, run_seconds: float) -> None:
        setup, seen = self.setup, self.seen[key]
        turn = _Turn(key, now, self._random.choice(self._overheads) + run_seconds)
        seen.sent += 1
        if not self._waiting and max(self._free) > 0:
            self._start(turn, now)
        elif len(self._waiting) >= setup.queue_limit:
            seen.refused += 1
        else:
            self._waiting.append(turn)
            self.most_waiting = max(self.most_waiting, len(self._waiting))
            self._at(now + setup.queue_timeout, "give up", turn)

    def _start(self, turn: _Turn, now: float) -> None:
        turn.server = max(range(len(self._free)), key=self._free.__getitem__)
        self._free[turn.server] -= 1
        self._running[id(turn)] = turn
        self._on_server[turn.server].add(id(turn))
        self._running_of_key[turn.key] += 1
        self.seen[turn.key].waits.append(now - turn.arrived)
        self.busy_seconds += turn.seconds
        self._at(now + turn.seconds, "end", turn)

    def _end(self, turn: _Turn, now: float) -> None:
        if turn.is_over:
            return
        self.seen[turn.key].answered += 1
        self._leave(turn)
        self._free[turn.server] += 1
        self._grant(now)

    def _leave(self, turn: _Turn) -> None:
        turn.is_over = True
        del self._running[id(turn)]
        self._on_server[turn.server].discard(id(turn))
        self._running_of_key[turn.key] -= 1

    def _grant(self, now: float) -> None:
        while self._waiting and max(self._free) > 0:
            turn = min(self._waiting, key=lambda one: (self._running_of_key[one.key], one.arrived))
            self._waiting.remove(turn)
            self._start(turn, now)

    def _give_up(self, turn: _Turn) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
            self.seen[turn.key].refused += 1

    def _die(self, now: float) -> None:
        lost = len(self._free) - 1
        for identity in list(self._on_server[lost]):
            turn = self._running[identity]
            self._leave(turn)
            self.seen[turn.key].lost += 1
            self.busy_seconds -= turn.seconds
        self._free[lost] = -(10**9)
        self._grant(now)
