"""What is still to be removed from agent-servers."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from chatgateway.models.agent_servers import AgentServer
from chatgateway.models.conversations import Conversation


class Leftover(models.Model):
    """Something on an agent-server that is to be removed there: a conversation, or a conversation's own directory.

    Written in the transaction that makes it superfluous, deleted when it is gone: whatever dies in between, the next
    sweep (`lifetime`) finds the row.
    """

    class Kind(models.TextChoices):
        CONVERSATION = "conversation", "conversation"
        DIRECTORY = "directory", "working directory"

    kind = models.CharField(max_length=12, choices=Kind)
    agent_server = models.ForeignKey(AgentServer, models.CASCADE, related_name="leftovers")
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="leftovers")
    incarnation = models.PositiveIntegerField(default=0)
    path = models.CharField(max_length=600, blank=True, help_text="Of a directory: absolute, on the agent-server.")
    due_at = models.DateTimeField(default=timezone.now)
    # A worker is removing it until then at the latest: no turn of its conversation begins on the server meanwhile.
    claimed_until = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    message = models.CharField(max_length=300, blank=True, help_text="Why the last attempt failed.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["due_at"]
        indexes = [models.Index(fields=["due_at"], name="leftover_due")]  # lifetime.remove_leftovers
        constraints = [
            # Left behind twice before it was removed, it is removed once, at the later time.
            models.UniqueConstraint(fields=["agent_server", "conversation", "kind"], name="leftover_once"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.conversation_id}"
