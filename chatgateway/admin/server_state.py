"""Draining, disabling and activating an agent-server: what is there now and what becomes of it, then the change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse

from chatgateway import audit, servers
from chatgateway.models import AgentServer, Conversation, Turn
from profiles import changes
from profiles.admin.recorded import who
from profiles.admin_theme import moment
from profiles.models import Profile

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A state that a server can be brought into, and how that is told. `note` is what the record of changes says."""

    state: AgentServer.State
    verb: str
    about: str
    submit: str
    note: str
    done: str
    is_danger: bool = False


DRAIN = Step(
    state=AgentServer.State.DRAINING,
    verb="Drain",
    about="New conversations go to other agent-servers from now on. Those that are on it go on there, with their "
    "files, and agents that are at work finish. It is empty when the idle time of its conversations has ended them; "
    "its page says how many are left.",
    submit="Drain it",
    note="Drained",
    done="takes no new conversations any more. Its own go on there.",
)
DISABLE = Step(
    state=AgentServer.State.DISABLED,
    verb="Disable",
    about="Nothing new is sent to it any more, and it is neither probed nor cleaned up. Its conversations go on at "
    "other active agent-servers when their callers write again: told from the record, without their files.",
    submit="Disable it",
    note="Disabled",
    done="is disabled.",
    is_danger=True,
)
ACTIVATE = Step(
    state=AgentServer.State.ACTIVE,
    verb="Activate",
    about="It takes new conversations again, and is probed every few seconds.",
    submit="Activate it",
    note="Activated",
    done="is active. Press “Test” to see whether it runs a turn.",
)


class _StepForm(forms.Form):
    """Whether agents that are at work are stopped; offered where there are any and the person may."""

    stop = forms.BooleanField(required=False)

    def __init__(self, *args: Any, running: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not running:
            del self.fields["stop"]
            return
        whose = "agent that is" if running == 1 else f"{running} agents that are"
        self.fields["stop"].label = f"Also stop the {whose} at work there"
        self.fields[
            "stop"
        ].help_text = "Their callers get an error, and what was written so far is kept. Otherwise they finish."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What is on a server, and who would be left without one."""

    running: int
    conversations: int
    others: list[AgentServer]
    stranded: list[str]


def page(model_admin: Any, request: HttpRequest, object_id: str, step: Step) -> HttpResponseBase:
    """Show what the step means for this server, or take it."""
    server: AgentServer | None = model_admin.get_object(request, unquote(object_id))
    if server is None:
        raise Http404
    if not request.user.has_perm("chatgateway.operate_agentserver"):
        raise PermissionDenied
    back = reverse("admin:chatgateway_agentserver_change", args=[server.pk])
    if server.state == step.state:
        messages.info(request, f"“{server.name}” is {server.get_state_display()} already.")
        return HttpResponseRedirect(back)
    standing = _standing(server)
    may_stop = step is not ACTIVATE and request.user.has_perm("chatgateway.stop_turn")
    sent = request.POST if request.method == "POST" else None
    form = _StepForm(sent, running=standing.running if may_stop else 0)
    if request.method != "POST" or not form.is_valid():
        about = _about(server, step, standing) | {"form": form, "opts": model_admin.opts, "cancel_url": back}
        context = model_admin.admin_site.each_context(request) | about
        return TemplateResponse(request, "profiles/admin/confirm.html", context)
    with changes.recorded(server, by=who(request), note=step.note):
        servers.set_state(server, step.state)
    stopped = _stop_all(server) if form.cleaned_data.get("stop") else 0
    told = f" {stopped} turn{'s' * (stopped != 1)} will have stopped within 2 seconds." if stopped else ""
    messages.success(request, f"“{server.name}” {step.done}{told}")
    return HttpResponseRedirect(back)


def _about(server: AgentServer, step: Step, standing: _Standing) -> dict[str, Any]:
    return {
        "title": f"{step.verb} “{server.name}”?",
        "about": step.about,
        "facts": list(_facts(server, step, standing)),
        "warning": _warning(step, standing),
        "submit": step.submit,
        "is_danger": step.is_danger,
    }


def _standing(server: AgentServer) -> _Standing:
    active = AgentServer.objects.filter(state=AgentServer.State.ACTIVE).exclude(pk=server.pk)
    others = list(active.defer("session_api_key").order_by("name"))
    bound = server.profiles.filter(is_enabled=True).exclude(allowed_servers__in=others).order_by("slug")
    stranded = bound if others else Profile.objects.usable().order_by("slug")
    return _Standing(
        running=Turn.objects.holding_a_slot().filter(agent_server=server).count(),
        conversations=server.conversations.filter(state=Conversation.State.LIVE).count(),
        others=others,
        stranded=list(stranded.values_list("slug", flat=True)),
    )


def _facts(server: AgentServer, step: Step, standing: _Standing) -> Iterator[tuple[str, str]]:
    yield "Is", server.get_state_display()
    checked = f", {moment(server.health_checked_at, seconds=True)}" if server.health_checked_at else ""
    yield "Answers", f"{server.get_health_display()}{checked}"
    yield "Agents at work there", f"{standing.running:,} of at most {server.capacity:,}"
    yield "Conversations on it", f"{standing.conversations:,} of at most {server.max_conversations:,}"
    if step is not ACTIVATE:
        names = [f"{one.name} ({one.get_health_display()})" for one in standing.others]
        yield "Other active agent-servers", _listed(names) or "none"


def _warning(step: Step, standing: _Standing) -> str:
    if step is ACTIVATE or not standing.stranded:
        return ""
    names = _listed(standing.stranded)
    if not standing.others:
        return f"There is no other active agent-server: new conversations are refused, with every profile ({names})."
    return f"No other active agent-server may run {names}: new conversations with them are refused."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _stop_all(server: AgentServer) -> int:
    running = Turn.objects.open().filter(agent_server=server)
    return audit.request_cancel(list(running.values_list("pk", flat=True)), reason="admin")
