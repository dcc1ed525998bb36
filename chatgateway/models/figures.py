"""What turns came to, hour by hour: what charts are drawn from, so that a month need not be counted turn by turn."""

from __future__ import annotations

from django.db import models

from profiles.models import ApiKey, Profile, Tenant


class HourlyTraffic(models.Model):
    """The turns that one key opened with one profile within one hour (UTC), summed when the hour is over.

    Written by `hourly` alone. It outlives the turns, and says who the key, the tenant and the profile were; hence no
    constraints on these columns.
    """

    hour = models.DateTimeField(help_text="When the hour began.")
    tenant = models.ForeignKey(
        Tenant, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    api_key = models.ForeignKey(
        ApiKey, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    profile = models.ForeignKey(
        Profile, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    tenant_name = models.CharField(max_length=100, blank=True)
    key_name = models.CharField(max_length=100, blank=True)
    profile_slug = models.CharField(max_length=100, blank=True)
    turns = models.PositiveIntegerField(default=0)
    answered = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0, help_text="Failed, timed out or abandoned.")
    refused = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    saved = models.PositiveIntegerField(default=0, help_text="Housekeeping calls that were answered without an agent.")
    unpriced = models.PositiveIntegerField(default=0, help_text="Turns that used something whose price is unknown.")
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=18, decimal_places=8, default=0)
    saved_cost_usd = models.DecimalField(
        max_digits=18, decimal_places=8, default=0, help_text="Of `cost_usd`: what the housekeeping calls cost."
    )

    class Meta:
        verbose_name_plural = "hourly traffic"
        indexes = [models.Index(fields=["hour"], name="hourly_traffic_of")]  # hourly.read

    def __str__(self) -> str:
        return f"{self.hour}: {self.turns} turns"


class HourlyTimes(models.Model):
    """How long the agents' turns of one hour (UTC) took. Written by `hourly` alone; that it is there says that the
    hour was summed.

    Each column counts turns by steps of 10 %: `{"24": 3}` are three turns of 1.1²⁴ to 1.1²⁵ seconds.
    """

    hour = models.DateTimeField(primary_key=True, help_text="When the hour began.")
    queue = models.JSONField(default=dict, help_text="From opening until the turn had an agent-server.")
    first_text = models.JSONField(default=dict, help_text="From opening to the first text of the answer.")
    total = models.JSONField(default=dict, help_text="From opening to the end.")

    class Meta:
        verbose_name_plural = "hourly times"

    def __str__(self) -> str:
        return str(self.hour)
