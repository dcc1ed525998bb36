"""The admin's first page: what is missing, what is running, how the last day went. A handful of queries."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from chatgateway import task_log
from chatgateway.admin.task_pages import NO_WORKER
from chatgateway.models import AgentServer, Turn
from profiles.admin_theme import duration, moment, usd
from profiles.models import ApiKey, Profile

OPEN_TURNS_SHOWN = 15
_FAILED = (Turn.Outcome.FAILED, Turn.Outcome.TIMED_OUT, Turn.Outcome.ABANDONED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of the last 24 hours; `url` leads to what was counted."""

    title: str
    value: str
    note: str = ""
    url: str = ""
    is_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Todo:
    """Something that stands in the way of serving turns, and where to mend it."""

    text: str
    action: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    todos: list[Todo]
    figures: list[Figure]
    open_turns: list[dict[str, Any]]
    more_open: int
    servers: list[dict[str, Any]]


def read(request: HttpRequest) -> Overview | None:
    """Return what the page shows, or None to somebody who may not see turns."""
    if not request.user.has_perm("chatgateway.view_turn"):
        return None
    now = timezone.now()
    servers = list(AgentServer.objects.defer("session_api_key"))
    waiting = Turn.objects.open().count()
    return Overview(
        todos=_todos(servers, now),
        figures=_figures(now, waiting),
        open_turns=_open_turns(now),
        more_open=max(0, waiting - OPEN_TURNS_SHOWN),
        servers=_servers(servers),
    )


def _todos(servers: list[AgentServer], now: dt.datetime) -> list[Todo]:
    todos = []
    active = [server for server in servers if server.state == AgentServer.State.ACTIVE]
    if not servers:
        todos.append(
            _todo("Agents need an agent-server to run on.", "Add an agent-server", "chatgateway_agentserver_add")
        )
    elif not active:
        todos.append(
            _todo(
                "No agent-server is active: every turn waits or fails.",
                "Agent-servers",
                "chatgateway_agentserver_changelist",
            )
        )
    elif all(server.health == AgentServer.Health.DOWN for server in active):
        todos.append(
            _todo("No agent-server answers: every turn fails.", "See why", "chatgateway_agentserver_changelist")
        )
    if not Profile.objects.usable().exists():
        todos.append(
            _todo(
                "There is no enabled profile: callers see an empty list of models.",
                "Add a profile",
                "profiles_profile_add",
            )
        )
    if not ApiKey.objects.usable(now=now).exists():
        todos.append(_todo("Nobody can call yet: there is no live API key.", "Make a key", "profiles_apikey_add"))
    if task_log.is_silent(now=now):
        todos.append(_todo(NO_WORKER, "Background tasks", "chatgateway_taskrun_changelist"))
    return todos


def _todo(text: str, action: str, name: str) -> Todo:
    return Todo(text=text, action=action, url=reverse(f"admin:{name}"))


def _figures(now: dt.datetime, waiting: int) -> list[Figure]:
    day: QuerySet[Turn] = Turn.objects.filter(opened_at__gte=now - dt.timedelta(hours=24)).order_by()
    spent = Q(input_tokens__gt=0) | Q(output_tokens__gt=0)
    counted = day.aggregate(
        turns=Count("pk"),
        answered=Count("pk", filter=Q(outcome=Turn.Outcome.ANSWERED)),
        failed=Count("pk", filter=Q(outcome__in=_FAILED)),
        refused=Count("pk", filter=Q(outcome=Turn.Outcome.REFUSED)),
        saved=Count("pk", filter=Q(kind=Turn.Kind.HOUSEKEEPING, outcome=Turn.Outcome.ANSWERED)),
        saved_cost=Sum("cost_usd", filter=Q(kind=Turn.Kind.HOUSEKEEPING)),
        tokens_in=Sum("input_tokens"),
        tokens_out=Sum("output_tokens"),
        cost=Sum("cost_usd"),
        unpriced=Count("pk", filter=spent & Q(cost_usd__isnull=True)),
    )
    turns = reverse("admin:chatgateway_turn_changelist")
    unpriced: int = counted["unpriced"]
    cost: Decimal | None = counted["cost"]
    return [
        Figure(
            title="Turns",
            value=f"{counted['turns']:,}",
            note=f"{counted['answered']:,} answered",
            url=f"{turns}?within=24h",
        ),
        Figure(
            title="Failed",
            value=f"{counted['failed']:,}",
            note=f"{counted['refused']:,} refused",
            url=f"{turns}?within=24h&outcome__in={','.join(_FAILED)}",
            is_bad=counted["failed"] > 0,
        ),
        Figure(
            title="Agent runs saved",
            value=f"{counted['saved']:,}",
            note=f"housekeeping calls, {usd(counted['saved_cost']) or '$0'}",
            url=f"{turns}?within=24h&kind__exact={Turn.Kind.HOUSEKEEPING}",
        ),
        Figure(title="Open now", value=f"{waiting:,}", url=f"{turns}?outcome__exact=open"),
        Figure(
            title="Tokens",
            value=f"{(counted['tokens_in'] or 0) + (counted['tokens_out'] or 0):,}",
            note=f"{counted['tokens_in'] or 0:,} in, {counted['tokens_out'] or 0:,} out",
        ),
        Figure(
            title="Cost",
            value=usd(cost) or ("unknown" if unpriced else "$0"),
            note=f"and {unpriced:,} turn{'' if unpriced == 1 else 's'} of unknown price" if unpriced else "",
        ),
    ]


def _open_turns(now: dt.datetime) -> list[dict[str, Any]]:
    columns = ("opened_at", "tenant_name", "model_id", "phase", "server_url")
    return [
        {
            "url": reverse("admin:chatgateway_turn_change", args=[turn.pk]),
            "at": moment(turn.opened_at, seconds=True),
            "age": duration((now - turn.opened_at).total_seconds()),
            "tenant": turn.tenant_name,
            "model": turn.model_id,
            "phase": turn.get_phase_display(),
            "server": turn.server_url,
        }
        for turn in Turn.objects.open().only(*columns).order_by("arrival")[:OPEN_TURNS_SHOWN]
    ]


def _servers(servers: list[AgentServer]) -> list[dict[str, Any]]:
    counted = Turn.objects.holding_a_slot().order_by().values_list("agent_server_id").annotate(n=Count("pk"))
    running = dict(counted)
    return [
        {
            "url": reverse("admin:chatgateway_agentserver_change", args=[server.pk]),
            "name": server.name,
            "state": server.state,
            "health": server.get_health_display(),
            "kind": {"up": "success", "down": "danger"}.get(server.health, "default"),
            "checked": moment(server.health_checked_at),
            "message": server.health_message,
            "load": f"{running.get(server.pk, 0)} / {server.capacity}",
            "version": server.version,
        }
        for server in servers
    ]
