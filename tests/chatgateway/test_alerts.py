"""Warnings of ceilings: when they are written, and how they reach the operator's webhook."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
from django.utils import timezone

from chatgateway import alerts, outbound
from chatgateway.models import Alert, DailyUsage
from profiles.models import ApiKey, Tenant
from tests import factories

SECRET = "a secret of sixteen"


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, and answers with `status`."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?for=us"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(settings) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        settings.GATEWAY_WEBHOOK_URL, settings.GATEWAY_WEBHOOK_SECRET = server.url, SECRET
        settings.GATEWAY_WEBHOOK_ALLOW_PRIVATE = True
        yield server
        server.shutdown()
        thread.join()


def key_that_spent(cost: str, **ceilings: str) -> ApiKey:
    key = factories.api_key(**{name: Decimal(value) for name, value in ceilings.items()}).row
    today = timezone.now().astimezone(dt.UTC).date()
    DailyUsage.objects.create(tenant=key.tenant, api_key=key, day=today, turns=1, cost_usd=Decimal(cost))
    return key


@pytest.mark.django_db
@pytest.mark.parametrize(("cost", "percents"), [("0.79", []), ("0.80", [80]), ("0.99", [80]), ("1", [80, 100])])
def test_a_ceiling_is_warned_of_once_at_each_threshold(cost: str, percents: list[int]) -> None:
    key_that_spent(cost, max_usd_per_day="1")

    assert alerts.look(timezone.now()) == len(percents)
    assert alerts.look(timezone.now()) == 0
    assert sorted(Alert.objects.values_list("percent", flat=True)) == percents


@pytest.mark.django_db
def test_a_tenants_ceiling_counts_all_its_keys(settings) -> None:
    first = key_that_spent("0.5")
    second = factories.api_key(tenant=first.tenant).row
    DailyUsage.objects.create(
        tenant=first.tenant, api_key=second, day=timezone.now().astimezone(dt.UTC).date(), cost_usd=Decimal("0.4")
    )
    Tenant.objects.update(max_usd_per_month=Decimal(1))

    alerts.look(timezone.now())

    alert = Alert.objects.get()
    assert (alert.api_key, alert.period, alert.percent, alert.spent_usd) == (None, "month", 80, Decimal("0.9"))
    assert alert.due_at is None  # there is no webhook


@pytest.mark.django_db
def test_the_webhook_is_told_once_and_signed(receiver: Receiver) -> None:
    key = key_that_spent("0.85", max_usd_per_day="1")
    alerts.look(timezone.now())

    assert alerts.send_due(timezone.now()) == (1, 0)
    assert alerts.send_due(timezone.now() + dt.timedelta(days=1)) == (0, 0)

    [(headers, body)] = receiver.received
    sent = dict(part.split("=", 1) for part in headers["X-Gateway-Signature"].split(","))
    signed = hmac.new(SECRET.encode(), sent["t"].encode() + b"." + body, hashlib.sha256)
    assert sent["v1"] == signed.hexdigest()
    told = json.loads(body)
    assert (told["tenant"], told["api_key"], told["percent"]) == (key.tenant.name, key.name, 80)
    assert Decimal(told["spent_usd"]) == Decimal("0.85")


@pytest.mark.django_db
@pytest.mark.parametrize("status", [500, 404, 302])
def test_what_does_not_arrive_is_sent_again_later_and_given_up_in_the_end(receiver: Receiver, status: int) -> None:
    key_that_spent("0.85", max_usd_per_day="1")
    alerts.look(timezone.now())
    receiver.status = status

    for pause in alerts.PAUSES:
        assert alerts.send_due(timezone.now()) == (0, 1)
        assert alerts.send_due(timezone.now()) == (0, 0)
        due_in = (Alert.objects.get().due_at - timezone.now()).total_seconds()
        assert pause - 30 < due_in <= pause
        Alert.objects.update(due_at=timezone.now())
    assert alerts.send_due(timezone.now()) == (0, 1)

    alert = Alert.objects.get()
    assert (alert.due_at, alert.delivered_at) == (None, None)
    assert str(status) in alert.message
    assert len(receiver.received) == len(alerts.PAUSES) + 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    with pytest.raises(outbound.OutboundError, match="not public"):
        outbound.post(f"http://{host}:9/", body=b"{}", signed={}, allows_private=False)


def test_a_host_that_does_not_exist_is_told() -> None:
    with pytest.raises(outbound.OutboundError, match="was not found"):
        outbound.post("https://nobody.invalid/", body=b"{}", signed={}, allows_private=False)
