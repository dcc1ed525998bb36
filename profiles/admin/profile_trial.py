"""*Test* on a profile: one plain LLM call, then a whole turn as a caller would have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse

from profiles import llm_client, self_calls
from profiles.admin import trial
from profiles.admin.trial import Line, PromptForm
from profiles.exceptions import LlmCallFailed, LlmProcessDown
from profiles.models import Profile

LLM_SECONDS = 60.0

_PARTS = [
    {"id": "llm", "title": "1. The LLM alone", "about": "One plain call through LiteLLM, without agent or tools."},
    {
        "id": "turn",
        "title": "2. A whole turn",
        "about": "The openai client asks this gateway's own /v1 for this profile, streamed, with a key that is revoked "
        "right after.",
    },
]


def trial_page(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponseBase:
    """Show the page, or run the trial and stream its lines."""
    profile: Profile | None = model_admin.get_object(request, unquote(object_id))
    if profile is None:
        raise Http404
    if not request.user.has_perm("profiles.try_profile"):
        raise PermissionDenied
    if request.method != "POST":
        return _page(model_admin, request, profile)
    form = PromptForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"part": "llm", "state": "failed", "note": form.errors["prompt"][0]}, status=400)
    return trial.stream(_lines(profile, form.cleaned_data["prompt"], username=request.user.get_username()))


def _page(model_admin: Any, request: HttpRequest, profile: Profile) -> TemplateResponse:
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"Test {profile.model_id}",
        "opts": model_admin.opts,
        "tested": profile,
        "form": PromptForm(),
        "parts": _PARTS,
        "warning": "Both parts call the LLM, which may cost money. "
        + (
            f"The agent has tools ({', '.join(profile.tools)}) and acts without asking: what you ask for is done."
            if profile.has_tools
            else "The profile has no tools: its agent can only answer."
        ),
        "seconds": self_calls.seconds_for(profile),
    }
    return TemplateResponse(request, "profiles/admin/trial.html", context)


async def _lines(profile: Profile, prompt: str, *, username: str) -> AsyncIterator[Line]:
    llm_answers = True
    async for line in _llm_call(profile, prompt):
        llm_answers = llm_answers and line.get("state") != "failed"
        yield line
    if not llm_answers:
        yield {"part": "turn", "state": "skipped", "note": "Not run: the LLM has to answer first."}
        return
    if not profile.is_enabled:
        yield {"part": "turn", "state": "skipped", "note": "Not run: the profile is disabled, callers get “not found”."}
        return
    seconds = self_calls.seconds_for(profile)
    async with self_calls.short_lived_key(profile, purpose=f"Test by {username}", seconds=seconds) as (_, key_text):
        async for line in trial.whole_turn(
            model_id=profile.model_id, prompt=prompt, key_text=key_text, seconds=seconds
        ):
            yield line


async def _llm_call(profile: Profile, prompt: str) -> AsyncIterator[Line]:
    yield {"part": "llm", "state": "running"}
    try:
        answer = await llm_client.complete(
            model=profile.llm_model,
            api_key=profile.llm_api_key.reveal(),
            base_url=profile.llm_base_url,
            messages=[{"role": "user", "content": prompt}],
            max_output_tokens=profile.max_output_tokens,
            timeout_seconds=LLM_SECONDS,
        )
    except LlmCallFailed as error:
        yield {"part": "llm", "state": "failed", "note": f"{error.kind}: {error.message}"}
    except LlmProcessDown as error:
        # Not the profile's fault, and no reason not to run the turn.
        yield {"part": "llm", "state": "skipped", "note": f"Not made: {error}"}
    else:
        yield {"part": "llm", "answer": answer.text}
        note = f"{answer.seconds:.1f} s, {answer.input_tokens:,} tokens in, {answer.output_tokens:,} out"
        yield {"part": "llm", "state": "ok", "note": note}
