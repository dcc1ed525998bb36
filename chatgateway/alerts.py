"""Warns when most of a ceiling in USD is used up: a row for the admin, and a signed message to the operator's webhook.

The only writer of `Alert` rows. Called by a sweep of Celery's, which may run twice at once.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
from decimal import Decimal

import orjson
from django.conf import settings
from django.db.models import F, Q
from django.utils import timezone

from chatgateway import ledger, outbound
from chatgateway.models import Alert
from profiles.models import ApiKey, Tenant

PERCENTS = (80, 100)
# Pauses between attempts to reach the webhook; after the last one it is given up.
PAUSES = (60, 300, 1800, 7200, 43_200)
# More than this a sweep does not send: each may take ten seconds.
SEND_LIMIT = 10
# While one sweep sends a message, another leaves it alone.
CLAIM_SECONDS = 60

logger = logging.getLogger(__name__)


def look(now: dt.datetime) -> int:
    """Write what has passed a threshold since the last look; return how many there were."""
    written = 0
    has_money = Q(max_usd_per_day__isnull=False) | Q(max_usd_per_month__isnull=False)
    for key in ApiKey.objects.filter(has_money, revoked_at__isnull=True).select_related("tenant"):
        written += _look_at(key.tenant, key, now)
    for tenant in Tenant.objects.filter(has_money):
        written += _look_at(tenant, None, now)
    return written


def _look_at(tenant: Tenant, key: ApiKey | None, now: dt.datetime) -> int:
    written = 0
    subject = key or tenant
    spent = ledger.spent(tenant_id=tenant.pk, api_key_id=key.pk if key else None, now=now)
    today = now.astimezone(dt.UTC).date()
    for period, ceiling, used, began_on in (
        ("day", subject.max_usd_per_day, spent.day, today),
        ("month", subject.max_usd_per_month, spent.month, today.replace(day=1)),
    ):
        if ceiling is None:
            continue
        for percent in _passed(used, ceiling):
            kind = f"key-{key.pk}" if key else f"tenant-{tenant.pk}"
            _, is_new = Alert.objects.get_or_create(
                name=f"{kind}-{period}-{began_on}-{percent}",
                defaults={
                    "tenant": tenant,
                    "api_key": key,
                    "period": period,
                    "began_on": began_on,
                    "percent": percent,
                    "spent_usd": used,
                    "ceiling_usd": ceiling,
                    "due_at": now if settings.GATEWAY_WEBHOOK_URL else None,
                },
            )
            written += is_new
    return written


def _passed(used: Decimal, ceiling: Decimal) -> list[int]:
    return [percent for percent in PERCENTS if used * 100 >= ceiling * percent]


# --- the webhook ----------------------------------------------------------------------------------------------------


def send_due(now: dt.datetime) -> tuple[int, int]:
    """Send what is due; return how many arrived and how many did not."""
    arrived = failed = 0
    if not settings.GATEWAY_WEBHOOK_URL:
        return 0, 0
    for alert in (
        Alert.objects.filter(due_at__lte=now).select_related("tenant", "api_key").order_by("due_at")[:SEND_LIMIT]
    ):
        claimed_until = timezone.now() + dt.timedelta(seconds=CLAIM_SECONDS)
        if not Alert.objects.filter(pk=alert.pk, due_at=alert.due_at).update(
            due_at=claimed_until, attempts=F("attempts") + 1
        ):
            continue  # another worker has it
        if _send(alert):
            arrived += 1
        else:
            failed += 1
    return arrived, failed


def _send(alert: Alert) -> bool:
    attempts = alert.attempts + 1
    body = orjson.dumps(payload(alert))
    try:
        outbound.post(
            settings.GATEWAY_WEBHOOK_URL,
            body=body,
            signed=signature(body, at=timezone.now()),
            allows_private=settings.GATEWAY_WEBHOOK_ALLOW_PRIVATE,
        )
    except outbound.OutboundError as error:
        pause = PAUSES[attempts - 1] if attempts <= len(PAUSES) else None
        due_at = None if pause is None else timezone.now() + dt.timedelta(seconds=pause)
        Alert.objects.filter(pk=alert.pk).update(due_at=due_at, message=str(error)[:300])
        logger.warning("alert %s did not reach the webhook: %s", alert.name, error)
        return False
    Alert.objects.filter(pk=alert.pk).update(due_at=None, delivered_at=timezone.now(), message="")
    return True


def payload(alert: Alert) -> dict[str, object]:
    """Return what the webhook is sent. `id` is the same each time one alert is sent."""
    return {
        "id": alert.name,
        "type": "ceiling",
        "created_at": alert.created_at.isoformat(),
        "tenant": alert.tenant.name,
        "api_key": alert.api_key.name if alert.api_key else None,
        "period": alert.period,
        "began_on": alert.began_on.isoformat(),
        "percent": alert.percent,
        "spent_usd": str(alert.spent_usd),
        "ceiling_usd": str(alert.ceiling_usd),
    }


def signature(body: bytes, *, at: dt.datetime) -> dict[str, str]:
    """Return the header that proves who sent `body`: `X-Gateway-Signature: t=<seconds>,v1=<hex>`, the HMAC-SHA-256 of
    `<seconds>.<body>` under GATEWAY_WEBHOOK_SECRET. The time keeps an old message from being sent again by others."""
    seconds = str(int(at.timestamp()))
    secret = settings.GATEWAY_WEBHOOK_SECRET.encode()
    digest = hmac.new(secret, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-Gateway-Signature": f"t={seconds},v1={digest}"}
