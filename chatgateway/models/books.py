"""What turns cost, summed and held against ceilings, and the warnings of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from chatgateway.models.turns import Turn
from profiles.models import ApiKey, Profile, Tenant


class LedgerEntry(models.Model):
    """What one turn used and cost. Written by `ledger` in the transaction that closes the turn, and never changed.

    It outlives the turn, its key and its tenant, and says who they were; hence no constraints on these columns.
    """

    at = models.DateTimeField(help_text="When the turn ended.")
    tenant = models.ForeignKey(Tenant, models.DO_NOTHING, null=True, db_constraint=False, related_name="+")
    api_key = models.ForeignKey(
        ApiKey, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    profile = models.ForeignKey(
        Profile, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    turn = models.OneToOneField(Turn, models.DO_NOTHING, db_constraint=False, related_name="+")
    tenant_name = models.CharField(max_length=100, blank=True)
    key_name = models.CharField(max_length=100, blank=True)
    profile_slug = models.CharField(max_length=100, blank=True)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    cache_write_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    is_estimated = models.BooleanField(default=False)
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, null=True, help_text="Empty: price unknown.")

    class Meta:
        verbose_name = "ledger entry"
        verbose_name_plural = "ledger entries"
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["api_key", "-at"], name="ledger_of_key"),  # ledger.tokens_since, usual_cost
            models.Index(fields=["tenant", "-at"], name="ledger_of_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.turn_id}: {self.cost_usd} USD"


class DailyUsage(models.Model):
    """The ledger's sums by key and day (UTC), kept up as entries are made: a month is read in 31 rows."""

    tenant = models.ForeignKey(
        Tenant, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="daily_usage"
    )
    api_key = models.ForeignKey(ApiKey, models.DO_NOTHING, null=True, db_constraint=False, related_name="daily_usage")
    day = models.DateField()
    turns = models.PositiveBigIntegerField(default=0)
    unpriced_turns = models.PositiveBigIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=18, decimal_places=8, default=0)

    class Meta:
        verbose_name_plural = "daily usage"
        ordering = ["-day"]
        constraints = [models.UniqueConstraint(fields=["tenant", "api_key", "day"], name="daily_usage_once")]

    def __str__(self) -> str:
        return f"{self.day}: {self.cost_usd} USD"


class Alert(models.Model):
    """That a key or a tenant has used most of a ceiling in USD, once for each ceiling, period and threshold.

    Written by `alerts`; sent to the webhook if there is one.
    """

    # key or tenant, its id, period, first day, percent: so that two sweeps at once write one row.
    name = models.CharField(max_length=80, unique=True)
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="alerts")
    api_key = models.ForeignKey(
        ApiKey, models.CASCADE, null=True, related_name="alerts", help_text="Empty: all keys of the tenant together."
    )
    period = models.CharField(max_length=5, choices=[("day", "day"), ("month", "month")])
    began_on = models.DateField(help_text="The first day of the period, UTC.")
    percent = models.PositiveSmallIntegerField(help_text="Of the ceiling: 80 or 100.")
    spent_usd = models.DecimalField(max_digits=18, decimal_places=8)
    ceiling_usd = models.DecimalField(max_digits=12, decimal_places=4)
    created_at = models.DateTimeField(default=timezone.now)
    # Of the webhook. Empty `due_at`: nothing is to be sent, or it was sent, or it was given up.
    due_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True)
    message = models.CharField(max_length=300, blank=True, help_text="Why the last attempt to send it failed.")

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["due_at"], name="alert_due", condition=Q(due_at__isnull=False))]

    def __str__(self) -> str:
        return f"{self.percent} % of {self.ceiling_usd} USD per {self.period}"
