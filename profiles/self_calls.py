"""Calling this gateway's own /v1 as any caller would: over HTTP, with the stock client and a key that soon ends."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone

from profiles import issuing
from profiles.models import ApiKey, Profile, Tenant

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

T = TypeVar("T")

# A trial is watched by somebody: longer turns belong to a client. The profile's own limit counts when it is shorter.
LONGEST_SECONDS = 300
TENANT = "Administrators"


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
async def short_lived_key(profile: Profile, *, purpose: str, seconds: int) -> AsyncIterator[tuple[ApiKey, str]]:
    """Make a key for one trial, yield its row and its text, and revoke it. It expires by itself should we die."""

    def make() -> tuple[ApiKey, str]:
        tenant = (
            profile.owner
            or Tenant.objects.get_or_create(
                name=TENANT, defaults={"notes": "Tests made in the admin and by the doctor run for this tenant."}
            )[0]
        )
        return issuing.create_key(
            tenant=tenant,
            name=f"{purpose[:80]} {secrets.token_hex(4)}",
            profiles=[profile],
            expires_at=timezone.now() + dt.timedelta(seconds=seconds + 60),
            notes="Made for one test and revoked after it.",
        )

    row, text = await in_thread(make)
    try:
        yield row, text
    finally:
        await in_thread(lambda: issuing.revoke(row, reason="The test is over."))


def client(key_text: str, *, seconds: float) -> AsyncOpenAI:
    """Return the stock client at this gateway's own address, without retries."""
    import openai  # 1 s and 58 MB, which only a process that runs a trial pays

    return openai.AsyncOpenAI(
        base_url=f"{settings.GATEWAY_PUBLIC_URL}/v1",
        api_key=key_text,
        max_retries=0,
        timeout=seconds,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=not _is_loopback(settings.GATEWAY_PUBLIC_URL)),
    )


def explained(error: APIError) -> str:
    """Say what a call met, in words for whoever runs the gateway."""
    import openai

    match error:
        case openai.APIStatusError():
            told = error.body if isinstance(error.body, dict) else {}
            code, message = told.get("code") or "", told.get("message") or error.message
            return f"The gateway answered {error.status_code}{f' {code}' if code else ''}: {message}"
        case openai.APITimeoutError():
            return "The gateway did not answer in time."
        case openai.APIConnectionError():
            return (
                f"{settings.GATEWAY_PUBLIC_URL} could not be reached from the gateway itself "
                f"({error.__cause__ or error}). GATEWAY_PUBLIC_URL must be one under which it reaches itself."
            )
        case _:
            return f"The stream ended with an error: {error.message}"


def request_id_of(error: APIError) -> str:
    """Return the id under which the gateway knows the failed call; empty if it never got there."""
    response = getattr(error, "response", None)
    return response.headers.get("x-request-id", "") if response is not None else ""


def _is_loopback(url: str) -> bool:
    """Whether a proxy from the environment would be in the way: it would look for the address on its own host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
