"""What was used and what it cost: one row for each turn that used something, and sums by day. Only ever added to.

Synchronous; `settle` runs in the transaction that closes the turn. The rows outlive the turns they are about, so that
what a month cost can be said when its turns' texts are long gone.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import F, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from chatgateway import sql
from chatgateway.models import DailyUsage, LedgerEntry, Turn

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Spent:
    """USD since midnight and since the first of the month, UTC."""

    day: Decimal
    month: Decimal


def settle(turn: Turn) -> None:
    """Enter what a turn has used, once it is known. A turn that used nothing leaves no row."""
    if not turn.input_tokens and not turn.output_tokens:
        return
    assert turn.closed_at is not None
    sql.insert(
        [
            LedgerEntry(
                at=turn.closed_at,
                tenant_id=turn.tenant_id,
                api_key_id=turn.api_key_id,
                profile_id=turn.profile_id,
                turn_id=turn.pk,
                tenant_name=turn.tenant_name,
                key_name=turn.key_name,
                profile_slug=str(turn.profile_snapshot.get("slug", "")),
                input_tokens=turn.input_tokens,
                output_tokens=turn.output_tokens,
                cached_tokens=turn.cached_tokens,
                cache_write_tokens=turn.cache_write_tokens,
                reasoning_tokens=turn.reasoning_tokens,
                is_estimated=turn.is_usage_estimated,
                cost_usd=turn.cost_usd,
            )
        ]
    )
    _add_to_day(turn, turn.closed_at.astimezone(dt.UTC).date())


def _add_to_day(turn: Turn, day: dt.date) -> None:
    """Add to the key's row of the day. In one statement, because two processes may do so at once."""
    sums = {
        "turns": 1,
        "unpriced_turns": int(turn.cost_usd is None),
        "input_tokens": turn.input_tokens,
        "output_tokens": turn.output_tokens,
        "cost_usd": turn.cost_usd or _ZERO,
    }
    keys = {"tenant_id": turn.tenant_id, "api_key_id": turn.api_key_id, "day": day}
    columns = [*keys, *sums]
    added = ", ".join(f"{name} = chatgateway_dailyusage.{name} + excluded.{name}" for name in sums)
    fields: list[Any] = [DailyUsage._meta.get_field(name.removesuffix("_id")) for name in columns]
    values = [
        field.get_db_prep_save(value, connection)
        for field, value in zip(fields, [*keys.values(), *sums.values()], strict=True)
    ]
    with connection.cursor() as cursor:
        # Names are the model's own; every value is a parameter.
        cursor.execute(
            f"INSERT INTO chatgateway_dailyusage ({', '.join(columns)}) "  # noqa: S608
            f"VALUES ({', '.join(['%s'] * len(columns))}) "
            f"ON CONFLICT (tenant_id, api_key_id, day) DO UPDATE SET {added}",
            values,
        )


def spent(*, tenant_id: int, api_key_id: int | None, now: dt.datetime) -> Spent:
    """Return what a tenant, or one of its keys, has spent. At most 31 rows a key are read."""
    today = now.astimezone(dt.UTC).date()
    rows = DailyUsage.objects.filter(tenant_id=tenant_id, day__gte=today.replace(day=1))
    if api_key_id is not None:
        rows = rows.filter(api_key_id=api_key_id)
    found = rows.aggregate(month=Coalesce(Sum("cost_usd"), _ZERO), day=_sum_of_day(today))
    return Spent(day=found["day"], month=found["month"])


def _sum_of_day(today: dt.date) -> Any:
    return Coalesce(Sum("cost_usd", filter=Q(day=today)), _ZERO)


def tokens_since(moment: dt.datetime, *, tenant_id: int, api_key_id: int | None) -> list[tuple[dt.datetime, int]]:
    """Return when turns of a tenant, or of one of its keys, ended since `moment`, and their tokens; oldest first."""
    rows = _of(LedgerEntry.objects.filter(at__gt=moment), tenant_id, api_key_id).order_by("at")
    return list(rows.annotate(tokens=F("input_tokens") + F("output_tokens")).values_list("at", "tokens"))


def usual_cost(*, profile_id: int, tenant_id: int, api_key_id: int) -> Decimal | None:
    """Return what all but one in twenty of a key's latest turns with a profile cost at most; None if there were none.

    Without turns of the key's own: of the tenant's.
    """
    for key in (api_key_id, None):
        rows = _of(LedgerEntry.objects.filter(profile_id=profile_id, cost_usd__isnull=False), tenant_id, key)
        costs = sorted(cost for cost in rows.order_by("-at").values_list("cost_usd", flat=True)[:100] if cost)
        if costs:
            return costs[min(len(costs) - 1, len(costs) * 95 // 100)]
    return None


def _of(rows: QuerySet[LedgerEntry], tenant_id: int, api_key_id: int | None) -> QuerySet[LedgerEntry]:
    return rows.filter(tenant_id=tenant_id) if api_key_id is None else rows.filter(api_key_id=api_key_id)


def end_of_day(now: dt.datetime) -> dt.datetime:
    """Return the next midnight, UTC."""
    return dt.datetime.combine(now.astimezone(dt.UTC).date() + dt.timedelta(days=1), dt.time(), dt.UTC)


def end_of_month(now: dt.datetime) -> dt.datetime:
    """Return the first moment of the next month, UTC."""
    first = now.astimezone(dt.UTC).date().replace(day=1)
    return dt.datetime.combine((first + dt.timedelta(days=32)).replace(day=1), dt.time(), dt.UTC)
