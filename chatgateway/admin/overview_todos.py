"""What the overview says has to be done: what keeps turns from being served now, or will before long."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, Exists, Min, OuterRef, Q, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from chatgateway import task_log
from chatgateway.admin.task_pages import NO_WORKER, PURPOSES
from chatgateway.models import AgentServer, Alert, Erasure, HourlyTraffic, TaskRun, Turn
from profiles.admin_theme import duration, moment
from profiles.models import ApiKey, FailedAuthentication, Profile

_SHOWN = 3
_SOON = dt.timedelta(days=7)
# A place is free within seconds where there are enough.
_QUEUED_SECONDS = 30
_GUESSES_PER_HOUR = 50
# The task for deletions runs every minute.
_ERASURE_TAKES = dt.timedelta(minutes=15)
# How far back turns of unknown price are looked for.
_UNPRICED_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Todo:
    """What is wrong, and the button that leads to where it is mended; no button for whoever may not go there."""

    text: str
    action: str = ""
    url: str = ""
    is_bad: bool = False
    # Something that does not exist yet; among the first steps it is told already.
    is_first_step: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of the steps before the first turn."""

    title: str
    text: str
    is_done: bool
    action: str = ""
    url: str = ""


class Todos:
    """Asks each question once. A page is linked to only where the person may open it."""

    def __init__(self, request: HttpRequest, servers: list[AgentServer], now: dt.datetime) -> None:
        self._user, self._servers, self._now = request.user, servers, now

    def all(self) -> list[Todo]:
        return [
            *self._of_servers(),
            *self._of_the_queue(),
            *self._of_profiles(),
            *self._of_keys(),
            *self._of_tasks(),
            *self._of_prices(),
            *self._of_guesses(),
            *self._of_erasures(),
        ]

    def first_steps(self) -> list[Step]:
        """The way to the first turn; empty once there was one."""
        if Turn.objects.exists():
            return []
        has_profile = Profile.objects.usable().exists()
        has_key = ApiKey.objects.usable(now=self._now).exists()
        steps = [
            (
                "An agent-server",
                "Where agents run. The gateway's start command brings one.",
                bool(self._servers),
                ("Add an agent-server", "chatgateway_agentserver_add", "chatgateway.add_agentserver"),
            ),
            (
                "A profile",
                "Which LLM answers, with which tools. Callers name it as their model.",
                has_profile,
                ("Add a profile", "profiles_profile_add", "profiles.add_profile"),
            ),
            (
                "An API key",
                "What a client sends. It is shown once, with programs to paste.",
                has_key,
                ("Make a key", "profiles_apikey_add", "profiles.add_apikey"),
            ),
            (
                "A first turn",
                "Paste one of the programs that were shown with the key, or test the profile here.",
                False,
                ("Profiles", "profiles_profile_changelist", "profiles.view_profile"),
            ),
        ]
        return [
            Step(title=title, text=text, is_done=is_done, action=self._may(page)[0], url=self._may(page)[1])
            for title, text, is_done, page in steps
        ]

    # --- each question ------------------------------------------------------------------------------------------------

    def _of_servers(self) -> Iterator[Todo]:
        active = [server for server in self._servers if server.state == AgentServer.State.ACTIVE]
        page = ("Agent-servers", "chatgateway_agentserver_changelist", "chatgateway.view_agentserver")
        if not self._servers:
            add = ("Add an agent-server", "chatgateway_agentserver_add", "chatgateway.add_agentserver")
            yield self._todo("Agents need an agent-server to run on.", add, is_first_step=True)
        elif not active:
            yield self._todo("No agent-server is active: every new conversation is refused.", page, is_bad=True)
        elif all(server.health == AgentServer.Health.DOWN for server in active):
            yield self._todo("No agent-server answers: every turn fails.", page, is_bad=True)
        down = [
            server
            for server in self._servers
            if server.health == AgentServer.Health.DOWN and server.state != AgentServer.State.DISABLED
        ]
        for server in down[:_SHOWN]:
            since = f" since {moment(server.down_since)}" if server.down_since else ""
            said = f" ({server.health_message})" if server.health_message else ""
            text = f"The agent-server “{server.name}” does not answer{since}{said}. Start it again, or disable it."
            yield self._todo(text, self._page_of(server), server.pk)
        if len(down) > _SHOWN:
            yield self._todo(f"{len(down) - _SHOWN} more agent-servers do not answer.", page)

    def _of_the_queue(self) -> Iterator[Todo]:
        waiting = Turn.objects.open().filter(phase=Turn.Phase.QUEUED).order_by()
        found = waiting.aggregate(n=Count("pk"), since=Min("opened_at"))
        waited = 0.0 if found["since"] is None else (self._now - found["since"]).total_seconds()
        if waited > _QUEUED_SECONDS:
            turns = "1 turn waits" if found["n"] == 1 else f"{found['n']:,} turns wait"
            page = ("Agent-servers", "chatgateway_agentserver_changelist", "chatgateway.view_agentserver")
            text = f"{turns} for a free place, the first for {duration(waited)}. Raise a server's capacity or add one."
            yield self._todo(text, page)

    def _of_profiles(self) -> Iterator[Todo]:
        usable = Profile.objects.usable()
        if not usable.exists():
            add = ("Add a profile", "profiles_profile_add", "profiles.add_profile")
            yield self._todo(
                "There is no enabled profile: callers see an empty list of models.", add, is_first_step=True
            )
            return
        bound = AgentServer.profiles.through.objects.filter(profile=OuterRef("pk"))
        active = bound.filter(agentserver__state=AgentServer.State.ACTIVE)
        stranded = usable.filter(Exists(bound), ~Exists(active)).order_by("slug")
        for profile in stranded.only("slug")[:_SHOWN]:
            text = (
                f"No server that the profile “{profile.slug}” is bound to is active: its new conversations are refused."
            )
            yield self._todo(
                text, ("Agent-servers", "chatgateway_agentserver_changelist", "chatgateway.view_agentserver")
            )

    def _of_keys(self) -> Iterator[Todo]:
        live = ApiKey.objects.usable(now=self._now)
        if not live.exists():
            add = ("Make a key", "profiles_apikey_add", "profiles.add_apikey")
            yield self._todo("Nobody can call: there is no live API key.", add, is_first_step=True)
            return
        ending = live.filter(expires_at__lt=self._now + _SOON).order_by("expires_at").select_related("tenant")
        rows = list(ending[: _SHOWN + 1])
        for key in rows[:_SHOWN]:
            assert key.expires_at is not None
            text = (
                f"The key “{key.name}” of {key.tenant.name} expires {moment(key.expires_at)}: its callers are refused "
                "from then on. Give it a later day, or them another key."
            )
            yield self._todo(text, ("The key", "profiles_apikey_change", "profiles.view_apikey"), key.pk)
        if len(rows) > _SHOWN:
            text = f"{ending.count() - _SHOWN} more keys expire within 7 days."
            yield self._todo(text, ("API keys", "profiles_apikey_changelist", "profiles.view_apikey"))
        today = self._now.astimezone(dt.UTC).date()
        near = Q(period="day", began_on=today) | Q(period="month", began_on=today.replace(day=1))
        if count := Alert.objects.filter(near).count():
            who = "A key or tenant has" if count == 1 else f"{count} times a key or tenant has"
            page = ("See which", "chatgateway_alert_changelist", "chatgateway.view_alert")
            yield self._todo(f"{who} used most of a ceiling in USD. Beyond it turns are refused.", page)

    def _of_tasks(self) -> Iterator[Todo]:
        page = ("Background tasks", "chatgateway_taskrun_changelist", "chatgateway.view_taskrun")
        if task_log.is_silent(now=self._now):
            yield self._todo(NO_WORKER, page)
            return
        for run in TaskRun.objects.filter(outcome=TaskRun.Outcome.FAILED)[:_SHOWN]:
            text = f"The task “{PURPOSES.get(run.name, run.name)}” failed {moment(run.started_at)}: {run.message}"
            yield self._todo(text, page)

    def _of_prices(self) -> Iterator[Todo]:
        since = self._now - dt.timedelta(days=_UNPRICED_DAYS)
        rows = HourlyTraffic.objects.filter(hour__gte=since, unpriced__gt=0).order_by()
        counted = dict(rows.values_list("profile_id").annotate(n=Sum("unpriced")))
        found = Profile.objects.filter(pk__in=set(counted) - {None}).order_by("slug")
        for profile in [one for one in found if not one.prices()][:_SHOWN]:
            text = (
                f"The price of {profile.llm_model} is unknown: {counted[profile.pk]:,} turns of “{profile.slug}” in "
                f"{_UNPRICED_DAYS} days have no cost and count towards no ceiling. Enter its prices."
            )
            yield self._todo(text, ("The profile", "profiles_profile_change", "profiles.view_profile"), profile.pk)

    def _of_guesses(self) -> Iterator[Todo]:
        hour = FailedAuthentication.objects.filter(minute__gte=self._now - dt.timedelta(hours=1)).order_by()
        found = hour.aggregate(n=Sum("count"), addresses=Count("address", distinct=True))
        if (found["n"] or 0) >= _GUESSES_PER_HOUR:
            text = (
                f"{found['n']:,} requests of the last hour had no valid key, from {found['addresses']:,} "
                f"address{'es' * (found['addresses'] != 1)}: a client with an old key, or somebody who guesses."
            )
            page = ("From where", "profiles_failedauthentication_changelist", "profiles.view_failedauthentication")
            yield self._todo(text, page)

    def _of_erasures(self) -> Iterator[Todo]:
        late = Erasure.objects.filter(done_at__isnull=True, asked_at__lt=self._now - _ERASURE_TAKES).count()
        if late:
            of = "A deletion of an end user's data is" if late == 1 else f"{late} deletions of end users' data are"
            page = ("Deletions", "chatgateway_erasure_changelist", "chatgateway.view_erasure")
            yield self._todo(f"{of} not done yet. The worker or an agent-server may be down.", page)

    # --- links --------------------------------------------------------------------------------------------------------

    def _page_of(self, server: AgentServer) -> tuple[str, str, str]:
        return "The agent-server", "chatgateway_agentserver_change", "chatgateway.view_agentserver"

    def _todo(
        self,
        text: str,
        page: tuple[str, str, str],
        *args: object,
        is_bad: bool = False,
        is_first_step: bool = False,
    ) -> Todo:
        action, url = self._may(page, *args)
        is_bad = is_bad or is_first_step
        return Todo(text=text, action=action, url=url, is_bad=is_bad, is_first_step=is_first_step)

    def _may(self, page: tuple[str, str, str], *args: object) -> tuple[str, str]:
        title, name, permission = page
        if not self._user.has_perm(permission):
            return "", ""
        return title, reverse(f"admin:{name}", args=args)


def of(request: HttpRequest, servers: list[AgentServer]) -> tuple[list[Todo], list[Step]]:
    """Return what has to be done, and the steps to the first turn while there was none."""
    todos = Todos(request, servers, timezone.now())
    steps = todos.first_steps()
    return [todo for todo in todos.all() if not (steps and todo.is_first_step)], steps
