"""Whether a profile does all that callers may expect of it: each ability is tried through this gateway's own /v1.

What is tried is asked of the agent's LLM in earnest, so it costs what a few short turns cost. Each check ends as ok,
failed with a reason, or skipped with one: a profile without tools has nothing wrong with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from profiles import self_calls
from profiles.models import Profile

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONVERSATION_HEADER = "X-OpenHands-ServerConversation-ID"
# Names whose history is resent: with tools, a history alone does not say who asks.
END_USER = "gateway-doctor"

_GREETING = "This is a check of a connection. Answer with one short sentence and use no tools."
_STREAMED = "This is another check. Name three colours in one short sentence and use no tools."
_AGAIN = "And once more, please: one short sentence, no tools."
_STEP_PROMPTS = {
    "terminal": "Run the command `echo gateway-doctor` in the terminal, then say what it printed.",
    "file_editor": "Create the file gateway-doctor.txt in your working directory with the word hello, then say so.",
}
_STEP_LINES = {"terminal": ("Running: ",), "file_editor": ("Creating ", "Editing ", "Reading ")}
# A red square of 32 by 32 pixels.
_PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKklEQVR42mO4oKBAU8QwasGoBaMWjFow"
    "asGoBaMWjFowasGoBaMWDBULAE7YQD2B7wk2AAAAAElFTkSuQmCC"
)
_SUM_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "sum",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"sum": {"type": "integer"}},
            "required": ["sum"],
            "additionalProperties": False,
        },
    },
}

State = Literal["running", "ok", "failed", "skipped"]


class _Failed(Exception):
    """The ability is not there; the text says what was seen instead."""


class _Skipped(Exception):
    """There is nothing to try; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Where a check stands. `request_id` leads to its turn, once there is one."""

    check: str
    state: State
    note: str = ""
    request_id: str = ""
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Visit:
    """One examination: the client, and what earlier checks found out for later ones."""

    client: AsyncOpenAI
    profile: Profile
    request_id: str = ""
    conversation: str = ""
    streamed_conversation: str = ""
    streamed_answer: str = ""
    passed: set[str] = field(default_factory=set)

    async def ask(self, messages: Any, *, conversation: str = "", **options: Any) -> tuple[Any, Any]:
        """Make one call; return the reply and its headers, and remember its request id."""
        headers = {CONVERSATION_HEADER: conversation} if conversation else {}
        raw = await self.client.chat.completions.with_raw_response.create(
            model=self.profile.model_id, messages=messages, user=END_USER, extra_headers=headers, **options
        )
        self.request_id = raw.headers.get("x-request-id", "")
        return raw.parse(), raw.headers


# --- the checks -----------------------------------------------------------------------------------------------------


async def _listed(visit: _Visit) -> str:
    names = [model.id async for model in visit.client.models.list()]
    if visit.profile.model_id in names:
        return f"GET /v1/models has {visit.profile.model_id}."
    if not visit.profile.is_enabled:
        raise _Failed("The profile is disabled: callers get “not found”.")
    raise _Failed(f"GET /v1/models does not have {visit.profile.model_id}.")


async def _chat(visit: _Visit) -> str:
    reply, headers = await visit.ask([_said(_GREETING)])
    text = _text_of(reply)
    if reply.usage is None or not reply.usage.total_tokens:
        raise _Failed("The reply says nothing about tokens.")
    visit.conversation = headers.get(CONVERSATION_HEADER, "")
    return f"“{_short(text)}”, {reply.usage.prompt_tokens:,} tokens in, {reply.usage.completion_tokens:,} out."


async def _stream(visit: _Visit) -> str:
    began = time.monotonic()
    stream, headers = await visit.ask([_said(_STREAMED)], stream=True, stream_options={"include_usage": True})
    pieces: list[str] = []
    first_text, finish_reason, has_usage = 0.0, "", False
    async for chunk in stream:
        has_usage = has_usage or chunk.usage is not None
        for choice in chunk.choices:
            finish_reason = choice.finish_reason or finish_reason
            if choice.delta.content:
                first_text = first_text or time.monotonic() - began
                pieces.append(choice.delta.content)
    if not "".join(pieces).strip():
        raise _Failed("The stream ended without a word.")
    if not finish_reason or not has_usage:
        raise _Failed("The stream broke off: it has no finish reason, or says nothing about tokens.")
    visit.streamed_conversation = headers.get(CONVERSATION_HEADER, "")
    visit.streamed_answer = "".join(pieces)
    return f"The first text came after {first_text:.1f} s, in {len(pieces)} pieces."


async def _reuse(visit: _Visit) -> str:
    reply, headers = await visit.ask([_said(_AGAIN)], conversation=visit.conversation)
    _text_of(reply)
    return _same_conversation(visit.conversation, headers)


async def _history(visit: _Visit) -> str:
    if not visit.profile.continues_by_history:
        raise _Skipped("“Continue by history” is off: such requests get a new agent that is told the history.")
    answered = {"role": "assistant", "content": visit.streamed_answer}
    reply, headers = await visit.ask([_said(_STREAMED), answered, _said(_AGAIN)])
    _text_of(reply)
    return _same_conversation(visit.streamed_conversation, headers)


async def _tool_step(visit: _Visit) -> str:
    profile = visit.profile
    if not profile.has_tools:
        raise _Skipped("The profile has no tools: its agent only answers.")
    tool = next((name for name in _STEP_PROMPTS if name in profile.tools), None)
    if tool is None:
        raise _Skipped("Tried with the terminal or the file editor only, and the profile has neither.")
    if profile.activity == Profile.Activity.HIDDEN:
        raise _Skipped("The profile does not show steps to callers, so none can be seen from here.")
    reply, _ = await visit.ask([_said(_STEP_PROMPTS[tool])])
    _text_of(reply)
    told = str((reply.choices[0].message.model_extra or {}).get("reasoning_content") or "")
    step = next((line for line in told.splitlines() if line.startswith(_STEP_LINES[tool])), None)
    if step is None:
        raise _Failed(f"The agent was asked to use {tool} and answered without a step of it.")
    return f"The agent did: {_short(step)}"


async def _image(visit: _Visit) -> str:
    if not visit.profile.sees_images:
        why = (
            "says no" if visit.profile.accepts_images is False else "unknown, and LiteLLM's catalogue does not say yes"
        )
        raise _Skipped(f"The profile takes no images (“Accepts images”: {why}).")
    question = {"type": "text", "text": "Which colour is this square? Answer with one word and use no tools."}
    picture = {"type": "image_url", "image_url": {"url": _PICTURE}}
    reply, _ = await visit.ask([{"role": "user", "content": [question, picture]}])
    return f"Of a red square it said: “{_short(_text_of(reply))}”."


async def _json_output(visit: _Visit) -> str:
    if visit.profile.is_demo:
        raise _Skipped("The demo LLM writes sentences only.")
    reply, _ = await visit.ask([_said("How much is 2 and 3? Use no tools.")], response_format=_SUM_FORMAT)
    text = _text_of(reply)
    try:
        found = json.loads(text)
    except ValueError:
        raise _Failed(f"Asked for JSON, it answered: “{_short(text)}”.") from None
    if not isinstance(found, dict) or not isinstance(found.get("sum"), int):
        raise _Failed(f"The JSON is not of the schema that was asked for: {_short(text)}.")
    return f"As the schema asks: {_short(text)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One ability. `needs` are those without which it cannot be tried."""

    name: str
    title: str
    run: Callable[[_Visit], Awaitable[str]]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check(name="listed", title="Listed as a model", run=_listed),
    Check(name="chat", title="Answers, collected", run=_chat, needs=("listed",)),
    Check(name="stream", title="Answers, streamed", run=_stream, needs=("listed",)),
    Check(name="reuse", title="Goes on by conversation id", run=_reuse, needs=("chat",)),
    Check(name="history", title="Goes on by resent history", run=_history, needs=("stream",)),
    Check(name="tools", title="Uses a tool", run=_tool_step, needs=("chat",)),
    Check(name="image", title="Sees an image", run=_image, needs=("chat",)),
    Check(name="json", title="Writes JSON by a schema", run=_json_output, needs=("chat",)),
)
NAMES = tuple(check.name for check in CHECKS)
_BY_NAME = {check.name: check for check in CHECKS}


