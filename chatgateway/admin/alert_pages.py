"""Warnings of ceilings in the admin."""

from __future__ import annotations

from django.contrib import admin

from chatgateway.models import Alert
from profiles.admin_theme import ReadOnlyAdmin, RelatedFilter, column, moment, usd


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin[Alert]):
    """Who has used most of a ceiling in USD, and whether the webhook was told."""

    empty_title = "No ceiling is near"
    empty_text = (
        "When a key or tenant has used 80 % of its USD per day or month, and again when all is used, it stands here "
        "and is sent to GATEWAY_WEBHOOK_URL if that is set."
    )
    list_display = ("at", "state", "whose", "used", "webhook")
    list_display_links = None
    list_filter = (("tenant", RelatedFilter), "period", "percent")
    list_select_related = ("tenant", "api_key")

    @column("since", ordering="created_at")
    def at(self, alert: Alert) -> str:
        return moment(alert.created_at)

    @column("state", labels={"80": "warning", "100": "danger"}, ordering="percent")
    def state(self, alert: Alert) -> tuple[str, str]:
        return str(alert.percent), "used up" if alert.percent >= 100 else f"{alert.percent} % used"

    @column("of")
    def whose(self, alert: Alert) -> str:
        if alert.api_key is None:
            return f"{alert.tenant}, all keys"
        return f"{alert.tenant}: {alert.api_key}"

    @column("then used")
    def used(self, alert: Alert) -> str:
        return f"{usd(alert.spent_usd)} of {usd(alert.ceiling_usd)} per {alert.period}"

    @column("webhook")
    def webhook(self, alert: Alert) -> str:
        if alert.delivered_at is not None:
            return f"told {moment(alert.delivered_at)}"
        if alert.due_at is not None:
            return f"next attempt {moment(alert.due_at)}. {alert.message}".strip()
        return f"given up: {alert.message}" if alert.message else "not told: none was set"
