"""Turns, the requests that wait for them, and what happened in them."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone

from chatgateway.models.agent_servers import AgentServer
from chatgateway.models.conversations import Conversation, Message
from chatgateway.querysets import TurnQuerySet
from profiles.models import ApiKey, Profile, Tenant

# The endpoint whose turns have their shown pieces kept (`Frame`).
RESPONSES = "responses"


class Turn(models.Model):
    """One request to an agent, or the refusal of one, and what became of it.

    Written by `audit` only: opened before an agent is set to work, closed exactly once however the turn ends.
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
    # The request that opened it, as a parent of spans (W3C); empty when traces are off.
    traceparent = models.CharField(max_length=55, blank=True, default="", db_default="")
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
            ("export_turn", "Can export turns and make reports; with texts for those who can read them"),
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
            # retention.sweep: what is to lose its texts next. Before it in the order of time lies all that lost them
            # already, in the end almost every turn there is.
            models.Index(
                fields=["profile", "opened_at"],
                name="turn_with_content",
                condition=Q(content_removed_at__isnull=True),
            ),
            models.Index(fields=["conversation", "arrival"], name="turn_in_conversation"),  # whose turn it is
            models.Index(fields=["api_key", "-opened_at"], name="turn_of_key"),  # ceilings.admit; filter by key
            # the admin's filter by end user, and erasures
            models.Index(fields=["end_user", "-opened_at"], name="turn_of_end_user", condition=~Q(end_user="")),
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
            # servers.grant and takeover.adopt_expired: open turns, a handful among millions
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
        indexes = [
            models.Index(fields=["turn", "seq"], name="event_of_turn"),  # a turn's page
            # the admin's filter by tool
            models.Index(fields=["tool", "turn"], name="event_of_tool", condition=Q(kind="ActionEvent")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.seq}"


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
