"""A turn's row under every order of what may happen to it: drivers, take-overs, the queue, late news of its run.

Hypothesis plays several processes against one database. Each holds copies of turns as it last knew them, and any of
them may act at any time, also one that has lost its turn and does not know it yet.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from chatgateway import audit, finding, repeats, servers
from chatgateway.audit import Arrival, Asked, Ending
from chatgateway.errors import AgentRunFailed
from chatgateway.models import AgentServer, Conversation, Message, Turn
from chatgateway.openai_api.messages import parse_messages
from chatgateway.search import Named
from chatgateway.turn_events import TokenCounts, TurnAnswered
from profiles import access
from profiles.models import Profile
from tests import factories

EXAMPLES, STEPS = (500, 60) if os.environ.get("HYPOTHESIS_PROFILE") == "full" else (60, 40)
CAPACITY = 2
BODY = {"model": "openhands_chat", "messages": [{"role": "user", "content": "Hi"}]}
ENDINGS = {
    Turn.Outcome.ANSWERED: None,
    Turn.Outcome.FAILED: AgentRunFailed("It failed."),
    Turn.Outcome.CANCELLED: AgentRunFailed("It was cancelled."),
    Turn.Outcome.TIMED_OUT: AgentRunFailed("It took too long."),
    Turn.Outcome.ABANDONED: AgentRunFailed("It was lost."),
}


@dataclass(slots=True)
class Truth:
    """What the row of a turn must say, told from what was written with success."""

    conversation: Any
    generation: int = 1
    owner: str = "one"
    is_lease_over: bool = False
    closed_as: str = ""
    closed_row: dict[str, Any] | None = None
    has_run_on: bool = False
    waiting: list[str] = field(default_factory=list)
    cancelled_for: str = ""


@dataclass(slots=True)
class Driver:
    """A process's copy of a turn, as good as its generation."""

    turn: Turn


