"""Where agents run."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from chatgateway.querysets import AgentServerQuerySet
from profiles.fields import EncryptedTextField
from profiles.http_urls import validate_http_url
from profiles.models import Profile


class AgentServer(models.Model):
    """One backend process that runs agents, reached by URL."""

    class State(models.TextChoices):
        ACTIVE = "active", "active"
        DRAINING = "draining", "draining: no new conversations"
        DISABLED = "disabled", "disabled"

    class Health(models.TextChoices):
        UNKNOWN = "unknown", "not checked yet"
        UP = "up", "up"
        DOWN = "down", "down"

    name = models.CharField(max_length=100, unique=True)
    url = models.CharField(
        "URL",
        max_length=500,
        unique=True,
        validators=[validate_http_url],
        help_text="Such as http://10.0.0.5:8000. Changing the host clears the key.",
    )
    session_api_key = EncryptedTextField(
        "session API key",
        help_text="The server's OH_SESSION_API_KEYS_0. Stored encrypted and never shown again; leave empty to keep it.",
    )
    capacity = models.PositiveIntegerField(
        default=10,
        validators=[MinValueValidator(1)],
        help_text="Agents running at once. Not more than the server's OH_MAX_CONCURRENT_RUNS (10 by default).",
    )
    max_conversations = models.PositiveIntegerField(
        "most conversations",
        default=500,
        validators=[MinValueValidator(1)],
        help_text="Conversations kept on the server at once; each takes about half a MiB of its memory. Beyond that, "
        "those idle for longest are removed there and told anew from the record when somebody goes on with them.",
    )
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    workspace_root = models.CharField(
        max_length=500,
        help_text="An absolute directory on the server; each conversation gets a directory of its own below it.",
    )
    profiles = models.ManyToManyField(
        Profile,
        blank=True,
        related_name="allowed_servers",
        help_text="Profiles that are bound to this server. A profile bound to no server may run on any.",
    )
    health = models.CharField(max_length=10, choices=Health, default=Health.UNKNOWN, editable=False)
    health_checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    health_message = models.CharField(max_length=300, blank=True, editable=False)
    # Set by the first failure after a success, cleared by the next success: how long it has been away.
    down_since = models.DateTimeField(null=True, blank=True, editable=False)
    version = models.CharField(max_length=40, blank=True, editable=False)
    capabilities = models.JSONField(default=list, blank=True, editable=False)
    usable_tools = models.JSONField(default=list, blank=True, editable=False)
    is_embedded = models.BooleanField(
        default=False, editable=False, help_text="Started and kept by this gateway's own start command."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AgentServerQuerySet.as_manager()

    class Meta:
        verbose_name = "agent-server"
        ordering = ["name"]
        permissions = [("operate_agentserver", "Can test, drain, disable and activate agent-servers")]
        constraints = [
            models.CheckConstraint(
                name="agent_server_workspace_root_absolute",
                condition=Q(workspace_root__startswith="/"),
                violation_error_message="The workspace root must be an absolute path.",
            ),
        ]

    def __str__(self) -> str:
        return self.name
