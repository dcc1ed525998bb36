"""A site under fault: gateways and workers in processes of their own, agents and callers in the test's."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django.db.models import F
from django.db.models.functions import Now
from openai import AsyncOpenAI, OpenAI

from chatgateway.models import Turn
from tests import factories
from tests.fakes.agent_conversation import FakeConversation
from tests.fakes.agent_script import Answer, Gate, Move
from tests.fakes.agent_server import FakeAgentServer
from tests.faults import books, calls
from tests.faults.books import Balance
from tests.faults.calls import Call
from tests.faults.processes import BeatProcess, GatewayProcess, OwnProcess, WorkerProcess
from tests.live.scripted_llm import ScriptedLlm
from tests.waiting import eventually

# What an agent does with the question of a token.
Play = Callable[[str], list[Move]]

# Whoever asks more at once does so with `ask_many`.
MOST_CALLERS = 16
# What asyncio and the drivers log of an exception that nobody foresaw.
DEFECTS = (
    "Exception in callback",
    "was never retrieved",
    "the driver of turn",
    "failed inside the gateway",
    "could not be stopped in order",
)
# By then every turn has ended and given its slot back.
SETTLE_SECONDS = 60.0


def at_once(token: str) -> list[Move]:
    return [Answer(calls.answer_to(token))]


def lasting(seconds: float) -> Play:
    """An answer whose words come evenly over this time."""

    def play(token: str) -> list[Move]:
        text = calls.answer_to(token)
        return [Answer(text, delay_seconds=seconds / (len(text.split()) + 1))]

    return play


def waiting_at(gate: Gate, *, after_words: int = 2) -> Play:
    """An answer that stops at the gate after some words."""
    return lambda token: [Answer(calls.answer_to(token), gate=gate, hold_after=after_words)]


def defects_in(log: str) -> list[str]:
    """Lines of a process's log that tell of a mistake of ours, whatever became of the turns."""
    return [line for line in log.splitlines() if any(words in line for words in DEFECTS)]


