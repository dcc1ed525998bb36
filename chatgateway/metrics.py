"""What Prometheus reads: what this process has done, and how the whole gateway stands.

Counters and histograms are this process's own: whoever scrapes several processes adds them up. The gauges of open
turns, the queue and agent-servers are read from the database at the moment of the scrape, and are the same whichever
process is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

from django.db.models import Count, Min
from django.db.utils import Error as DatabaseError
from django.utils import timezone
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chatgateway import tracing
from chatgateway.models import AgentServer, Conversation, Turn

logger = logging.getLogger(__name__)

# An agent answers after a second or after half an hour.
_TURN_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_FIRST_TEXT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_WAIT_BUCKETS = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

registry = CollectorRegistry()
ProcessCollector(namespace="gateway", registry=registry)

_turns = Counter(
    "gateway_turns", "Turns that this process closed or refused.", ["outcome", "profile", "endpoint"], registry=registry
)
_errors = Counter("gateway_errors", "Turns that ended with an error, by its code.", ["code"], registry=registry)
_turn_seconds = Histogram(
    "gateway_turn_seconds", "From a turn's opening to its end.", ["profile"], registry=registry, buckets=_TURN_BUCKETS
)
_first_text_seconds = Histogram(
    "gateway_first_text_seconds",
    "From a turn's opening to the first text of its answer.",
    ["profile"],
    registry=registry,
    buckets=_FIRST_TEXT_BUCKETS,
)
_queue_seconds = Histogram(
    "gateway_queue_wait_seconds",
    "From a turn's opening until it had an agent-server.",
    ["profile"],
    registry=registry,
    buckets=_WAIT_BUCKETS,
)
_tokens = Counter("gateway_tokens", "Tokens of closed turns.", ["profile", "kind"], registry=registry)
_cost = Counter("gateway_cost_usd", "Cost of closed turns whose price is known.", ["profile"], registry=registry)
_unpriced = Counter("gateway_unpriced_turns", "Closed turns whose price is unknown.", ["profile"], registry=registry)
_housekeeping = Counter(
    "gateway_housekeeping_calls",
    "Calls of chat UIs for titles and the like that were answered without an agent.",
    ["profile", "task", "answered_by"],
    registry=registry,
)
_joins = Counter("gateway_joined_requests", "Requests that joined the turn they repeat.", registry=registry)
_take_overs = Counter("gateway_turns_taken_over", "Turns taken over from another process.", registry=registry)


def turn_closed(turn: Turn) -> None:
    """Count a turn whose end is committed, log it in one line without a word of what was said, and send its trace."""
    profile = _profile_name(turn)
    _turns.labels(turn.outcome, profile, turn.endpoint).inc()
    if turn.error_code:
        _errors.labels(turn.error_code).inc()
    seconds = _seconds_until(turn, turn.closed_at)
    if turn.kind == Turn.Kind.HOUSEKEEPING:
        _housekeeping.labels(profile, turn.housekeeping_task, turn.answered_by).inc()
        _count_tokens(turn, profile)
    elif turn.outcome != Turn.Outcome.REFUSED:
        _turn_seconds.labels(profile).observe(seconds or 0)
        if (waited := _seconds_until(turn, turn.started_at)) is not None:
            _queue_seconds.labels(profile).observe(waited)
        if (to_first_text := _seconds_until(turn, turn.first_text_at)) is not None:
            _first_text_seconds.labels(profile).observe(to_first_text)
        _count_tokens(turn, profile)
    logger.info(
        "turn %s %s",
        turn.pk,
        turn.outcome,
        extra={
            "request_id": turn.request_id,
            "turn": str(turn.pk),
            "conversation": str(turn.conversation_id or ""),
            "outcome": turn.outcome,
            "kind": turn.kind,
            "endpoint": turn.endpoint,
            "status": turn.http_status,
            "code": turn.error_code,
            "profile": profile,
            "tenant": turn.tenant_name,
            "key": turn.key_prefix,
            "server": turn.server_url,
            "match": turn.match,
            "seconds": round(seconds or 0, 3),
            "input_tokens": turn.input_tokens,
            "output_tokens": turn.output_tokens,
            "cost_usd": None if turn.cost_usd is None else float(turn.cost_usd),
            **({"trace_id": tracing.trace_id(turn)} if turn.traceparent else {}),
        },
    )
    tracing.turn_closed(turn)


def _count_tokens(turn: Turn, profile: str) -> None:
    for kind in ("input", "output", "cached", "cache_write", "reasoning"):
        if number := getattr(turn, f"{kind}_tokens"):
            _tokens.labels(profile, kind).inc(number)
    if turn.cost_usd is not None:
        _cost.labels(profile).inc(float(turn.cost_usd))
    elif turn.input_tokens or turn.output_tokens or turn.kind == Turn.Kind.AGENT:
        _unpriced.labels(profile).inc()


def request_joined() -> None:
    """Count a request that joined the turn it repeats."""
    _joins.inc()


def turn_taken_over() -> None:
    """Count a turn that this process drives on for another."""
    _take_overs.inc()


def exposition() -> bytes:
    """Return everything in Prometheus's text format. Asks the database a few short questions."""
    return generate_latest(registry)


