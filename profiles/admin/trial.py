"""Trying things out from the admin: a page with a prompt, and what happens, line by line, as it happens.

The page posts the prompt and reads JSON lines, one object each:

    {"part": "turn", "state": "running" | "ok" | "failed" | "skipped", "note": "…"}   where a part of the trial stands
    {"part": "turn", "answer": "…"}  {"part": "turn", "step": "…"}                    pieces of text, to be appended
    {"part": "turn", "link": "/admin/…", "label": "…"}                               where to read on

Everything in them is text; the page never reads it as HTML.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from asgiref.sync import sync_to_async
from django import forms
from django.conf import settings
from django.db import close_old_connections
from django.http import StreamingHttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextareaWidget

from profiles import issuing
from profiles.models import Profile, Tenant

logger = logging.getLogger(__name__)

T = TypeVar("T")
Line = dict[str, Any]

# A trial is watched by somebody: longer turns belong to a client. The profile's own limit counts when it is shorter.
LONGEST_SECONDS = 300
MAXIMUM_PROMPT_CHARS = 10_000
TENANT = "Administrators"


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


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread and leave no database connection behind: a trial may last minutes."""

    def run() -> T:
        try:
            return work()
        finally:
            close_old_connections()

    return await sync_to_async(run, thread_sensitive=False)()


def seconds_for(profile: Profile) -> int:
    """Return how long a trial turn of this profile may take, with a margin for the profile's own limit to speak."""
    return min(profile.time_limit_seconds, LONGEST_SECONDS) + 10


@asynccontextmanager
async def short_lived_key(profile: Profile, *, username: str, seconds: int) -> AsyncIterator[tuple[Any, str]]:
    """Make a key for one trial, yield its row and its text, and revoke it. It expires by itself should we die."""

    def make() -> tuple[Any, str]:
        tenant = (
            profile.owner
            or Tenant.objects.get_or_create(
                name=TENANT, defaults={"notes": "Tests made in the admin run for this tenant."}
            )[0]
        )
        return issuing.create_key(
            tenant=tenant,
            name=f"Test by {username[:60]} {secrets.token_hex(4)}",
            profiles=[profile],
            expires_at=timezone.now() + dt.timedelta(seconds=seconds + 60),
            notes="Made for one test in the admin and revoked after it.",
        )

    row, text = await in_thread(make)
    try:
        yield row, text
    finally:
        await in_thread(lambda: issuing.revoke(row, reason="The test is over."))


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
    http = openai.DefaultAsyncHttpxClient(trust_env=not _is_loopback(settings.GATEWAY_PUBLIC_URL))
    async with openai.AsyncOpenAI(
        base_url=f"{settings.GATEWAY_PUBLIC_URL}/v1",
        api_key=key_text,
        max_retries=0,
        timeout=seconds,
        http_client=http,
    ) as client:
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
            yield _turn_link(raw.headers.get("x-request-id", ""))
            chunks = aiter(raw.parse())
            note = ""
            while (chunk := await asyncio.wait_for(anext(chunks, None), _left(deadline))) is not None:
                if chunk.usage is not None:
                    usage = chunk.usage
                    note = f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
                for line in _pieces(chunk):
                    yield line
        except openai.APIStatusError as error:
            yield _turn_link(error.response.headers.get("x-request-id", ""))
            yield _failed(f"The gateway answered {error.status_code}: {error.message}")
        except openai.APIConnectionError as error:
            yield _failed(
                f"{settings.GATEWAY_PUBLIC_URL} could not be reached from the gateway itself "
                f"({error.__cause__ or error}). GATEWAY_PUBLIC_URL must be one under which it reaches itself."
            )
        except openai.APIError as error:
            yield _failed(f"The stream ended with an error: {error.message}")
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


def _turn_link(request_id: str) -> Line:
    if not request_id:
        return {"part": "turn"}
    url = reverse("admin:chatgateway_turn_by_request", args=[request_id])
    return {"part": "turn", "link": url, "label": "Open the turn"}


def _failed(note: str) -> Line:
    return {"part": "turn", "state": "failed", "note": note}


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _is_loopback(url: str) -> bool:
    """Whether a proxy from the environment would be in the way: it would look for the address on its own host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
