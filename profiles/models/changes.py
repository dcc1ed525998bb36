"""Who changed what."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from profiles.models.keys import ApiKey


class ChangeRecord(models.Model):
    """One change of a tenant, key, profile or agent-server, or of who may sign in: who made it, what was before, what
    is after. Written by `changes` in the transaction that makes the change; never changed, never deleted."""

    class By(models.TextChoices):
        PERSON = "person", "somebody in the admin"
        API_KEY = "api_key", "an API key over REST"
        PROGRAM = "program", "a command"

    class Action(models.TextChoices):
        ADDED = "added", "added"
        CHANGED = "changed", "changed"
        DELETED = "deleted", "deleted"

    at = models.DateTimeField(default=timezone.now)
    by = models.CharField(max_length=10, choices=By)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    api_key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="+")
    actor = models.CharField(max_length=200, help_text="The name then: of a person, a key, a command.")
    address = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=10, choices=Action)
    kind = models.CharField(max_length=60, help_text="Which model, such as profiles.profile.")
    object_pk = models.CharField(max_length=40)
    name = models.CharField(max_length=200, help_text="What the changed row was called then.")
    fields = models.JSONField(
        default=dict, help_text="Each changed field with what it was before and after; secrets are masked."
    )
    note = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["-at"], name="change_newest"),  # the admin's list
            models.Index(fields=["kind", "object_pk", "-at"], name="change_of_object"),  # an object's history
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.action}"
