"""*Test* on an agent-server: what it says of itself, then one turn that runs there and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from django import forms
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminSelectWidget

from chatgateway import conversations, servers
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import AgentServerError, Rejected, TooOld, Unauthorized, Unreachable
from chatgateway.agentserver.schemas import ServerInfo
from chatgateway.models import AgentServer
from profiles import self_calls
from profiles.admin import trial
from profiles.admin.trial import Line, PromptForm
from profiles.admin_theme import duration
from profiles.models import Profile

INFO_SECONDS = 10.0
CONVERSATION_HEADER = "X-OpenHands-ServerConversation-ID"

_PARTS = [
    {"id": "info", "title": "1. The server itself", "about": "Its address, its version, and whether it takes our key."},
    {
        "id": "turn",
        "title": "2. A whole turn on it",
        "about": "The openai client asks this gateway's own /v1, streamed, in a new conversation that is bound to this "
        "server.",
    },
]


class ServerTrialForm(PromptForm):
    profile = forms.ModelChoiceField(
        queryset=Profile.objects.none(),
        required=False,
        empty_label="none: only ask the server about itself",
        widget=UnfoldAdminSelectWidget,
        help_text="Which agent to run. Its LLM is called, which may cost money.",
    )
    field_order = ("profile", "prompt")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["profile"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = Profile.objects.usable().order_by("slug")


def trial_page(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponseBase:
    """Show the page, or run the trial and stream its lines."""
    server: AgentServer | None = model_admin.get_object(request, unquote(object_id))
    if server is None:
        raise Http404
    if not request.user.has_perm("chatgateway.operate_agentserver"):
        raise PermissionDenied
    if request.method != "POST":
        return _page(model_admin, request, server)
    form = ServerTrialForm(request.POST)
    if not form.is_valid():
        note = " ".join(str(error) for errors in form.errors.values() for error in errors)
        return JsonResponse({"part": "info", "state": "failed", "note": note}, status=400)
    asked = form.cleaned_data
    return trial.stream(_lines(server, asked["profile"], asked["prompt"], username=request.user.get_username()))


def _page(model_admin: Any, request: HttpRequest, server: AgentServer) -> TemplateResponse:
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"Test {server.name}",
        "opts": model_admin.opts,
        "tested": server,
        "form": ServerTrialForm(initial={"profile": _cheapest_profile()}),
        "parts": _PARTS,
        "warning": "With a profile chosen, its LLM is called, which may cost money, and an agent with tools acts "
        "without asking.",
        "seconds": self_calls.LONGEST_SECONDS + 10,
    }
    return TemplateResponse(request, "profiles/admin/trial.html", context)


async def _lines(server: AgentServer, profile: Profile | None, prompt: str, *, username: str) -> AsyncIterator[Line]:
    works = True
    async for line in _info(server):
        works = works and line.get("state") != "failed"
        yield line
    if not works:
        yield {"part": "turn", "state": "skipped", "note": "Not run: the server has to answer first."}
        return
    if profile is None:
        yield {"part": "turn", "state": "skipped", "note": "Not run: no profile was chosen."}
        return
    if server.state == AgentServer.State.DISABLED:
        yield {"part": "turn", "state": "skipped", "note": "Not run: the server is disabled."}
        return
    seconds = self_calls.seconds_for(profile)
    async with self_calls.short_lived_key(profile, purpose=f"Test by {username}", seconds=seconds) as (key, key_text):
        conversation = await self_calls.in_thread(
            lambda: conversations.reserve(api_key=key, profile=profile, server=server)
        )
        async for line in trial.whole_turn(
            model_id=profile.model_id,
            prompt=prompt,
            key_text=key_text,
            seconds=seconds,
            headers={CONVERSATION_HEADER: str(conversation.pk)},
        ):
            yield line


async def _info(server: AgentServer) -> AsyncIterator[Line]:
    yield {"part": "info", "state": "running"}
    try:
        async with new_http_session() as http:
            client = AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=http)
            info = await client.server_info(timeout_seconds=INFO_SECONDS)
    except AgentServerError as error:
        note = _explained(error)
        await self_calls.in_thread(lambda: servers.note_health(server, is_up=False, message=note))
        yield {"part": "info", "state": "failed", "note": note}
        return
    await self_calls.in_thread(lambda: _note_up(server, info))
    tools = ", ".join(sorted(info.usable_tools)) or "none"
    about = f"Version {info.version}, up for {duration(info.uptime_seconds)}. It takes our session API key."
    yield {"part": "info", "state": "ok", "note": f"{about} Tools: {tools}."}


def _cheapest_profile() -> Profile | None:
    """Return what to offer first: the demo, which costs nothing, or else the first by name."""
    rows = Profile.objects.usable().order_by("slug")
    return rows.filter(source=Profile.Source.DEMO).first() or rows.first()


def _note_up(server: AgentServer, info: ServerInfo) -> None:
    servers.note_health(
        server,
        is_up=True,
        version=info.version,
        capabilities=sorted(info.capabilities),
        usable_tools=sorted(info.usable_tools),
    )


def _explained(error: AgentServerError) -> str:
    """Say what is wrong and where to mend it."""
    match error:
        case Unauthorized():
            return "The server refuses our session API key. Enter its OH_SESSION_API_KEYS_0 in the form."
        case TooOld():
            return str(error)
        case Unreachable():
            return f"The server cannot be reached: {error}. Is the URL right, and does it run?"
        case Rejected():
            return f"Something answers there, but not as an agent-server does ({error}). Is the URL right?"
        case _:
            return f"{type(error).__name__}: {error}"
