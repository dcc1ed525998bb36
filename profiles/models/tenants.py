"""Whom traffic is for."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from profiles.ceilings import CeilingColumns


class Tenant(CeilingColumns):
    """Whom traffic is for: a customer, a team, a person. Owns keys and conversations.

    A conversation belongs to the tenant and not to the key, so that replacing a key keeps the history.
    """

    name = models.CharField(max_length=100, unique=True, help_text="Shown in lists, reports and filters.")
    notes = models.TextField(blank=True, help_text="For administrators only.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
