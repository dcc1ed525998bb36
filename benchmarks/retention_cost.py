"""`python -m benchmarks retention`: a record of years is generated, and what is due is removed from it.

Answers what an operator wants to know before the table of events has a hundred million rows: how much room they take,
how fast a sweep removes what is due, how long the opening of a turn waits meanwhile, and what a sweep costs that finds
nothing to do among what was emptied long ago. Needs PostgreSQL, and about 1 GB of disk for a million events.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks import targets
from benchmarks.measuring import percentile

DAYS = 365
# As those of a real agent-server are (`tests/recordings`): eight to ten for a short turn, half a kilobyte each.
EVENTS_PER_TURN = 10
EVENT_BYTES = 450
TURNS_PER_CONVERSATION = 10
BATCH_TURNS = 100_000
LOOK_EVERY_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    events: int
    postgres_url: str


def carry_out(plan: Plan) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="gateway-retention-") as scratch,
        targets.postgres_database(plan.postgres_url) as database_url,
    ):
        env = targets.gateway_environment(Path(scratch), database_url)
        targets.command(["manage.py", "migrate", "--verbosity", "0"], env=env)
        os.environ.update(env, DJANGO_SETTINGS_MODULE="gateway_project.settings")
        import django

        django.setup()
        return _measure(plan.events // EVENTS_PER_TURN)


def _measure(turns: int) -> dict[str, Any]:
    from django.db import connection, transaction

    from chatgateway import retention
    from profiles.models import Profile

    found: dict[str, Any] = {"turns": turns, "events": turns * EVENTS_PER_TURN}
    found["generate_seconds"] = _timed(lambda: _generate(turns))
    found["bytes"] = {name: _size(name) for name in ("event", "turn", "message", "conversation", "attempt")}
    profile = Profile.objects.get()

    def sweep(days: int) -> tuple[float, Any, list[float]]:
        Profile.objects.update(keep_content_days=days)
        with Onlooker() as onlooker:
            started = time.perf_counter()
            done = retention.sweep()
            seconds = time.perf_counter() - started
        return seconds, done, onlooker.waits_ms

    # A thirtieth part of a month is due in a day; here a month at once, as on the day the policy is made.
    seconds, done, waits = sweep(DAYS - 30)
    found["first"] = _swept(seconds, done, waits)
    # Most of the record was emptied long ago, and lies before what is due next in the order of time.
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE chatgateway_turn SET content_removed_at = now() WHERE opened_at < now() - interval '60 days'"
        )
        cursor.execute(
            "DELETE FROM chatgateway_event e USING chatgateway_turn t WHERE e.turn_id = t.id"
            " AND t.content_removed_at IS NOT NULL AND t.opened_at > now() - interval '120 days'"
        )
        cursor.execute("VACUUM ANALYZE chatgateway_turn")
    seconds, done, waits = sweep(61)
    found["nothing_due"] = _swept(seconds, done, waits)
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("DROP INDEX turn_with_content")
        Profile.objects.update(keep_content_days=61)
        found["nothing_due_without_its_index_seconds"] = _timed(retention.sweep)
        transaction.set_rollback(True)
    seconds, done, waits = sweep(59)
    found["a_day_due"] = _swept(seconds, done, waits)
    found["due_counted_seconds"] = _timed(lambda: retention.due(profile, retention.policy_of(profile)))
    return found


def _swept(seconds: float, done: Any, waits: list[float]) -> dict[str, float]:
    return {
        "seconds": seconds,
        "turns": done.contents,
        "turns_per_second": done.contents / seconds,
        "is_complete": done.is_complete,
        "lock_p50_ms": percentile(waits, 50),
        "lock_p99_ms": percentile(waits, 99),
        "lock_max_ms": max(waits, default=0.0),
        "looks": len(waits),
        "lock_mean_ms": statistics.fmean(waits) if waits else 0.0,
    }


class Onlooker:
    """Asks for the lock under which turns are opened, again and again, and notes how long that takes."""

    def __init__(self) -> None:
        self.waits_ms: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        from django.db import connection, transaction

        from chatgateway import servers

        while not self._is_over.wait(LOOK_EVERY_SECONDS):
            started = time.perf_counter()
            with transaction.atomic():
                servers.lock()
            self.waits_ms.append((time.perf_counter() - started) * 1000)
        connection.close()


# --- the rows -------------------------------------------------------------------------------------------------------


def _generate(turns: int) -> None:
    """Rows as the gateway writes them, made by the database itself; indexes are built afterwards."""
    from django.db import connection

    from chatgateway.models import Conversation, Turn
    from profiles.models import Profile, Tenant

    tenant = Tenant.objects.create(name="bench")
    profile = Profile.objects.create(slug="bench", llm_model="openai/scripted", llm_api_key="sk-bench")
    conversation = Conversation.objects.create(tenant=tenant, profile=profile, state="expired")
    turn = Turn.objects.create(
        tenant=tenant, profile=profile, conversation=conversation, outcome="answered", phase="closed", request_id="req",
        endpoint="chat.completions", answer="word " * 60, closed_at=Turn._meta.get_field("opened_at").get_default(),
        run_ended_at=Turn._meta.get_field("opened_at").get_default(), profile_snapshot={"slug": "bench"},
        parameters={"model": "openhands_bench", "messages": None}, input_tokens=1000, output_tokens=60, model_id="m",
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SET maintenance_work_mem = '512MB'")
        rebuild = [*_without_indexes(cursor, "chatgateway_event"), *_without_indexes(cursor, "chatgateway_turn")]
        _copies(
            cursor, "chatgateway_conversation", conversation.pk, number=turns // TURNS_PER_CONVERSATION + 1,
            changed={"id": "md5('c' || n)::uuid"},
        )  # fmt: skip
        for first in range(0, turns, BATCH_TURNS):
            last = min(turns, first + BATCH_TURNS)
            at = f"now() - interval '{DAYS} days' * (1 - n::float8 / {turns})"
            _copies(
                cursor, "chatgateway_turn", turn.pk, first=first, number=last - first,
                changed={
                    "id": "md5('t' || n)::uuid", "reply_id": "'chatcmpl-' || md5('t' || n)",
                    "request_id": "'req_' || md5('r' || n)", "arrival": "n", "opened_at": at, "closed_at": at,
                    "run_ended_at": at, "conversation_id": f"md5('c' || n / {TURNS_PER_CONVERSATION})::uuid",
                    "retry_digest": "md5('d' || n)", "request_digest": "md5('q' || n)", "end_digest": "md5('e' || n)",
                },
            )  # fmt: skip
            cursor.execute(
                "INSERT INTO chatgateway_event (turn_id, conversation_id, incarnation, seq, kind, source, tool,"
                " summary, is_error, raw, received_at)"
                " SELECT md5('t' || n)::uuid, md5('c' || n / %s)::uuid, 0, n %% %s * %s + e, 'MessageEvent', 'agent',"
                " '', 'a summary', false,"
                " jsonb_build_object('id', md5(n || '.' || e), 'text', repeat(md5(n::text), %s)), now()"
                " FROM generate_series(%s, %s) n, generate_series(0, %s) e",
                [
                    TURNS_PER_CONVERSATION, TURNS_PER_CONVERSATION, EVENTS_PER_TURN, EVENT_BYTES // 32, first,
                    last - 1, EVENTS_PER_TURN - 1,
                ],
            )  # fmt: skip
            print(f"  {last} turns", file=sys.stderr, flush=True)
        for statement in rebuild:
            cursor.execute(statement)
        cursor.execute("VACUUM ANALYZE")


def _copies(cursor: Any, table: str, pattern: Any, *, number: int, changed: dict[str, str], first: int = 0) -> None:
    """So many rows that are like one of the table but for some columns, given as SQL over `n`."""
    cursor.execute("SELECT column_name FROM information_schema.columns WHERE table_name = %s", [table])
    columns = [name for (name,) in cursor.fetchall()]
    values = ", ".join(changed.get(name, f't."{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    cursor.execute(
        f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} t, generate_series(%s, %s) n WHERE t.id = %s",
        [first, first + number - 1, pattern],
    )


def _without_indexes(cursor: Any, table: str) -> list[str]:
    """Drop foreign keys, unique constraints and indexes, the primary key aside; return what makes them anew."""
    cursor.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
        " AND contype IN ('f', 'u')",
        [table],
    )
    again = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}" for name, text in cursor.fetchall()]
    for statement in again:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {statement.split()[5]}")
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname NOT LIKE '%%_pkey'", [table]
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f'DROP INDEX "{name}"')
    return [*(text for _, text in indexes), *again]


def _size(name: str) -> dict[str, int]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_table_size(%s), pg_indexes_size(%s),"
            " (SELECT reltuples::bigint FROM pg_class WHERE relname = %s)",
            [f"chatgateway_{name}"] * 3,
        )
        table, indexes, rows = cursor.fetchone()
    return {"table": table, "indexes": indexes, "rows": rows}


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def as_text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2)