class _Now(Collector):
    """How things stand at this moment, from the database. When that does not answer, `gateway_database_up` is 0."""

    def describe(self) -> Iterable[Metric]:
        return []  # to register it must not ask the database

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("gateway_database_up", "Whether the database answered this scrape.")
        try:
            families = [*_turns_now(), *_servers_now()]
        except DatabaseError:
            logger.warning("the database did not answer a scrape", exc_info=True)
            families = []
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
        return [up, *families]


def _turns_now() -> Iterable[Metric]:
    by_phase = GaugeMetricFamily("gateway_open_turns", "Turns that have not ended, in all processes.", labels=["phase"])
    oldest = GaugeMetricFamily("gateway_queue_oldest_seconds", "Age of the turn that has been queued for longest.")
    counted = {
        row["phase"]: row
        for row in Turn.objects.open().values("phase").annotate(n=Count("pk"), since=Min("opened_at")).order_by()
    }
    for phase in (Turn.Phase.QUEUED, Turn.Phase.STARTING, Turn.Phase.RUNNING):
        by_phase.add_metric([phase], counted[phase]["n"] if phase in counted else 0)
    since = counted[Turn.Phase.QUEUED]["since"] if Turn.Phase.QUEUED in counted else None
    oldest.add_metric([], (timezone.now() - since).total_seconds() if since else 0)
    return [by_phase, oldest]


def _servers_now() -> Iterable[Metric]:
    up = GaugeMetricFamily("gateway_agent_server_up", "Whether it answered when last asked.", labels=["server"])
    active = GaugeMetricFamily("gateway_agent_server_active", "1 if it takes new conversations.", labels=["server"])
    slots = GaugeMetricFamily("gateway_agent_server_slots", "Agents it may run at once.", labels=["server"])
    used = GaugeMetricFamily("gateway_agent_server_slots_used", "Slots that turns hold.", labels=["server"])
    kept = GaugeMetricFamily("gateway_agent_server_conversations", "Conversations it keeps.", labels=["server"])
    holding = dict(Turn.objects.holding_a_slot().values_list("agent_server_id").annotate(n=Count("pk")).order_by())
    living = Conversation.objects.filter(state=Conversation.State.LIVE).order_by()
    keeping = dict(living.values_list("agent_server_id").annotate(n=Count("pk")))
    for server in AgentServer.objects.order_by("name"):
        label = [server.name]
        up.add_metric(label, server.health == AgentServer.Health.UP)
        active.add_metric(label, server.state == AgentServer.State.ACTIVE)
        slots.add_metric(label, server.capacity)
        used.add_metric(label, holding.get(server.pk, 0))
        kept.add_metric(label, keeping.get(server.pk, 0))
    return [up, active, slots, used, kept]


def _profile_name(turn: Turn) -> str:
    # What a caller wrote as a model is not a label: anybody could make as many as they like.
    return str(turn.profile_snapshot.get("slug", ""))


def _seconds_until(turn: Turn, moment: datetime | None) -> float | None:
    return None if moment is None else max(0.0, (moment - turn.opened_at).total_seconds())


registry.register(_Now())
