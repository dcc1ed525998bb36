"""Answers the requests that chat UIs send by themselves, without an agent: by an LLM alone, else by a template.

A housekeeping call is a turn like any other: opened before anything costs money, with a lease, joined by its repeats,
closed with its tokens and their price. It has no conversation and no place on an agent-server, and waits for neither.
It always gets an answer: what cannot be had of the LLM in time comes from a template, because a chat UI shows an error
there to somebody who asked for nothing. The record says which it was, and why.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

from django.conf import settings
from django.utils import timezone

from chatgateway import audit, ceilings, metrics, servers
from chatgateway.audit import Arrival, Asked
from chatgateway.errors import GatewayError, InternalError, TurnCancelled
from chatgateway.live import LiveTurn
from chatgateway.models import Turn
from chatgateway.openai_api import housekeeping as prompts
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.error_body import to_failed
from chatgateway.stored_reply import request_of
from chatgateway.turn_events import TokenCounts, TurnAnswered
from chatgateway.writer import writer
from profiles import llm_client
from profiles.exceptions import LlmCallFailed, LlmProcessDown
from profiles.model_facts import Completion
from profiles.models import Profile

logger = logging.getLogger(__name__)

# Of a call whose end nobody saw: what was sent, at about four characters to a token.
CHARS_PER_TOKEN = 4
# The limit that counts is that of the LLM call; the turn's own only has to be later.
GRACE_SECONDS = 10.0


def task_of(chat: ChatRequest, profile: Profile) -> prompts.Task | None:
    """Return the task if the request is a housekeeping call and the profile answers those; None for an agent's."""
    return prompts.recognise(chat) if profile.answers_housekeeping else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """A housekeeping call to be answered. `is_taken_over`: another process may have asked the LLM already."""

    turn: Turn
    profile: Profile
    chat: ChatRequest
    task: prompts.Task
    is_taken_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """`why` says why it is a template."""

    text: str
    by: Turn.AnsweredBy
    finish_reason: Literal["stop", "length"] = "stop"
    usage: TokenCounts = field(default_factory=TokenCounts)
    is_usage_estimated: bool = False
    why: str = ""


def open_turn(
    *, arrival: Arrival, asked: Asked, profile: Profile, task: prompts.Task, lease_owner: str
) -> tuple[Turn, dict[str, str]]:
    """Write the turn of a housekeeping call, and return it with headers that say what is left of the caller's ceilings.

    Inside the transaction that looks for what it repeats. Raises what `ceilings.admit` raises.
    """
    servers.lock()  # nobody else opens a turn meanwhile
    admission = ceilings.admit(arrival.caller, profile, is_housekeeping=True)
    seconds = settings.GATEWAY_HOUSEKEEPING_SECONDS + GRACE_SECONDS
    turn = audit.open_housekeeping(
        arrival=arrival,
        asked=asked,
        profile=profile,
        task=task,
        lease_owner=lease_owner,
        deadline_at=timezone.now() + dt.timedelta(seconds=seconds),
        held_usd=admission.held_usd,
    )
    return turn, admission.headers


def taken_over(turn: Turn, profile: Profile) -> Chore:
    """Return what is left to do of a call whose process died. Queries."""
    task = cast("prompts.Task", turn.housekeeping_task)
    return Chore(turn=turn, profile=profile, chat=request_of(turn, profile), task=task, is_taken_over=True)