def with_needs(names: Collection[str]) -> set[str]:
    """Return the checks of those names and the ones they need."""
    wanted = set(names)
    for check in reversed(CHECKS):  # what is needed stands before what needs it
        if check.name in wanted:
            wanted.update(check.needs)
    return wanted


async def examine(profile: Profile, *, asked_by: str, only: Collection[str] = NAMES) -> AsyncGenerator[Result]:
    """Try the profile; yield each check twice, as it begins and as it ended. The key it uses is revoked at the end."""
    seconds = self_calls.seconds_for(profile)
    checks = [check for check in CHECKS if check.name in with_needs(only)]
    key = self_calls.short_lived_key(profile, purpose=f"Doctor for {asked_by}", seconds=seconds * len(checks))
    async with key as (_, key_text), self_calls.client(key_text, seconds=seconds) as client:
        visit = _Visit(client=client, profile=profile)
        for check in checks:
            missing = next((name for name in check.needs if name not in visit.passed), None)
            if missing is not None:
                note = f"Not tried: “{_BY_NAME[missing].title}” has to work first."
                yield Result(check=check.name, state="skipped", note=note)
                continue
            yield Result(check=check.name, state="running")
            yield await _tried(check, visit, seconds)


async def _tried(check: Check, visit: _Visit, seconds: float) -> Result:
    import openai

    began = time.monotonic()
    visit.request_id = ""
    state: State = "failed"
    try:
        async with asyncio.timeout(seconds):
            note = await check.run(visit)
        state = "ok"
        visit.passed.add(check.name)
    except _Skipped as reason:
        state, note = "skipped", str(reason)
    except _Failed as reason:
        note = str(reason)
    except openai.APIError as error:
        visit.request_id = self_calls.request_id_of(error) or visit.request_id
        note = self_calls.explained(error)
    except TimeoutError:
        note = f"No end after {seconds} s."
    return Result(
        check=check.name, state=state, note=note, request_id=visit.request_id, seconds=time.monotonic() - began
    )


# --- reading replies ------------------------------------------------------------------------------------------------


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _text_of(reply: Any) -> str:
    text = str(reply.choices[0].message.content or "")
    if not text.strip():
        raise _Failed("The reply has no text.")
    return text


def _same_conversation(expected: str, headers: Any) -> str:
    found, match = headers.get(CONVERSATION_HEADER, ""), headers.get("x-gateway-conversation-match", "")
    if not expected or found != expected:
        raise _Failed(f"The request went to another conversation (match: {match or 'none'}): a new agent answered.")
    return "The same agent answered."


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
