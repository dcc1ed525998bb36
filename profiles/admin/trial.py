"""Trying things out from the admin: a page with a prompt, and what happens, line by line, as it happens.

The page posts the prompt and reads JSON lines, one object each:

    {"part": "turn", "state": "running" | "ok" | "failed" | "skipped", "note": "…"}   where a part of the trial stands
    {"part": "turn", "answer": "…"}  {"part": "turn", "step": "…"}                    pieces of text, to be appended
    {"part": "turn", "link": "/admin/…", "label": "…"}                               where to read on

Everything in them is text; the page never reads it as HTML.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from django import forms
from django.http import StreamingHttpResponse
from django.urls import reverse
from unfold.widgets import UnfoldAdminTextareaWidget

from profiles import self_calls

Line = dict[str, Any]

MAXIMUM_PROMPT_CHARS = 10_000


class PromptForm(forms.Form):
    prompt = forms.CharField(
        max_length=MAXIMUM_PROMPT_CHARS,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        initial="Say hello in one short sentence.",
        help_text="Sent as it stands, as a caller would send it.",
    )


def stream(lines: AsyncIterator[Line]) -> StreamingHttpResponse:
    """Return a response that sends each line as soon as there is one."""

    async def encoded() -> AsyncIterator[bytes]:
        async for line in lines:
            yield json.dumps(line).encode() + b"\n"

    response = StreamingHttpResponse(encoded(), content_type="application/x-ndjson")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def whole_turn(
    *, model_id: str, prompt: str, key_text: str, seconds: int, headers: dict[str, str] | None = None
) -> AsyncIterator[Line]:
    """Ask this gateway's own /v1 with the stock client, as any caller would, and tell what comes back.

    The last line has `state`, ok or failed; one before it links to the turn, once its request id is known.
    """
    import openai  # 1 s and 58 MB, which only a process that runs a trial pays

    deadline = time.monotonic() + seconds
    started = time.monotonic()
    yield {"part": "turn", "state": "running"}
    async with self_calls.client(key_text, seconds=seconds) as client:
        try:
            raw = await asyncio.wait_for(
                client.chat.completions.with_raw_response.create(
                    model=model_id,
                    messages=[{"role": "user", "content": prompt}],
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_headers=headers or {},
                ),
                _left(deadline),
            )
            yield turn_link("turn", raw.headers.get("x-request-id", ""))
            chunks = aiter(raw.parse())
            note = ""
            while (chunk := await asyncio.wait_for(anext(chunks, None), _left(deadline))) is not None:
                if chunk.usage is not None:
                    usage = chunk.usage
                    note = f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
                for line in _pieces(chunk):
                    yield line
        except openai.APIError as error:
            if request_id := self_calls.request_id_of(error):
                yield turn_link("turn", request_id)
            yield _failed(self_calls.explained(error))
        except TimeoutError:
            yield _failed(f"No end after {seconds} s. The turn's page says how far it got.")
        else:
            yield {
                "part": "turn",
                "state": "ok",
                "note": ", ".join(filter(None, [f"{time.monotonic() - started:.1f} s", note])),
            }


def _pieces(chunk: Any) -> list[Line]:
    lines: list[Line] = []
    for choice in chunk.choices:
        if reasoning := (choice.delta.model_extra or {}).get("reasoning_content"):
            lines.append({"part": "turn", "step": reasoning})
        if choice.delta.content:
            lines.append({"part": "turn", "answer": choice.delta.content})
    return lines


def turn_link(part: str, request_id: str) -> Line:
    if not request_id:
        return {"part": part}
    url = reverse("admin:chatgateway_turn_by_request", args=[request_id])
    return {"part": part, "link": url, "label": "Open the turn"}


def _failed(note: str) -> Line:
    return {"part": "turn", "state": "failed", "note": note}


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