class Housekeeper:
    """Brings one housekeeping call to its end. `drive` raises nothing but cancellation: the process shuts down, and the
    turn is left to whoever takes over its lease. `follow(live, shown)` looks after those who wait here when another
    process takes the turn over."""

    def __init__(self, chore: Chore, live: LiveTurn, *, follow: Callable[[LiveTurn, str], None]) -> None:
        self._chore = chore
        self._live = live
        self._follow_on = follow

    async def drive(self) -> None:
        self._live.accepted.set()
        asking = asyncio.create_task(self._answer())
        cancelled = asyncio.Event()
        cancel = asyncio.create_task(cancelled.wait())
        self._live.when_cancelled(lambda _: cancelled.set())
        try:
            await asyncio.wait({asking, cancel}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                await self._close(_answered(asking.result()))
            else:
                await self._close(self._cancelled())
        except audit.TurnLost:
            logger.warning("turn %s is driven by another process now", self._chore.turn.pk)
            self._follow_on(self._live, "")
        except Exception as error:
            # The outer edge of a turn: whoever waits for it is answered, whatever is wrong with its record.
            logger.exception("turn %s could not be closed", self._chore.turn.pk)
            failure = InternalError("The gateway failed. Its log has the details.", detail=repr(error))
            self._live.publish([to_failed(failure)])
        finally:
            self._live.when_cancelled(None)
            cancel.cancel()
            asking.cancel()
            await asyncio.gather(asking, cancel, return_exceptions=True)

    async def _answer(self) -> _Answer:
        profile = self._chore.profile
        if self._chore.is_taken_over:
            return self._template("another process asked the LLM, or was about to", usage=self._estimate())
        if profile.is_demo:
            return self._template("the profile is the demo")
        seconds = settings.GATEWAY_HOUSEKEEPING_SECONDS
        try:
            async with asyncio.timeout(seconds):
                completion = await self._ask(seconds + 1)  # the limit that is met first is this one
        except TimeoutError:
            return self._template(f"no answer within {seconds:g} s", usage=self._estimate())
        except LlmCallFailed as error:
            return self._template(f"{error.kind}: {error.message}")
        except LlmProcessDown as error:
            return self._template(str(error))
        usage = TokenCounts(
            input=completion.input_tokens,
            output=completion.output_tokens,
            cached=completion.cached_tokens,
            cache_write=completion.cache_write_tokens,
            reasoning=completion.reasoning_tokens,
        )
        if not completion.text.strip():
            return self._template("the LLM's answer was empty", usage=usage, is_usage_estimated=False)
        by = Turn.AnsweredBy.UTILITY_LLM if profile.utility_llm_model else Turn.AnsweredBy.LLM
        finish: Literal["stop", "length"] = "length" if completion.finish_reason == "length" else "stop"
        return _Answer(text=completion.text, by=by, finish_reason=finish, usage=usage)

    async def _ask(self, seconds: float) -> Completion:
        profile, chat = self._chore.profile, self._chore.chat
        limits = (prompts.output_limit(chat), profile.max_output_tokens)
        return await llm_client.complete(
            model=profile.utility_llm_model or profile.llm_model,
            api_key=profile.llm_api_key.reveal(),
            base_url=profile.llm_base_url,
            messages=prompts.messages_for(chat.transcript),
            max_output_tokens=min(limit for limit in limits if limit),
            timeout_seconds=seconds,
            response_format=prompts.response_format(chat),
        )

    def _template(self, why: str, *, usage: TokenCounts | None = None, is_usage_estimated: bool = True) -> _Answer:
        logger.info("turn %s is answered from a template: %s", self._chore.turn.pk, why)
        return _Answer(
            text=prompts.template(self._chore.task, self._chore.chat),
            by=Turn.AnsweredBy.TEMPLATE,
            usage=usage or TokenCounts(),
            is_usage_estimated=usage is not None and is_usage_estimated,
            why=why,
        )

    def _estimate(self) -> TokenCounts:
        """Of a call that was begun and whose end is not known: the provider bills what it read all the same."""
        sent = sum(len(message["content"]) for message in prompts.messages_for(self._chore.chat.transcript))
        return TokenCounts(input=max(1, sent // CHARS_PER_TOKEN))

    def _cancelled(self) -> audit.Ending:
        reason = self._chore.turn.cancel_reason = self._live.cancel_reason
        error = TurnCancelled("The request was cancelled.", detail=f"stopped by: {reason}")
        return audit.Ending(
            outcome=Turn.Outcome.CANCELLED, error=error, usage=self._estimate(), is_usage_estimated=True
        )

    async def _close(self, ending: audit.Ending) -> None:
        """Commit the end, then tell it."""
        turn = self._chore.turn
        await writer.run_patiently(lambda: audit.close_turn(turn, ending))
        metrics.turn_closed(turn)
        assert ending.answered is not None or ending.error is not None
        self._live.publish([ending.answered or to_failed(cast("GatewayError", ending.error))])


def _answered(answer: _Answer) -> audit.Ending:
    answered = TurnAnswered(
        text=answer.text,
        reasoning="",
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        is_usage_estimated=answer.is_usage_estimated,
    )
    return audit.Ending(
        outcome=Turn.Outcome.ANSWERED,
        answered=answered,
        answer=answer.text,
        usage=answer.usage,
        is_usage_estimated=answer.is_usage_estimated,
        answered_by=answer.by,
        detail=answer.why,
    )
