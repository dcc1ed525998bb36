"""The part of the overview that keeps itself up to date: what has to be done, what is running, servers and tasks."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, OuterRef, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from chatgateway.admin import overview_todos
from chatgateway.admin.overview_todos import Step, Todo
from chatgateway.admin.task_pages import PURPOSES, STATES, state_of
from chatgateway.models import AgentServer, Conversation, Event, TaskRun, Turn
from profiles.admin_theme import duration, moment

TURNS_SHOWN = 15
_HEALTH = {AgentServer.Health.UP.value: "success", AgentServer.Health.DOWN.value: "danger"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurn:
    """`step`: the last thing the agent did, without a word of what was said or run."""

    pk: Any
    url: str
    age: str
    since: str
    tenant: str
    key: str
    model: str
    phase: str
    step: str
    server: str
    stop_url: str
    is_being_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    url: str
    name: str
    health: str
    kind: str
    message: str
    state: str
    running: int
    capacity: int
    kept: int
    version: str
    checked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    title: str
    state: str
    kind: str
    began: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """`servers` and `tasks` are None for whoever may not see them."""

    at: str
    steps: list[Step]
    todos: list[Todo]
    open_turns: list[OpenTurn]
    n_open: int
    more_open: int
    servers: list[Server] | None
    tasks: list[Task] | None


def read(request: HttpRequest) -> Now:
    now = timezone.now()
    rows = list(AgentServer.objects.defer("session_api_key"))
    todos, steps = overview_todos.of(request, rows)
    open_turns, n_open = _open_turns(request, {server.pk: server.name for server in rows}, now)
    user = request.user
    return Now(
        at=timezone.localtime(now).strftime("%H:%M:%S"),
        steps=steps,
        todos=todos,
        open_turns=open_turns,
        n_open=n_open,
        more_open=n_open - len(open_turns),
        servers=_servers(rows) if user.has_perm("chatgateway.view_agentserver") else None,
        tasks=_tasks(now) if user.has_perm("chatgateway.view_taskrun") else None,
    )


def _open_turns(request: HttpRequest, servers: dict[int, str], now: dt.datetime) -> tuple[list[OpenTurn], int]:
    """Return the turns that have been open for longest, and how many there are in all."""
    columns = (
        "opened_at", "tenant_name", "key_name", "model_id", "phase", "agent_server_id", "server_url",
        "cancel_requested_at",
    )  # fmt: skip
    last = Event.objects.filter(turn=OuterRef("pk")).order_by("-seq").values("pk")[:1]
    rows = list(
        Turn.objects.open().only(*columns).annotate(last_event=Subquery(last)).order_by("arrival")[:TURNS_SHOWN]
    )
    n_open = len(rows) if len(rows) < TURNS_SHOWN else Turn.objects.open().count()
    lasts = [row.last_event for row in rows]  # type: ignore[attr-defined]  # annotated above
    events = Event.objects.only("kind", "source", "tool", "is_error", "received_at").in_bulk(
        [pk for pk in lasts if pk is not None]
    )
    may_stop = request.user.has_perm("chatgateway.stop_turn")
    return [
        OpenTurn(
            pk=turn.pk,
            url=reverse("admin:chatgateway_turn_change", args=[turn.pk]),
            age=duration((now - turn.opened_at).total_seconds()),
            since=moment(turn.opened_at, seconds=True),
            tenant=turn.tenant_name,
            key=turn.key_name,
            model=turn.model_id,
            phase=turn.get_phase_display(),
            step=_step(events.get(last_event or 0), now),
            server=servers.get(turn.agent_server_id or 0, turn.server_url),
            stop_url=reverse("admin:chatgateway_turn_stop", args=[turn.pk]) if may_stop else "",
            is_being_stopped=turn.cancel_requested_at is not None,
        )
        for turn, last_event in zip(rows, lasts, strict=True)
    ], n_open


def _step(event: Event | None, now: dt.datetime) -> str:
    """Return which tool is at work, not with what: that is for those who may read transcripts."""
    if event is None:
        return ""
    ago = duration((now - event.received_at).total_seconds())
    match event.kind, event.source:
        case "ActionEvent", _:
            told = f"uses {event.tool}" if event.tool else "acts"
        case (("ObservationEvent" | "AgentErrorEvent" | "UserRejectObservation"), _):
            told = f"{event.tool or 'a tool'} {'failed' if event.is_error else 'has answered'}"
        case "MessageEvent", "user":
            told = "was given the message"
        case "MessageEvent", _:
            told = "wrote a message"
        case _:
            return ""
    return f"{told}, {ago} ago"


def _servers(rows: list[AgentServer]) -> list[Server]:
    holding = Turn.objects.holding_a_slot().order_by().values_list("agent_server_id").annotate(n=Count("pk"))
    living = Conversation.objects.filter(state=Conversation.State.LIVE).order_by()
    running, kept = dict(holding), dict(living.values_list("agent_server_id").annotate(n=Count("pk")))
    return [
        Server(
            url=reverse("admin:chatgateway_agentserver_change", args=[server.pk]),
            name=server.name,
            health=server.get_health_display(),
            kind=_HEALTH.get(server.health, "default"),
            message=server.health_message,
            state=server.state,
            running=running.get(server.pk, 0),
            capacity=server.capacity,
            kept=kept.get(server.pk, 0),
            version=server.version,
            checked=moment(server.health_checked_at, seconds=True),
        )
        for server in rows
    ]


def _tasks(now: dt.datetime) -> list[Task]:
    tasks = []
    for run in TaskRun.objects.order_by("name"):
        state, told = state_of(run, now=now)
        tasks.append(
            Task(
                title=PURPOSES.get(run.name, run.name),
                state=told,
                kind=STATES.get(state, "default"),
                began=moment(run.started_at, seconds=True),
                message=run.message,
            )
        )
    return tasks