class TurnMachine(RuleBasedStateMachine):
    drivers: Bundle[Driver] = Bundle("drivers")
    talks: Bundle[Conversation] = Bundle("talks")

    def __init__(self) -> None:
        super().__init__()
        servers.forget()
        made = factories.api_key()
        self.caller = access.caller_for(made.text, now=timezone.now())
        self.profile = Profile.objects.get(pk=factories.profile().pk)
        self.servers = [factories.agent_server(capacity=CAPACITY) for _ in range(2)]
        self.truth: dict[Any, Truth] = {}
        self.requests = 0

    def teardown(self) -> None:
        Turn.objects.all().delete()
        Message.objects.all().delete()
        Conversation.objects.all().delete()
        AgentServer.objects.all().delete()

    # --- what callers do -----------------------------------------------------------------------------------------

    @rule(target=drivers)
    def ask_anew(self) -> Driver:
        with transaction.atomic():
            transcript = parse_messages(BODY["messages"], accepts_images=False, accepts_remote_images=False)
            found = finding.find_for(caller=self.caller, profile=self.profile, named=Named(), transcript=transcript)
            return self._open(found.conversation, is_new=True)

    @rule(target=drivers, talk=talks)
    def ask_again(self, talk: Conversation) -> Driver:
        with transaction.atomic():
            return self._open(Conversation.objects.get(pk=talk.pk), is_new=False)

    @rule(target=talks, driver=drivers)
    def remember(self, driver: Driver) -> Conversation:
        assert driver.turn.conversation is not None
        return driver.turn.conversation

    def _open(self, conversation: Conversation, *, is_new: bool) -> Driver:
        at = audit.new_arrival()
        server = servers.pick(conversation=conversation, profile_id=self.profile.pk, is_new=is_new, arrival=at)
        turn = audit.open_turn(
            arrival=self._arrival(),
            asked=Asked(body=BODY),
            profile=self.profile,
            conversation=conversation,
            match="new",
            server=server,
            lease_owner="one",
            deadline_at=timezone.now(),
            at=at,
        )
        self.truth[turn.pk] = Truth(conversation=conversation.pk, waiting=[f"req_{self.requests}"])
        return Driver(turn=turn)

    @rule(driver=drivers)
    def repeat(self, driver: Driver) -> None:
        """A request comes again: it joins, unless the turn is being stopped because nobody waited."""
        truth = self.truth[driver.turn.pk]
        with transaction.atomic():
            turn = Turn.objects.select_for_update(of=("self",)).get(pk=driver.turn.pk)
            if repeats._is_stopped_for_good(turn):
                assert truth.cancelled_for == "disconnect"
                return
            audit.join(turn, self._arrival())
        truth.waiting.append(f"req_{self.requests}")

    @rule(driver=drivers, delivered=st.booleans())
    def leave(self, driver: Driver, delivered: bool) -> None:
        truth = self.truth[driver.turn.pk]
        if truth.waiting:
            request_id = truth.waiting.pop()
            audit.delivered([(request_id, timezone.now())]) if delivered else audit.detach(request_id)

    @rule(driver=drivers)
    def cancel_if_nobody_waits(self, driver: Driver) -> None:
        truth = self.truth[driver.turn.pk]
        may_cancel = not truth.closed_as and not truth.waiting and not truth.cancelled_for
        with transaction.atomic():
            assert audit.cancel_if_nobody_waits(driver.turn.pk) == may_cancel
        if may_cancel:
            truth.cancelled_for = "disconnect"

    @rule(driver=drivers)
    def cancel(self, driver: Driver) -> None:
        truth = self.truth[driver.turn.pk]
        may_cancel = not truth.closed_as and not truth.cancelled_for
        assert bool(audit.request_cancel([driver.turn.pk], reason="request")) == may_cancel
        if may_cancel:
            truth.cancelled_for = "request"

    @rule(driver=drivers)
    def hear_of_cancellations(self, driver: Driver) -> None:
        """What a process's renewing thread does once a second; the reason goes into the row as the turn closes."""
        for key, reason in audit.cancellations([driver.turn.pk]):
            assert reason == self.truth[key].cancelled_for
            driver.turn.cancel_reason = reason

    def _arrival(self) -> Arrival:
        self.requests += 1
        return Arrival(
            request_id=f"req_{self.requests}",
            endpoint="chat.completions",
            address="127.0.0.1",
            client="test",
            retry_count=None,
            caller=self.caller,
        )

    # --- what drivers do -----------------------------------------------------------------------------------------

    @rule()
    def grant(self) -> None:
        with transaction.atomic():
            servers.grant_waiting()

    @rule(driver=drivers)
    def look(self, driver: Driver) -> None:
        """The driver's process reads the queue: it sees its slot, not that it may have lost the turn."""
        row = Turn.objects.select_related("agent_server").get(pk=driver.turn.pk)
        driver.turn.phase, driver.turn.agent_server, driver.turn.server_url = (
            row.phase,
            row.agent_server,
            row.server_url,
        )

    @rule(driver=drivers, seq=st.integers(0, 5))
    def advance(self, driver: Driver, seq: int) -> None:
        if driver.turn.phase not in {Turn.Phase.STARTING, Turn.Phase.RUNNING}:
            return
        self._write(driver, lambda: audit.advance(driver.turn, phase=Turn.Phase.RUNNING, user_event_seq=seq))

    @rule(driver=drivers)
    def give_back(self, driver: Driver) -> None:
        if driver.turn.phase != Turn.Phase.STARTING:
            return
        self._write(driver, lambda: audit.release(driver.turn))

    @rule(driver=consumes(drivers), outcome=st.sampled_from(list(ENDINGS)), run_ended=st.booleans())
    def close(self, driver: Driver, outcome: Turn.Outcome, run_ended: bool) -> None:
        error = ENDINGS[outcome]
        answered = (
            TurnAnswered(text="Yes.", reasoning="", finish_reason="stop", usage=TokenCounts())
            if error is None
            else None
        )
        has_server = driver.turn.agent_server is not None
        ending = Ending(
            outcome=outcome,
            answered=answered,
            error=error,
            answer="Yes." if answered else "",
            run_ended=run_ended or answered is not None or not has_server,
        )
        if self._write(driver, lambda: audit.close_turn(driver.turn, ending)):
            truth = self.truth[driver.turn.pk]
            truth.closed_as, truth.closed_row = outcome, self._row(driver.turn.pk)
            truth.has_run_on = not ending.run_ended
            truth.cancelled_for = driver.turn.cancel_reason  # the driver's word is the last

    def _write(self, driver: Driver, write: Any) -> bool:
        """Only the holder of the present generation of an open turn may write; anybody else is told."""
        truth = self.truth[driver.turn.pk]
        may_write = not truth.closed_as and driver.turn.lease_generation == truth.generation
        try:
            with transaction.atomic():
                write()
        except audit.TurnLost:
            assert not may_write
            return False
        assert may_write
        return True

    # --- what goes wrong -----------------------------------------------------------------------------------------

    @rule(driver=drivers)
    def lose_lease(self, driver: Driver) -> None:
        audit.drop_leases(driver.turn.lease_owner, [driver.turn.pk])
        self._note_lease(driver, is_over=True)

    def _note_lease(self, driver: Driver, *, is_over: bool) -> None:
        truth = self.truth[driver.turn.pk]
        if not truth.closed_as and driver.turn.lease_owner == truth.owner:
            truth.is_lease_over = is_over

    @rule(target=drivers, driver=drivers)
    def take_over(self, driver: Driver) -> Driver:
        """By a process that read the row when `driver` was right about it."""
        truth = self.truth[driver.turn.pk]
        is_known = driver.turn.lease_generation == truth.generation
        may_take = not truth.closed_as and is_known and truth.is_lease_over
        taken = copy.copy(driver.turn)
        took = audit.take_over(taken, owner="two")
        assert took == may_take
        if took:
            truth.generation += 1
            truth.owner = taken.lease_owner = "two"
            truth.is_lease_over = False
            return Driver(turn=taken)
        return driver

    @rule(driver=drivers)
    def renew(self, driver: Driver) -> None:
        audit.renew_leases(driver.turn.lease_owner, [driver.turn.pk])
        self._note_lease(driver, is_over=False)

    @rule(driver=drivers)
    def hear_that_the_run_ended(self, driver: Driver) -> None:
        truth = self.truth[driver.turn.pk]
        if truth.closed_as:
            audit.run_seen_to_end(driver.turn.pk)
            truth.has_run_on = False

    @rule()
    def refuse(self) -> None:
        with transaction.atomic():
            turn = audit.record_refusal(arrival=self._arrival(), asked=Asked(body=BODY), error=AgentRunFailed("No."))
        self.truth[turn.pk] = Truth(
            conversation=None, generation=0, closed_as=Turn.Outcome.REFUSED, closed_row=self._row(turn.pk)
        )

    # --- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def the_rows_are_in_order(self) -> None:
        """One step of the machine, one look at the table."""
        rows = {row["id"]: dict(row) for row in Turn.objects.values()}
        assert set(rows) == set(self.truth)
        for key, truth in self.truth.items():
            self._check_row(rows[key], truth)
        holding = list(Turn.objects.holding_a_slot().values("agent_server_id", "conversation_id"))
        per_server = Counter(row["agent_server_id"] for row in holding)
        assert max(per_server.values(), default=0) <= CAPACITY
        per_conversation = Counter(row["conversation_id"] for row in holding)
        assert max(per_conversation.values(), default=0) <= 1

    def _check_row(self, row: dict[str, Any], truth: Truth) -> None:
        """A row says what was written; a closed one never changes, and holds a slot only while its run goes on."""
        assert row["outcome"] == (truth.closed_as or Turn.Outcome.OPEN)
        assert row["lease_generation"] == truth.generation
        if row["agent_server_id"] is not None and row["run_ended_at"] is None:
            assert truth.has_run_on if truth.closed_as else row["phase"] != Turn.Phase.QUEUED
        if truth.closed_row is not None:
            assert self._without_end_of_run(row) == self._without_end_of_run(truth.closed_row)

    @staticmethod
    def _row(key: Any) -> dict[str, Any]:
        return dict(Turn.objects.values().get(pk=key))

    @staticmethod
    def _without_end_of_run(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != "run_ended_at"}


@pytest.mark.django_db
@pytest.mark.timeout(600)
def test_a_turn_is_closed_once_by_whoever_holds_it_and_leaks_no_slot() -> None:
    run_state_machine_as_test(
        TurnMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