class Site:
    """Start with `agent()` and `gateway()`, ask, break something, and end with `settle()`.

    One profile without tools (`chat`) and one key, whose `text` is in `key`.
    """

    def __init__(self, *, directory: Path, scenario: str, balances: list[Balance]) -> None:
        self.scenario = scenario
        self._balances = balances
        self.agents: list[FakeAgentServer] = []
        self.llms: list[ScriptedLlm] = []  # behind real agent-servers: there the LLM tells what was heard
        self.calls: list[Call] = []
        self.profile = factories.profile(slug="chat")
        self.key = factories.api_key().text
        self._play: Play = at_once
        self._directory = directory
        self._processes: list[OwnProcess] = []
        self._callers = ThreadPoolExecutor(MOST_CALLERS, thread_name_prefix="caller")
        self._pending: list[Future[Any]] = []

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for agent in self.agents:
            agent.stop()
        self._callers.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            print(process.output()[-6000:])  # pytest shows it for a test that failed

    # --- who is there -----------------------------------------------------------------------------------------------

    def gateway(self, *, port: int | None = None, is_ready: bool = True, **variables: str) -> GatewayProcess:
        """Start a gateway; the site's first agent-server is enough for it. `variables` are settings of its own."""
        started = GatewayProcess(data_dir=self._directory, port=port, **variables)
        self._processes.append(started)
        return started.wait_until_ready() if is_ready else started

    def worker(self, name: str = "worker", *, has_beat: bool = True, **variables: str) -> WorkerProcess:
        started = WorkerProcess(data_dir=self._directory, name=name, has_beat=has_beat, **variables)
        self._processes.append(started)
        return started.wait_until_ready()

    def beat(self, **variables: str) -> BeatProcess:
        started = BeatProcess(data_dir=self._directory, **variables)
        self._processes.append(started)
        return started

    def agent(self, *, capacity: int = 10) -> FakeAgentServer:
        """Start an agent-server that the gateways know. It takes more runs than they may give it, so that it shows."""
        fake = FakeAgentServer(max_concurrent_runs=1000).start()
        fake.on_message = self._moves
        self.agents.append(fake)
        factories.agent_server(url=fake.url, session_api_key=fake.session_api_key, capacity=capacity)
        return fake

    def plays(self, play: Play) -> None:
        """Have the agents do this with every question from now on."""
        self._play = play

    def _moves(self, conversation: FakeConversation, text: str) -> list[Move]:
        return self._play(calls.tokens_in(text)[-1])

    # --- who asks ---------------------------------------------------------------------------------------------------

    def client(self, url: str, **options: Any) -> OpenAI:
        """The stock SDK as it comes: three tries for each call."""
        return OpenAI(**{"base_url": f"{url}/v1", "api_key": self.key, "timeout": 30} | options)

    def ask(self, url: str, *, token: str = "", stream: bool = False, **options: Any) -> Call:
        """Ask one question and keep what came of it. `client` holds the SDK's options, the rest are the request's."""
        client_options = options.pop("client", {})
        with self.client(url, **client_options) as client:
            call = calls.ask(client, token or calls.new_token(), stream=stream, **options)
        self.calls.append(call)
        return call

    def asking(self, url: str, **options: Any) -> Future[Call]:
        """`ask`, in a thread."""
        future = self._callers.submit(self.ask, url, **options)
        self._pending.append(future)
        return future

    def asking_both(self, url: str, **options: Any) -> list[Future[Call]]:
        """Two questions at once: one collected, one streamed."""
        return [self.asking(url, stream=stream, **options) for stream in (False, True)]

    def asking_with_node(self, url: str, **options: Any) -> Future[Call]:
        """`asking`, with the SDK for Node; `options` are its own or the request's."""

        def run() -> Call:
            call = calls.ask_with_node(url=url, key=self.key, token=calls.new_token(), **options)
            self.calls.append(call)
            return call

        future = self._callers.submit(run)
        self._pending.append(future)
        return future

    def ask_many(self, number: int, *urls: str, stream: bool = False, every_seconds: float = 0.0) -> Future[list[Call]]:
        """Ask as many questions with the asynchronous SDK, all at once or one after the other; `urls` take turns."""

        async def ask_all() -> list[Call]:
            clients = [AsyncOpenAI(base_url=f"{url}/v1", api_key=self.key, timeout=60) for url in urls]

            async def ask_one(index: int) -> Call:
                await asyncio.sleep(index * every_seconds)
                return await calls.ask_async(clients[index % len(clients)], calls.new_token(), stream=stream)

            try:
                return await asyncio.gather(*map(ask_one, range(number)))
            finally:
                for client in clients:
                    await client.close()

        def run() -> list[Call]:
            made = asyncio.run(ask_all())
            self.calls += made
            return made

        future = self._callers.submit(run)
        self._pending.append(future)
        return future

    # --- time -------------------------------------------------------------------------------------------------------

    def let_leases_run_out(self, *, by_seconds: float = 1) -> None:
        """What 20 s without a sign of life from a process, and so much more, do to its turns."""
        Turn.objects.open().update(lease_expires_at=Now() - dt.timedelta(seconds=by_seconds))

    def set_clock_back(self, by: dt.timedelta) -> None:
        """What rows look like after the clock was set back: everything in them was written later than it is now."""
        moments = ("opened_at", "started_at", "accepted_at", "deadline_at", "lease_expires_at")
        Turn.objects.open().update(**{name: F(name) + by for name in moments})

    def open_turn(self) -> Turn:
        """The turn that is under way, once it is recorded; the only one."""
        [turn] = self.open_turns(1)
        return turn

    def open_turns(self, number: int) -> list[Turn]:
        """The turns that are under way, once there are as many."""

        def look() -> list[Turn] | None:
            found = list(Turn.objects.open())
            return found if len(found) == number else None

        return eventually(look)

    # --- the end ----------------------------------------------------------------------------------------------------

    def settle(
        self,
        *,
        within_seconds: float = SETTLE_SECONDS,
        outcomes_matter: bool = True,
        calls_of_a_question: int = 1,
        **outcomes: int,
    ) -> Balance:
        """Wait for every caller and every turn, and assert what must hold whatever broke.

        `outcomes` says how many turns ended how, those aside that were refused. `calls_of_a_question`: it was asked so
        often on purpose, and each time is a run.
        """
        for future in self._pending:
            future.result(within_seconds)
        try:
            eventually(self._is_quiet, timeout_seconds=within_seconds)
        except AssertionError:
            busy = Turn.objects.open() | Turn.objects.holding_a_slot()
            columns = ("outcome", "phase", "lease_generation", "server_url", "user_event_seq", "opened_at", "closed_at")
            raise AssertionError(f"still under way: {list(busy.values_list(*columns)[:10])}") from None
        heard = {token: times / calls_of_a_question for token, times in books.heard_by(self.agents, self.llms).items()}
        counted = books.balance(scenario=self.scenario, calls=self.calls, heard=heard)
        self._balances.append(counted)
        assert [line for process in self._processes for line in defects_in(process.output())] == []
        assert counted.holds, counted
        expected = {name: number for name, number in outcomes.items() if number}
        ended = books.outcomes()
        assert not outcomes_matter or ended == expected
        return counted

    def _is_quiet(self) -> bool:
        return not Turn.objects.open().exists() and not Turn.objects.holding_a_slot().exists()
