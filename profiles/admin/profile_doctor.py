"""*Doctor* on a profile: a table of what it can do, filled in while it is tried."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse

from profiles import doctor
from profiles.admin import trial
from profiles.admin.trial import Line
from profiles.admin_theme import duration
from profiles.models import Profile


def doctor_page(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponseBase:
    """Show the page, or examine the profile and stream what is found."""
    profile: Profile | None = model_admin.get_object(request, unquote(object_id))
    if profile is None:
        raise Http404
    if not request.user.has_perm("profiles.try_profile"):
        raise PermissionDenied
    if request.method == "POST":
        return trial.stream(_lines(profile, request.user.get_username()))
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"Doctor for {profile.model_id}",
        "opts": model_admin.opts,
        "tested": profile,
        "checks": doctor.CHECKS,
        "warning": f"About {len(doctor.CHECKS) - 1} short turns are run, which cost what turns cost."
        + (
            " The agent has tools and acts without asking: it is told to run one harmless command or to make one file."
            if profile.has_tools
            else ""
        ),
    }
    return TemplateResponse(request, "profiles/admin/doctor.html", context)


async def _lines(profile: Profile, username: str) -> AsyncIterator[Line]:
    async with aclosing(doctor.examine(profile, asked_by=username)) as results:
        async for result in results:
            if result.request_id:
                yield trial.turn_link(result.check, result.request_id)
            took = f" ({duration(result.seconds)})" if result.state in {"ok", "failed"} else ""
            yield {"part": result.check, "state": result.state, "note": result.note + took if result.note else ""}
