"""`python -m benchmarks admin`: how long the server works on each page of the admin when the record is large.

A database of its own on PostgreSQL is filled by `seed_demo`, and each page is asked for in this process, by itself:
what is measured is everything between Django's handler and the finished body, without socket and browser.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.measuring import percentile

GOAL_MS = 200
# The agents' steps of so many turns are written too: enough for pages of turns, tool filters and totals to have work.
TURNS_WITH_EVENTS = 10_000
DAYS = 90
RUNNING = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`only`: pages whose name holds this; `explain`: also print the slowest query of each page that misses."""

    turns: int
    repetitions: int
    postgres_url: str
    only: str = ""
    explain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`times_ms`: of each request; `cpu_ms`: what one took of the processor, here and in the database's process, on
    average, which is what a busy machine leaves true; `queries` and `sql_ms`: of one more, in which they were counted.
    """

    name: str
    path: str
    times_ms: list[float]
    cpu_ms: float
    queries: int
    sql_ms: float
    slowest_sql: str

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def is_met(self) -> bool:
        return self.median_ms < GOAL_MS


def carry_out(plan: Plan) -> list[Page]:
    """Fill a new database and measure every page of it. Raises `targets.Unavailable` without a PostgreSQL."""
    with (
        tempfile.TemporaryDirectory(prefix="gateway-admin-") as scratch,
        targets.postgres_database(plan.postgres_url) as database_url,
    ):
        os.environ.update(
            targets.gateway_environment(Path(scratch), database_url),
            DJANGO_SETTINGS_MODULE="gateway_project.settings",
            GATEWAY_LOG_LEVEL="ERROR",
        )
        import django

        django.setup()
        from django.db import connections

        try:
            _fill(plan.turns)
            return [_measured(name, path, plan) for name, path in _pages() if plan.only in name]
        finally:
            connections.close_all()


def _fill(turns: int) -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    detailed = min(turns, TURNS_WITH_EVENTS)
    began_at = time.perf_counter()
    if turns > detailed:
        _seed(turns=turns - detailed, days=DAYS, without_events=True)
    _seed(turns=detailed, days=DAYS, seed=2, running=RUNNING, add=True)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    print(f"  filled in {time.perf_counter() - began_at:.0f} s", file=sys.stderr, flush=True)


def _seed(**options: Any) -> None:
    from django.core.management import call_command

    call_command("seed_demo", verbosity=0, stdout=io.StringIO(), **options)


# --- the pages ------------------------------------------------------------------------------------------------------


def _pages() -> Iterator[tuple[str, str]]:
    """What each page is called and where it is: the dashboard, every list, and the pages of rows that have most."""
    from django.contrib import admin

    for range_ in ("1h", "24h", "7d", "30d"):
        yield f"dashboard, {range_}", f"?range={range_}"
    yield f"dashboard, {DAYS} days", f"?since={_day(DAYS - 1)}&until={_day(0)}"
    yield "dashboard, its live part", "overview/now/"
    for model_admin in admin.site._registry.values():
        opts = model_admin.opts
        yield f"list of {opts.verbose_name_plural}", f"{opts.app_label}/{opts.model_name}/"
    yield from _narrowed_lists()
    yield from _rows()


def _narrowed_lists() -> Iterator[tuple[str, str]]:
    from chatgateway.models import Turn
    from profiles.models import Tenant

    tenant = Tenant.objects.order_by("pk").first()
    assert tenant is not None
    turns, conversations = "chatgateway/turn/", "chatgateway/conversation/"
    week = f"from={_day(7)}&to={_day(1)}"
    yield "turns, last page", f"{turns}?p={Turn.objects.count() // 50}"
    yield "turns, failed", f"{turns}?outcome__exact=failed"
    yield "turns of a tenant in a week", f"{turns}?tenant__id__exact={tenant.pk}&{week}"
    yield "turns with a tool", f"{turns}?tool=terminal"
    yield "turns of an end user", f"{turns}?end_user=noor"
    yield "turns, a word of every third", f"{turns}?q=tests"
    yield "turns, a phrase", f"{turns}?q=%22the+tests%22"
    yield "turns, the beginning of a word", f"{turns}?q=te*"
    yield "turns, words nobody said", f"{turns}?q=nobody+said"
    yield "turns, totals of all", f"{turns}totals/"
    yield "turns, totals of those with a tool", f"{turns}totals/?tool=terminal"
    yield "turns, totals of a word", f"{turns}totals/?q=tests"
    yield "turns, totals of a week", f"{turns}totals/?{week}"
    yield "conversations of a tenant in a week", f"{conversations}?tenant__id__exact={tenant.pk}&{week}"
    yield "conversations, last outcome failed", f"{conversations}?last=failed"
    yield "conversations above $0.10", f"{conversations}?cost=0.1"
    yield "conversations with a tool", f"{conversations}?tool=terminal"
    yield "conversations, a word", f"{conversations}?q=tests"
    yield "conversations, totals of all", f"{conversations}totals/"


def _rows() -> Iterator[tuple[str, str]]:
    from django.db.models import Count

    from chatgateway.models import AgentServer, Conversation, Turn
    from profiles.models import ApiKey, Profile, Tenant

    most_events = Turn.objects.annotate(n=Count("events")).order_by("-n").first()
    longest = Conversation.objects.annotate(n=Count("turns")).order_by("-n").first()
    busiest = ApiKey.objects.annotate(n=Count("turns")).order_by("-n").first()
    found: list[tuple[str, Any, str]] = [
        ("a turn", most_events, "change"),
        ("a conversation", longest, "change"),
        ("an API key", busiest, "change"),
        ("how to use a key", busiest, "use"),
        ("a profile", Profile.objects.annotate(n=Count("turns")).order_by("-n").first(), "change"),
        ("a tenant", Tenant.objects.annotate(n=Count("turns")).order_by("-n").first(), "change"),
        ("an agent-server", AgentServer.objects.order_by("pk").first(), "change"),
        ("draining an agent-server", AgentServer.objects.order_by("pk").first(), "drain"),
    ]
    for name, row, page in found:
        yield name, f"{row._meta.app_label}/{row._meta.model_name}/{row.pk}/{page}/"
    yield "what retention would remove", "chatgateway/erasure/retention/"


def _day(ago: int) -> str:
    return (dt.datetime.now(dt.UTC).date() - dt.timedelta(days=ago)).isoformat()


# --- measuring ------------------------------------------------------------------------------------------------------


def _measured(name: str, path: str, plan: Plan) -> Page:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    ask = _asking(path)
    ask()  # templates and plans are made once
    times = []
    cpu_seconds = _cpu_seconds()
    for _ in range(plan.repetitions):
        began_at = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began_at) * 1000)
    cpu_seconds = _cpu_seconds() - cpu_seconds
    with CaptureQueriesContext(connection) as captured:
        ask()
    spent = [(float(query["time"]) * 1000, query["sql"]) for query in captured.captured_queries]
    slowest = max(spent, default=(0.0, ""))
    page = Page(
        name=name,
        path=path,
        times_ms=times,
        cpu_ms=cpu_seconds * 1000 / plan.repetitions,
        queries=len(spent),
        sql_ms=sum(ms for ms, _ in spent),
        slowest_sql=f"{slowest[0]:.0f} ms: {slowest[1]}",
    )
    print(f"  {name}: {page.median_ms:.0f} ms, CPU {page.cpu_ms:.0f} ms", file=sys.stderr, flush=True)
    if plan.explain and not page.is_met:
        print(f"    {page.slowest_sql}", file=sys.stderr, flush=True)
    return page


def _cpu_seconds() -> float:
    """The processor's time of this process, and of those that serve its connections if they are on this machine."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        stats = [Path(f"/proc/{pid}/stat") for (pid,) in cursor.fetchall()]
    ticks = 0
    for text in [stat.read_text() for stat in stats if stat.exists()]:
        name, _, fields = text.rpartition(")")
        if "postgres" in name:
            ticks += sum(int(number) for number in fields.split()[11:13])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _asking(path: str) -> Callable[[], None]:
    from django.contrib.auth.models import User
    from django.test import Client

    root, _ = User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)
    browser = Client(SERVER_NAME="localhost")
    browser.force_login(root)

    def ask() -> None:
        answer = browser.get(f"/admin/{path}")
        with contextlib.closing(answer):
            if answer.status_code != 200:
                raise RuntimeError(f"/admin/{path} answered {answer.status_code}")

    return ask


def markdown(pages: list[Page]) -> str:
    """The table, the slowest page first; all pages are in it."""
    lines = ["| page | median | quietest tenth | processor | queries | |", "| --- | --- | --- | --- | --- | --- |"]
    for page in sorted(pages, key=lambda page: -page.median_ms):
        quiet, verdict = percentile(page.times_ms, 10), "" if page.is_met else "missed"
        times = f"{page.median_ms:.0f} ms | {quiet:.0f} ms | {page.cpu_ms:.0f} ms | {page.queries}"
        lines.append(f"| {page.name} | {times} | {verdict} |")
    met = sum(page.is_met for page in pages)
    return "\n".join([*lines, "", f"{met} of {len(pages)} pages within {GOAL_MS} ms."])
