"""Who read the record, and what was removed from it."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from chatgateway.models.conversations import Conversation
from chatgateway.models.turns import Turn
from profiles.models import Tenant


class TranscriptReading(models.Model):
    """One time that somebody read, in the admin, what callers asked and agents did and answered. Written by `readings`
    before the text is sent; never changed, never deleted."""

    class What(models.TextChoices):
        TURN = "turn", "a turn's page"
        CONVERSATION = "conversation", "a conversation's page"
        REQUEST = "request", "a request as it was sent"
        RESPONSE = "response", "a reply as it was sent"
        EVENTS = "events", "an agent-server's events"
        EXPORT = "export", "an export or report"
        SEARCH = "search", "a search in texts"

    at = models.DateTimeField(default=timezone.now)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    username = models.CharField(max_length=150)
    address = models.CharField(max_length=64, blank=True)
    what = models.CharField(max_length=20, choices=What)
    turn = models.ForeignKey(Turn, models.SET_NULL, null=True, related_name="readings")
    conversation = models.ForeignKey(Conversation, models.SET_NULL, null=True, related_name="readings")
    tenant_name = models.CharField(max_length=100, blank=True)
    turns = models.PositiveIntegerField(default=1, help_text="How many turns' texts were on the page or in the file.")
    selection = models.CharField(max_length=500, blank=True, help_text="Of an export or a search: what was selected.")

    class Meta:
        ordering = ["-at"]
        indexes = [models.Index(fields=["-at"], name="reading_newest")]  # the admin's list

    def __str__(self) -> str:
        return f"{self.username} read {self.get_what_display()}"


class Erasure(models.Model):
    """The removal of everything that one end user of a tenant said and was told, as somebody asked for it.

    Written when it is asked for, carried out by `removal` in batches. Once it is done the person's id is taken off the
    row too; `end_user_digest` stays, so that somebody who has the id can find out whether it was erased, and when.
    """

    tenant = models.ForeignKey(
        Tenant, models.SET_NULL, null=True, related_name="erasures", help_text="Whose end user it is."
    )
    tenant_name = models.CharField(max_length=100, editable=False)
    end_user = models.CharField(
        "end user",
        max_length=256,
        blank=True,
        help_text="The id by which callers name the person: the request's `user`, or the header of their client.",
    )
    end_user_digest = models.CharField(max_length=64, editable=False)
    asked_by = models.CharField(max_length=200, editable=False)
    asked_at = models.DateTimeField(default=timezone.now, editable=False)
    turns = models.PositiveIntegerField(default=0, editable=False, help_text="Turns whose texts were removed.")
    conversations = models.PositiveIntegerField(
        default=0, editable=False, help_text="Conversations that were ended, on their agent-servers too."
    )
    done_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        verbose_name = "deletion of an end user's data"
        verbose_name_plural = "deletions of end users' data"
        ordering = ["-asked_at"]

    def __str__(self) -> str:
        return f"end user {self.end_user_digest[:12]} of {self.tenant_name}"
