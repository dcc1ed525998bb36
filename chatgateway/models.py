"""The traffic: agent-servers, conversations, turns and what happened in them.

History rows outlive what they point to: their foreign keys become null, and the names they were written with stay.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from chatgateway.querysets import AgentServerQuerySet, ConversationQuerySet, TurnQuerySet
from profiles.fields import EncryptedTextField
from profiles.http_urls import validate_http_url
from profiles.models import ApiKey, Profile, Tenant


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
        permissions = [("operate_agentserver", "Can test agent-servers")]
        constraints = [
            models.CheckConstraint(
                name="agent_server_workspace_root_absolute",
                condition=Q(workspace_root__startswith="/"),
                violation_error_message="The workspace root must be an absolute path.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


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


class TaskRun(models.Model):
    """The last run of a background task, one row per task; written by the worker as the task begins and ends."""

    class Outcome(models.TextChoices):
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"

    name = models.CharField(max_length=100, unique=True)
    outcome = models.CharField(max_length=10, choices=Outcome)
    message = models.CharField(max_length=300, blank=True)
    # How often it should run: a run that began much longer ago than this died with its worker.
    every_seconds = models.PositiveIntegerField(default=0)
    runs = models.PositiveBigIntegerField(default=0)
    failures = models.PositiveBigIntegerField(default=0)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "background task"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


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


# The endpoint whose turns have their shown pieces kept (`Frame`).
RESPONSES = "responses"


class Turn(models.Model):
    """One request to an agent, or the refusal of one, and what became of it.

    Written by `audit` only: opened before an agent-server is called, closed exactly once however the turn ends.
    Requests that a client repeated because it lost the answer join the turn as further `Attempt` rows.
    """

    class Outcome(models.TextChoices):
        OPEN = "open", "open"
        ANSWERED = "answered", "answered"
        FAILED = "failed", "failed"
        REFUSED = "refused", "refused"
        CANCELLED = "cancelled", "cancelled"
        TIMED_OUT = "timed_out", "timed out"
        ABANDONED = "abandoned", "abandoned"

    class Kind(models.TextChoices):
        AGENT = "agent", "agent"
        HOUSEKEEPING = "housekeeping", "housekeeping"

    class AnsweredBy(models.TextChoices):
        LLM = "llm", "the profile's LLM"
        UTILITY_LLM = "utility_llm", "the profile's LLM for housekeeping"
        TEMPLATE = "template", "the gateway"

    class Phase(models.TextChoices):
        QUEUED = "queued", "waiting for its conversation or for a free agent-server"
        STARTING = "starting", "preparing the agent"
        RUNNING = "running", "the agent works"
        CLOSED = "closed", "closed"

    # `cancel_reason` of a turn that was stopped because it cost too much.
    CEILING = "ceiling"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # What clients call it: chatcmpl-… or resp_…, fixed at opening so that every subscriber sends the same.
    reply_id = models.CharField(max_length=80, blank=True)
    request_id = models.CharField(max_length=64, db_index=True)  # support looks turns up by it
    endpoint = models.CharField(max_length=40)
    kind = models.CharField(
        max_length=12,
        choices=Kind,
        default=Kind.AGENT,
        help_text="housekeeping: sent by a chat UI itself, and answered without an agent.",
    )
    housekeeping_task = models.CharField(
        max_length=20,
        blank=True,
        help_text="title, tags, follow_ups, queries, autocomplete, emoji, image_prompt, other.",
    )
    answered_by = models.CharField(
        max_length=12, choices=AnsweredBy, blank=True, help_text="Who answered a housekeeping call."
    )
    tenant = models.ForeignKey(Tenant, models.SET_NULL, null=True, related_name="turns")
    api_key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="turns")
    profile = models.ForeignKey(Profile, models.SET_NULL, null=True, related_name="turns")
    conversation = models.ForeignKey(Conversation, models.SET_NULL, null=True, related_name="turns")
    agent_server = models.ForeignKey(AgentServer, models.SET_NULL, null=True, related_name="turns")
    tenant_name = models.CharField(max_length=100, blank=True)
    key_name = models.CharField(max_length=100, blank=True)
    key_prefix = models.CharField(max_length=40, blank=True)
    model_id = models.CharField(max_length=300, blank=True, help_text="As the caller wrote it.")
    profile_snapshot = models.JSONField(default=dict, help_text="The profile at that moment, without secrets.")
    server_url = models.CharField(max_length=500, blank=True)
    end_user = models.CharField(max_length=256, blank=True)
    incarnation = models.PositiveIntegerField(default=0)

    # --- the request ---
    is_stream = models.BooleanField(default=False)
    parameters = models.JSONField(
        default=dict,
        help_text="The body without its messages: `messages` or `input` stands as null, `input` as an empty text if it "
        "was one, where they stood.",
    )
    last_message = models.ForeignKey(Message, models.PROTECT, null=True, related_name="turns")
    ignored_parameters = models.JSONField(default=list)
    match = models.CharField(
        max_length=40,
        blank=True,
        help_text="How the conversation was found: header, client-id, history, fork, replay, new.",
    )
    elided_messages = models.PositiveIntegerField(
        default=0,
        help_text="Messages of the told history that were left out or shortened to fit into the LLM's context window.",
    )
    # The turn after which this one goes on: in its conversation, or in a fork of it. Of the turns that go on with one
    # conversation each has a parent of its own (a failed turn gives it back); any number may fork at it.
    parent = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="children")
    # Digests of the history up to the caller's message, and up to the answer as it was delivered: a client that sends
    # its history again is recognised by them (`openai_api.histories`).
    request_digest = models.CharField(max_length=64, blank=True)
    end_digest = models.CharField(max_length=64, blank=True)
    continued_text = models.TextField(
        blank=True, help_text="What the caller had of an answer that this turn goes on with: “Continue” of chat UIs."
    )
    # Where the agent-server's log stood when the turn had ended: a conversation that goes another way from here is
    # forked at this event. A failed turn leaves it where it was.
    leaf_event_id = models.CharField(max_length=64, blank=True)
    client = models.CharField(max_length=200, blank=True, help_text="The client's name and version, as it says.")
    address = models.CharField(max_length=64, blank=True)

    # What a repeated request is recognised by: the client's own key, and a digest of method, path, body and the
    # headers that choose a conversation or an end user. The key is taken off after a day and from refused turns.
    idempotency_key = models.CharField(max_length=255, blank=True)
    retry_digest = models.CharField(max_length=64, blank=True)
    is_stored = models.BooleanField(
        default=True, help_text="Off: sent with `store: false`, or deleted since; not given out by GET."
    )

    # --- where it stands ---
    outcome = models.CharField(max_length=12, choices=Outcome, default=Outcome.OPEN)
    phase = models.CharField(max_length=12, choices=Phase, default=Phase.QUEUED)
    arrival = models.BigIntegerField(
        default=0, help_text="Orders the turns of a conversation and of the queue; microseconds since 1970."
    )
    cancel_reason = models.CharField(max_length=20, blank=True)  # disconnect, request, admin, key, ceiling
    # Asked for by any process; the one that drives the turn looks once a second.
    cancel_requested_at = models.DateTimeField(null=True)
    user_event_seq = models.IntegerField(null=True)  # the caller's message in the agent-server's log
    run_ended_at = models.DateTimeField(null=True)  # null with a server assigned: the run may still hold a slot
    deadline_at = models.DateTimeField(null=True)
    # The process that drives the turn. Every write of a driver says which generation it is, so that one that lost
    # its turn to another cannot spoil the record.
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_expires_at = models.DateTimeField(null=True)
    lease_generation = models.PositiveIntegerField(default=0)

    # --- the result ---
    answer = models.TextField(blank=True)
    reasoning = models.TextField(blank=True, help_text="What was shown beside the answer.")
    finish_reason = models.CharField(max_length=20, blank=True)
    http_status = models.PositiveSmallIntegerField(null=True)
    error_type = models.CharField(max_length=40, blank=True)
    error_code = models.CharField(max_length=60, blank=True)
    error_param = models.CharField(max_length=200, blank=True)
    error_message = models.TextField(blank=True, help_text="What the caller was told.")
    error_detail = models.TextField(blank=True, help_text="What the agent-server said; may hold a provider's text.")

    # --- tokens and money, of this turn alone ---
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    cache_write_tokens = models.PositiveIntegerField(default=0)
    reasoning_tokens = models.PositiveIntegerField(default=0)
    is_usage_estimated = models.BooleanField(default=False)
    prices = models.JSONField(default=dict, help_text="USD per million tokens at that moment; empty: unknown.")
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, null=True, help_text="Empty: price unknown.")
    held_usd = models.DecimalField(
        max_digits=14,
        decimal_places=8,
        null=True,
        help_text="Set aside while the turn is open, when its key or tenant has a ceiling in USD.",
    )

    # --- when ---
    opened_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, help_text="A slot was free and the agent-server was called.")
    accepted_at = models.DateTimeField(null=True, help_text="The agent-server took the message.")
    first_text_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)

    # --- what is no longer kept ---
    content_removed_at = models.DateTimeField(
        null=True, help_text="What was asked, done and answered was removed then; figures and times stay."
    )
    content_removed_by = models.CharField(
        max_length=200, blank=True, help_text="The policy that removed it, in words, such as “texts are kept 30 days”."
    )

    objects = TurnQuerySet.as_manager()

    class Meta:
        ordering = ["-opened_at"]
        permissions = [
            ("stop_turn", "Can stop turns"),
            ("read_transcript", "Can read what was asked, done and answered; each reading is recorded"),
        ]
        constraints = [
            models.CheckConstraint(
                name="turn_open_or_closed",
                condition=Q(outcome="open", closed_at__isnull=True) | (~Q(outcome="open") & Q(closed_at__isnull=False)),
            ),
            # Two requests with one key, on two processes at once: the second fails here and joins the first.
            models.UniqueConstraint(
                fields=["api_key", "idempotency_key"], name="turn_idempotency_key", condition=~Q(idempotency_key="")
            ),
            # One turn goes on after another; whoever comes second forks. A turn that came to nothing does not count.
            models.UniqueConstraint(
                fields=["parent"],
                name="turn_continued_once",
                condition=~Q(match="fork") & ~Q(outcome="refused") & ~Q(outcome="failed"),
            ),
        ]
        indexes = [
            models.Index(fields=["-opened_at"], name="turn_newest"),  # the admin's list
            models.Index(fields=["tenant", "-opened_at"], name="turn_of_tenant"),  # filter by tenant
            models.Index(fields=["profile", "-opened_at"], name="turn_of_profile"),  # last turn, failures in 24 h
            models.Index(fields=["conversation", "arrival"], name="turn_in_conversation"),  # whose turn it is
            models.Index(fields=["api_key", "-opened_at"], name="turn_of_key"),  # ceilings.admit; filter by key
            # repeats.find: the newest turn of a key with this digest
            models.Index(fields=["api_key", "retry_digest", "-arrival"], name="turn_repeated"),
            # places.find: the newest turns that ended with a history
            models.Index(fields=["end_digest", "-arrival"], name="turn_ended_with"),
            # places.find: the newest that began with one and were not answered. Answered ones are looked up by their
            # end; a greeting that began thousands of them must not be in the way of the one that was stopped.
            models.Index(
                fields=["request_digest", "-arrival"],
                name="turn_began_unanswered",
                condition=~Q(outcome__in=("answered", "refused")),
            ),
            # servers.grant and turns.adopt_expired: open turns, a handful among millions
            models.Index(fields=["arrival"], name="turn_open", condition=Q(outcome="open")),
            # servers.grant: closed turns whose run may still hold a slot
            models.Index(
                fields=["agent_server"],
                name="turn_holds_slot",
                condition=Q(run_ended_at__isnull=True, agent_server__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.reply_id or str(self.id)

    @property
    def is_response(self) -> bool:
        """Whether it was asked for at /v1/responses."""
        return self.endpoint == RESPONSES

    @property
    def is_background(self) -> bool:
        return bool(self.is_response and self.parameters.get("background"))

    @property
    def is_resumable(self) -> bool:
        """Whether what it shows is written down before it is sent, so that a stream can be gone on with."""
        return self.is_response and self.is_stored and (self.is_stream or self.is_background)


class Attempt(models.Model):
    """One HTTP request that waits, or waited, for a turn: the first, and each repeat that joined it."""

    turn = models.ForeignKey(Turn, models.CASCADE, related_name="attempts")
    request_id = models.CharField(max_length=64, db_index=True)
    address = models.CharField(max_length=64, blank=True)
    client = models.CharField(max_length=200, blank=True)
    retry_count = models.PositiveSmallIntegerField(null=True, help_text="As the SDK counts them; empty: not said.")
    attached_at = models.DateTimeField(default=timezone.now)
    # Renewed by the process that serves the request: one whose process died waits for nothing.
    lease_expires_at = models.DateTimeField(null=True)
    detached_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True, help_text="The last byte left and the caller was still there.")

    class Meta:
        ordering = ["attached_at"]
        # audit.cancel_if_nobody_waits
        indexes = [models.Index(fields=["turn"], name="attempt_attached", condition=Q(detached_at__isnull=True))]

    def __str__(self) -> str:
        return self.request_id


class Event(models.Model):
    """One record of the agent-server's log that belongs to a turn, as it was sent."""

    turn = models.ForeignKey(Turn, models.CASCADE, related_name="events")
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="events")
    incarnation = models.PositiveIntegerField(default=0)
    seq = models.IntegerField()
    kind = models.CharField(max_length=60)
    source = models.CharField(max_length=20, blank=True)
    tool = models.CharField(max_length=100, blank=True)
    summary = models.CharField(max_length=300, blank=True)
    is_error = models.BooleanField(default=False)
    raw = models.JSONField()
    received_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["turn", "seq"]
        constraints = [
            # A feed that reconnects, or a second process, may deliver an event again.
            models.UniqueConstraint(fields=["conversation", "incarnation", "seq"], name="event_once"),
        ]
        indexes = [models.Index(fields=["turn", "seq"], name="event_of_turn")]  # a turn's page

    def __str__(self) -> str:
        return f"{self.kind} {self.seq}"


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


class TranscriptReading(models.Model):
    """One time that somebody read, in the admin, what callers asked and agents did and answered. Written by `readings`
    before the text is sent; never changed, never deleted."""

    class What(models.TextChoices):
        TURN = "turn", "a turn's page"
        CONVERSATION = "conversation", "a conversation's page"
        REQUEST = "request", "a request as it was sent"
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


class Frame(models.Model):
    """What a response showed in one go: pieces of text and steps, in the order their events are numbered.

    Written by `frame_log` only, before it is sent where a stream can be gone on with, else when the turn closes. All
    frames of a turn in order, and its end, are its stream.
    """

    turn = models.ForeignKey(Turn, models.CASCADE, related_name="frames")
    number = models.PositiveIntegerField(help_text="0 for the first of a turn.")
    pieces = models.JSONField(help_text='Such as ["text", "…"], ["message", "…"], ["thought", "…"], ["step", "…"].')
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["turn", "number"]
        # Two processes that both take themselves for the turn's driver: the second one fails here.
        constraints = [models.UniqueConstraint(fields=["turn", "number"], name="frame_once")]

    def __str__(self) -> str:
        return f"frame {self.number}"
