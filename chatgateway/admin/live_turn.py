"""A turn as it goes on, for the pages of the admin that show it: one connection of server-sent events per turn.

It is read from the database, since the turn may be driven by another process. Before anything is sent the person's
login is read anew: whoever signs out, is switched off or loses the permission sees no step more.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone

from chatgateway import drivers, readings
from chatgateway.admin import viewer
from chatgateway.admin.turn_parts import step_html, steps_of
from chatgateway.models import Turn
from profiles.self_calls import in_thread

# Events are written within a second of their coming; with this a step shows within two.
LOOK_SECONDS = 0.5
# A login that ended is noticed this soon even when nothing happens.
LOGIN_SECONDS = 5.0
PING_SECONDS = 15.0
# The browser comes again by itself; what a process keeps for a forgotten window ends.
LONGEST_SECONDS = 3600.0
# Each looks into the database twice a second.
MAXIMUM_WATCHERS = 100

_watchers = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What there is to send: `steps` that are new or have changed, by their place."""

    steps: dict[int, str] = field(default_factory=dict)
    phase: str = ""
    is_being_stopped: bool = False
    is_over: bool = False
    is_signed_out: bool = False


def stream(request: HttpRequest, turn: Turn) -> HttpResponseBase:
    """Send the steps of a turn as they come, until it ends. Steps are sent to those only who may read them."""
    if _watchers >= MAXIMUM_WATCHERS:
        return HttpResponse(f"{MAXIMUM_WATCHERS} turns are being watched already.", status=503)
    if readings.may_read(request):
        readings.note(request, readings.What.TURN, turn=turn)
    watcher = _Watcher(session_key=request.session.session_key or "", turn_id=turn.pk, zone=viewer.zone_of(request))
    response = StreamingHttpResponse(_sent(watcher), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _sent(watcher: _Watcher) -> AsyncIterator[bytes]:
    global _watchers  # noqa: PLW0603  one event loop per process; counted where it begins and ends
    _watchers += 1
    try:
        async for event in _events(watcher):
            yield event
    finally:
        _watchers -= 1


async def _events(watcher: _Watcher) -> AsyncIterator[bytes]:
    began_at = sent_at = time.monotonic()
    state: dict[str, Any] = {}
    while time.monotonic() - began_at < LONGEST_SECONDS and not drivers.current().is_draining:
        look = await in_thread(watcher.look)
        told = {"phase": look.phase, "stopping": look.is_being_stopped}
        pieces = []
        if look.is_signed_out:
            yield _event("signed-out", {})
            return
        if told != state:
            state = told
            pieces.append(_event("state", told))
        pieces += [_event("step", {"at": at, "html": html}) for at, html in look.steps.items()]
        if look.is_over:
            pieces.append(_event("end", {}))
        elif not pieces and time.monotonic() - sent_at >= PING_SECONDS:
            pieces.append(b": still there\n\n")
        if pieces:
            sent_at = time.monotonic()
            yield b"".join(pieces)
        if look.is_over:
            return
        await asyncio.sleep(LOOK_SECONDS)


class _Watcher:
    """One person at one turn. `look` queries, in any thread, one call at a time."""

    def __init__(self, *, session_key: str, turn_id: UUID, zone: ZoneInfo | None) -> None:
        self._zone = zone
        self._session_key = session_key
        self._turn_id = turn_id
        self._steps: list[str] = []
        self._last_seq: int | None = None
        self._looked_at_login = 0.0
        self._may_read = False

    def look(self) -> _Look:
        turn = Turn.objects.filter(pk=self._turn_id).first()
        if turn is None:
            return _Look(is_over=True)
        last_seq = turn.events.order_by("-seq").values_list("seq", flat=True).first()
        has_more = last_seq != self._last_seq
        if has_more or time.monotonic() - self._looked_at_login > LOGIN_SECONDS:
            if not self._is_signed_in():
                return _Look(is_signed_out=True)
            self._looked_at_login = time.monotonic()
        changed: dict[int, str] = {}
        if has_more and self._may_read:
            changed = self._changed(turn)
        self._last_seq = last_seq
        is_over = turn.outcome != Turn.Outcome.OPEN
        return _Look(
            steps=changed,
            phase=turn.get_phase_display(),
            is_being_stopped=turn.cancel_requested_at is not None,
            is_over=is_over,
        )

    def _changed(self, turn: Turn) -> dict[int, str]:
        with timezone.override(self._zone):
            now = [step_html(step) for step in steps_of(turn).steps]
        before, self._steps = self._steps, now
        return {at: html for at, html in enumerate(now) if at >= len(before) or before[at] != html}

    def _is_signed_in(self) -> bool:
        """Whether the login still holds and still lets the person see the turn; notes whether texts too."""
        request = HttpRequest()
        request.session = import_module(settings.SESSION_ENGINE).SessionStore(self._session_key)
        request.user = user = auth.get_user(request)
        self._may_read = readings.may_read(request)
        return user.is_active and user.has_perm("chatgateway.view_turn")


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
