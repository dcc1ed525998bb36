"""Draws conversations and writes them: who asked what when, how it ended, what it cost. One seed draws one history."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import batched
from typing import Any
from uuid import UUID

from chatgateway import agents, past
from chatgateway.audit import Arrival, Asked, Ending
from chatgateway.models import AgentServer, Conversation, Turn
from chatgateway.openai_api import histories
from chatgateway.openai_api.transcript import EarlierMessage, TextPart
from chatgateway.past import PastTurn
from chatgateway.seeding import endings
from chatgateway.seeding.cast import Cast, KeySpec
from chatgateway.seeding.events import Log
from chatgateway.seeding.talks import TALKS, WORDS, Did, Edited, Exchange, Ran, filled
from chatgateway.turn_events import TokenCounts, TurnAnswered
from profiles.access import Caller
from profiles.models import Profile

_CONVERSATIONS_PER_BATCH = 400
_MINUTE = dt.timedelta(minutes=1)
_SOON = dt.timedelta(hours=24)
# How busy each hour of a day is, from midnight on.
_HOURS = (2, 1, 1, 1, 1, 2, 4, 9, 16, 20, 21, 19, 14, 18, 20, 19, 16, 12, 8, 6, 5, 4, 3, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """`turns` and `days`: how many, over how long; `running`: how many are still open at the end."""

    turns: int
    days: int
    running: int = 0
    with_events: bool = True


def write(cast: Cast, amounts: Amounts, *, seed: int, now: dt.datetime) -> Iterator[int]:
    """Write the history in batches; yield after each how many turns there are."""
    written = 0
    for some in batched(drawn(cast, amounts, seed=seed, now=now), _CONVERSATIONS_PER_BATCH):
        turns = [turn for _, of_it in some for turn in of_it]
        written += past.write([row for row, _ in some if row is not None], turns)
        yield written


def drawn(
    cast: Cast, amounts: Amounts, *, seed: int, now: dt.datetime
) -> Iterator[tuple[Conversation | None, list[PastTurn]]]:
    """Yield each conversation with its turns, unwritten; None for requests refused before there was one."""
    return _Drawn(cast, amounts, seed=seed, now=now).conversations()


def first_id(seed: int) -> UUID:
    """Return the id of the first conversation that a seed draws."""
    return _uuid(random.Random(f"{seed}/0"))


class _Drawn:
    def __init__(self, cast: Cast, amounts: Amounts, *, seed: int, now: dt.datetime) -> None:
        self._cast, self._amounts, self._seed, self._now = cast, amounts, seed, now
        self._snapshots = {profile.pk: agents.snapshot(profile) for profile in cast.profiles.values()}
        self._digests = {profile.pk: agents.agent_digest(profile) for profile in cast.profiles.values()}
        self._specs = list(cast.callers)

    def conversations(self) -> Iterator[tuple[Conversation | None, list[PastTurn]]]:
        """Yield each conversation with its turns; None for requests that were refused before there was one."""
        left, number = self._amounts.turns, 0
        running = self._amounts.running
        while left > 0:
            rng = random.Random(f"{self._seed}/{number}")
            number += 1
            one = _Conversation(self, rng, is_running=running > 0)
            if running == 0 and rng.random() < 0.04 and number > 1:
                turns: list[PastTurn] = [one.refusal()]
                yield None, turns
            else:
                turns = one.turns(at_most=left)
                yield one.row, turns
                if turns and rng.random() < 0.12 and left > len(turns):
                    fork = one.fork(turns)
                    if fork is not None:
                        left -= len(fork[1])
                        yield fork
            running -= running > 0
            left -= len(turns)

    def moment(self, rng: random.Random) -> dt.datetime:
        """Draw when a conversation begins: mostly in office hours, on weekdays, and a little more often of late."""
        while True:
            days_ago = rng.uniform(0.004, self._amounts.days)
            at = self._now - dt.timedelta(days=days_ago)
            share = _HOURS[at.hour] / max(_HOURS) * (0.25 if at.weekday() > 4 else 1.0)
            if rng.random() < share * (1 - 0.3 * days_ago / self._amounts.days):
                return at

    def who(self, rng: random.Random) -> tuple[KeySpec, Caller]:
        spec = rng.choices(self._specs, [one.share for one in self._specs])[0]
        return spec, self._cast.callers[spec]

    @property
    def now(self) -> dt.datetime:
        return self._now

    @property
    def amounts(self) -> Amounts:
        return self._amounts

    def profile(self, slug: str) -> Profile:
        return self._cast.profiles[slug]

    def server(self, rng: random.Random, at: dt.datetime) -> AgentServer:
        """The first two take most; the others were in use until a day ago."""
        usable = self._cast.servers[:2] if self._now - at < _SOON else self._cast.servers
        return rng.choices(usable, [server.capacity for server in usable])[0]

    def snapshot(self, profile: Profile) -> dict[str, Any]:
        return self._snapshots[profile.pk]

    def digest(self, profile: Profile) -> str:
        return self._digests[profile.pk]


class _Conversation:
    """One talk between one caller and one profile."""

    def __init__(self, drawn: _Drawn, rng: random.Random, *, is_running: bool) -> None:
        self._drawn, self._rng, self._is_running = drawn, rng, is_running
        conversation_id = _uuid(rng)
        self._spec, self._caller = drawn.who(rng)
        self._profile = drawn.profile(rng.choice(self._spec.profiles))
        self._end_user = rng.choice(self._spec.end_users) if self._spec.end_users else ""
        self._words = {name: rng.choice(words) for name, words in WORDS.items()}
        self._talk = rng.choice([talk for talk in TALKS if talk.with_tools == self._profile.has_tools])
        self._at = drawn.now - dt.timedelta(seconds=rng.uniform(8, 90)) if is_running else drawn.moment(rng)
        self._server = drawn.server(rng, self._at)
        self._messages: list[dict[str, Any]] = []
        self._digest = self._scope()
        self.row = self._conversation(conversation_id)
        self._log = Log(rng=rng, tools=tuple(self._profile.tools), working_dir=self.row.working_dir)

    # --- the turns ----------------------------------------------------------------------------------------------------

    def turns(self, *, at_most: int) -> list[PastTurn]:
        """The questions of the talk up to some point, each with what became of it."""
        length = self._rng.randint(1, len(self._talk.exchanges))
        turns: list[PastTurn] = []
        parent: PastTurn | None = None
        for exchange in self._talk.exchanges[:length]:
            if len(turns) == at_most or (turns and self._at > self._drawn.now - _MINUTE):
                break
            turn = self._turn(exchange, parent, match="history" if turns else "new")
            turns.append(turn)
            if turn.ending is None:
                break
            if turn.ending.outcome not in (Turn.Outcome.FAILED, Turn.Outcome.REFUSED):
                parent = turn
            self._at = turn.closed_at + dt.timedelta(seconds=self._rng.lognormvariate(4.2, 0.9))
        self._settle(turns[-1].closed_at)
        return turns

    def fork(self, turns: list[PastTurn]) -> tuple[Conversation, list[PastTurn]] | None:
        """A conversation that leaves this one after its first turn: the second question was put another way."""
        first = turns[0]
        if first.ending is None or first.ending.outcome != Turn.Outcome.ANSWERED or len(self._talk.exchanges) < 2:
            return None
        branch = _Conversation(self._drawn, self._rng, is_running=False)
        branch._spec, branch._caller, branch._profile = self._spec, self._caller, self._profile
        branch._end_user, branch._words, branch._talk = self._end_user, self._words, self._talk
        branch._server, branch._at = self._server, min(turns[-1].closed_at + _MINUTE, self._drawn.now - _MINUTE)
        branch._messages = [*first.asked.body["messages"], _said("assistant", first.ending.answer)]
        branch._digest = histories.end_digest(first.request_digest, first.ending.answer)
        branch.row = branch._conversation(_uuid(self._rng))
        branch.row.root_id, branch.row.branched_at_id = self.row.pk, first.id
        branch._log = Log(rng=self._rng, tools=self._log.tools, working_dir=self.row.working_dir)
        branch._log.next_seq = 400  # a fork begins with what it copied
        second = self._talk.exchanges[1]
        question = f"{second.question} In as few words as you can."
        exchange = Exchange(question=question, answer=second.answer, did=second.did)
        turn = branch._turn(exchange, first, match="fork")
        branch._settle(turn.closed_at)
        return branch.row, [turn]

    def refusal(self) -> PastTurn:
        """A request that came to nothing before a conversation was found for it."""
        error, model_id = endings.refused(self._rng, self._profile)
        arrival = self._arrival()
        asked = self._asked([_said("user", self._fill(self._talk.exchanges[0].question))], model_id=model_id)
        closed_at = self._at + dt.timedelta(milliseconds=self._rng.uniform(2, 40))
        is_known = model_id == self._profile.model_id
        return PastTurn(
            id=_uuid(self._rng),
            arrival=arrival,
            asked=asked,
            opened_at=self._at,
            closed_at=closed_at,
            ending=Ending(outcome=Turn.Outcome.REFUSED, error=error),
            profile=self._profile if is_known else None,
            snapshot=self._drawn.snapshot(self._profile) if is_known else {},
        )

    def _turn(self, exchange: Exchange, parent: PastTurn | None, *, match: str) -> PastTurn:
        rng, opened_at = self._rng, self._at
        question, answer = self._fill(exchange.question), self._fill(exchange.answer)
        asked = self._asked([*self._messages, _said("user", question)], model_id=self._profile.model_id)
        digest = histories.followed_by(self._digest, [_heard(question)])
        queued = rng.uniform(0.004, 0.05) if rng.random() < 0.93 else rng.lognormvariate(1.2, 0.8)
        started_at = opened_at + dt.timedelta(seconds=queued)
        accepted_at = started_at + dt.timedelta(seconds=rng.lognormvariate(-1.4, 0.5))
        at = accepted_at
        if self._log.next_seq == 0:
            self._log.begins(at)
        user_seq = self._log.asked(question, at)
        did = [self._filled(one) for one in exchange.did]
        end = None if self._is_running else endings.draw(rng, self._profile, is_first=parent is None)
        n_done = len(did) if end is None or end.is_good else rng.randint(0, len(did))
        if self._is_running:
            n_done = rng.randint(0, len(did))
        once = self._read_at_once()
        used = [self._called(once, call, self._rng.randint(60, 220)) for call in range(n_done)]
        for one, usage in zip(did, used, strict=False):
            at = self._step(one, at)
            self._log.counted(usage, at)
        first_text_at = at + dt.timedelta(seconds=rng.lognormvariate(0.2, 0.45))
        writing = len(answer) / rng.uniform(180, 420)
        closed_at = first_text_at + dt.timedelta(seconds=writing)
        ending: Ending | None = None
        if end is not None:
            closed_at = min(closed_at + dt.timedelta(seconds=end.adds_seconds), self._drawn.now)
            used.append(
                self._called(once, n_done, len(answer if end.is_good else answer[: len(answer) // 3]) // 4 + 20)
            )
            if end.is_good:
                self._log.counted(used[-1], closed_at)
                self._log.answered(answer, closed_at)
            elif end.run_failed is not None:
                code, kind, detail = end.run_failed
                self._log.failed(closed_at, code=code, kind=kind, detail=detail)
            else:
                self._log.interrupted(closed_at)
            ending = self._ending(end, answer, sum(used, TokenCounts()), first_text_at)
        turn = PastTurn(
            id=_uuid(rng),
            arrival=self._arrival(),
            asked=asked,
            opened_at=opened_at,
            closed_at=closed_at,
            ending=ending,
            profile=self._profile,
            snapshot=self._drawn.snapshot(self._profile),
            conversation=self.row,
            server=self._server,
            match=match,
            parent_id=None if parent is None else parent.id,
            request_digest=digest,
            user_event_seq=user_seq,
            started_at=started_at,
            accepted_at=accepted_at,
            leaf_event_id=self._log.leaf_id,
            events=self._kept_events(),
            is_delivered=end is not None and end.is_good,
        )
        if ending is not None and ending.outcome == Turn.Outcome.ANSWERED:
            self._messages += [_said("user", question), _said("assistant", answer)]
            self._digest = histories.end_digest(digest, answer)
            self.row.good_leaf_event_id = self._log.leaf_id
        return turn

    def _kept_events(self) -> list[Any]:
        events = self._log.taken()
        if self._is_running:
            return [event for event in events if event.occurred_at is None or event.occurred_at <= self._drawn.now]
        return events if self._drawn.amounts.with_events else []

    def _step(self, did: Did, at: dt.datetime) -> dt.datetime:
        began_at = at + dt.timedelta(seconds=self._rng.lognormvariate(1.0, 0.5))
        seconds = self._rng.lognormvariate(0.6, 1.1) if isinstance(did, Ran) else self._rng.uniform(0.02, 0.2)
        ended_at = began_at + dt.timedelta(seconds=min(300.0, seconds))
        self._log.did(did, began_at, ended_at)
        return ended_at

    def _ending(self, end: endings.End, answer: str, usage: TokenCounts, first_text_at: dt.datetime) -> Ending:
        if not end.is_good:
            shown = answer[: len(answer) // 3] if end.has_begun_to_answer else ""
            return Ending(
                outcome=end.outcome,
                error=end.error,
                answer=shown,
                usage=TokenCounts() if end.costs_nothing else usage,
                first_text_at=first_text_at if shown else None,
            )
        answered = TurnAnswered(text=answer, reasoning="", finish_reason="stop", usage=usage)
        return Ending(
            outcome=Turn.Outcome.ANSWERED, answered=answered, answer=answer, usage=usage, first_text_at=first_text_at
        )

    def _read_at_once(self) -> int:
        """How much the first call of the LLM reads: its instructions and all that was said."""
        grows = sum(len(message["content"]) for message in self._messages) // 4
        return (4200 if self._profile.has_tools else 380) + grows + self._rng.randint(40, 900)

    def _called(self, once: int, call: int, written: int) -> TokenCounts:
        """Each step is a call of the LLM that reads everything before it, most of it from the provider's cache."""
        read = once + 650 * call
        cached = int(read * self._rng.uniform(0.55, 0.85)) if call or self._messages else 0
        thought = self._rng.randint(0, 150) if "gpt-5" in self._profile.llm_model else 0
        return TokenCounts(input=read, output=written + thought, cached=cached, reasoning=thought)

    # --- the request --------------------------------------------------------------------------------------------------

    def _arrival(self) -> Arrival:
        return Arrival(
            request_id=f"req_{self._rng.getrandbits(96):024x}",
            endpoint="chat.completions",
            address=f"10.20.{self._rng.randint(0, 3)}.{self._rng.randint(2, 250)}",
            client=self._spec.client,
            caller=self._caller,
            retry_count=0 if self._spec.client.startswith("OpenAI/") else None,
        )

    def _asked(self, messages: list[dict[str, Any]], *, model_id: str) -> Asked:
        body: dict[str, Any] = {"model": model_id, "messages": messages, "stream": self._spec.streams}
        if self._end_user:
            body["user"] = self._end_user
        return Asked(body=body, model_id=model_id, is_stream=self._spec.streams, end_user=self._end_user)

    def _scope(self) -> str:
        return histories.scope(
            tenant_id=self._caller.tenant_id, profile_id=self._profile.pk, system_text="", end_user=self._end_user
        ).hex()

    def _fill(self, text: str) -> str:
        return filled(text, self._words)

    def _filled(self, did: Did) -> Did:
        fill = self._fill
        if isinstance(did, Ran):
            return Ran(
                command=fill(did.command), output=fill(did.output), exit_code=did.exit_code, thought=fill(did.thought)
            )
        return Edited(path=fill(did.path), after=fill(did.after), before=fill(did.before), thought=fill(did.thought))

    # --- the row ------------------------------------------------------------------------------------------------------

    def _conversation(self, conversation_id: UUID) -> Conversation:
        return Conversation(
            id=conversation_id,
            tenant_id=self._caller.tenant_id,
            api_key_id=self._caller.api_key_id,
            profile=self._profile,
            agent_server=self._server,
            tenant_name=self._caller.tenant_name,
            profile_slug=self._profile.slug,
            server_url=self._server.url,
            end_user=self._end_user,
            working_dir=f"{self._server.workspace_root}/{self._caller.tenant_id}/{conversation_id}",
            agent_digest=self._drawn.digest(self._profile),
            state=Conversation.State.LIVE,
            created_at=self._at,
            last_turn_at=self._at,
        )

    def _settle(self, at: dt.datetime) -> None:
        """Old conversations are off their agent-servers."""
        self.row.last_turn_at = at
        self.row.cursor = self._log.next_seq - 1
        self.row.expires_at = at + dt.timedelta(hours=self._profile.conversation_idle_hours)
        if self.row.expires_at < self._drawn.now:
            self.row.state, self.row.agent_server, self.row.incarnation = Conversation.State.EXPIRED, None, 1
            self.row.cursor = -1


def _uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _heard(text: str) -> EarlierMessage:
    return EarlierMessage(index=0, role="user", parts=(TextPart(text=text),))
