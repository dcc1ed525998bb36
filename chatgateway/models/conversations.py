"""Conversations, the chats of clients that lead to them, and the messages that were sent in them."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone

from chatgateway.models.agent_servers import AgentServer
from chatgateway.querysets import ConversationQuerySet
from profiles.models import ApiKey, Profile, Tenant


class Conversation(models.Model):
    """A lasting thread of one tenant with one profile, and the agent-server conversation that carries it.

    The primary key, the id callers see and the agent-server's conversation id are one UUID, chosen here. A row
    is written when the first turn opens, before the agent-server is called.
    """

    class State(models.TextChoices):
        NEW = "new", "not started yet"
        LIVE = "live", "on its agent-server"
        DELETED = "deleted", "deleted by its owner"
        LOST = "lost", "its agent-server lost it"
        EXPIRED = "expired", "removed from its agent-server after its idle time"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.SET_NULL, null=True, related_name="conversations")
    api_key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="conversations")
    profile = models.ForeignKey(Profile, models.SET_NULL, null=True, related_name="conversations")
    agent_server = models.ForeignKey(AgentServer, models.SET_NULL, null=True, related_name="conversations")
    tenant_name = models.CharField(max_length=100)
    profile_slug = models.CharField(max_length=100)
    server_url = models.CharField(max_length=500, blank=True)
    end_user = models.CharField(max_length=256, blank=True, help_text="As the caller named the person, if it did.")
    state = models.CharField(max_length=10, choices=State, default=State.NEW)
    # How often the agent-server conversation was made anew under this id: its sequence numbers start at 0 each time.
    incarnation = models.PositiveIntegerField(default=0)
    working_dir = models.CharField(max_length=600, blank=True)
    system_suffix = models.TextField(blank=True, help_text="The caller's system and developer messages.")
    # Those of one turn alone: the next one without them, or with others, has its agent made anew.
    instructions = models.TextField(
        blank=True, help_text="The `instructions` that its agent was made with, by a request to /v1/responses."
    )
    # Made by `POST /v1/conversations`, before there is a turn or a profile.
    metadata = models.JSONField(default=dict, blank=True, help_text="As given to /v1/conversations.")
    first_items = models.ForeignKey(
        "Message",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The last of the items that /v1/conversations was given to begin with.",
    )
    # Digests of what the agent-server conversation was made with. A changed LLM or key is switched in place; a
    # changed prompt, tool list or system text needs a new one.
    agent_digest = models.CharField(max_length=64, blank=True)
    llm_digest = models.CharField(max_length=64, blank=True)
    # The highest sequence number seen, and where the log stood after the last good turn: a failed turn is
    # navigated away from before the next one, so that its half-done messages do not reach the model.
    cursor = models.IntegerField(default=-1)
    good_leaf_event_id = models.CharField(max_length=64, blank=True)
    needs_navigation = models.BooleanField(default=False)
    # The agent-server's cumulative token counts at the end of the last turn, by usage id.
    usage_baseline = models.JSONField(default=dict, blank=True)
    # The conversation whose history the first turn of this one was told, where the caller did not send it.
    told_from = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="told_again")
    # The turn of another conversation at which this one branched off: its agent is a fork of that one's.
    branched_at = models.ForeignKey("Turn", models.SET_NULL, null=True, blank=True, related_name="branches")
    # The first of the conversations that go back to one another; empty for that one itself. Whoever names one of
    # them, or a chat that began with one, may go on with any.
    root = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="descendants")
    created_at = models.DateTimeField(default=timezone.now)
    last_turn_at = models.DateTimeField(default=timezone.now)
    # When it may be removed from its agent-server: the idle time after its last turn, one hour if that was not stored.
    expires_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["-created_at"], name="conversation_newest"),  # the admin's list
            models.Index(fields=["tenant", "-created_at"], name="conversation_of_tenant"),  # filter by tenant
            # servers.place: how many conversations a server holds
            models.Index(fields=["agent_server"], name="conversation_live", condition=Q(state="live")),
            # lifetime.expire: those whose idle time is over
            models.Index(
                fields=["expires_at"], name="conversation_expires", condition=Q(state__in=("new", "live", "lost"))
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def has_home(self) -> bool:
        """Whether it belongs to one agent-server, where its turns run."""
        return self.agent_server_id is not None and self.state in (self.State.NEW, self.State.LIVE)

    @property
    def is_to_be_forked(self) -> bool:
        """Whether its agent is to be a fork that has not been made yet."""
        return self.branched_at_id is not None and self.state == self.State.NEW

    @property
    def is_fresh_fork(self) -> bool:
        """Whether its agent is a fork that was never spoken to. A fork has lost its LLM's key, and is given it together
        with its first message."""
        return self.branched_at_id is not None and self.state == self.State.LIVE and not self.llm_digest

    @property
    def must_be_told(self) -> bool:
        """Whether the agent of the next turn is a new one, which knows nothing of the turns before."""
        return self.state in (self.State.LOST, self.State.EXPIRED)


class ClientChat(models.Model):
    """A chat that a client names by an id of its own, and the conversation that goes on in it.

    The same id means another chat for another tenant, profile or end user, and for a key that sees only its own.
    """

    # Of all that the id is mapped by: an index over texts of any length, and one that works without an end user too.
    digest = models.CharField(max_length=64, unique=True)
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="client_chats")
    profile = models.ForeignKey(Profile, models.CASCADE, related_name="client_chats")
    end_user = models.CharField(max_length=256, blank=True)
    chat_id = models.CharField(max_length=256, help_text="As the client wrote it, cut to 256 characters.")
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="client_chats")
    # Its client has sent its history before, so a message without one is the chat's first one, edited or asked again.
    sends_history = models.BooleanField(default=False, db_default=False)
    created_at = models.DateTimeField(default=timezone.now)
    used_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-used_at"]

    def __str__(self) -> str:
        return self.chat_id


class Message(models.Model):
    """One message of a caller's request, stored once per tenant and place in a history.

    Messages form chains. The primary key is taken from a digest of the tenant, the messages before this one and
    this one (`audit.message_ids`), so a client that sends its whole history again points to rows that exist.
    `body` is the message as sent, but for images in data URLs, which are replaced by `{"$image": "<sha256>"}`
    and stored once in `Image`.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="messages")
    parent = models.ForeignKey("self", models.PROTECT, null=True, related_name="children")
    depth = models.PositiveIntegerField(help_text="0 for the first message of a request.")
    role = models.CharField(max_length=20, blank=True)
    body = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.role} message {self.pk}"


class Image(models.Model):
    """The text of a data URL that a caller sent, stored once per tenant."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="images")
    sha256 = models.CharField(max_length=64)
    data_url = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "sha256"], name="image_once")]

    def __str__(self) -> str:
        return self.sha256
