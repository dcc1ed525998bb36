"""What a caller gets: an agent and its LLM."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from profiles.fields import EncryptedJSONField, EncryptedTextField
from profiles.http_urls import validate_http_url
from profiles.models.tenants import Tenant
from profiles.querysets import ProfileQuerySet

# What a model id may hold: the slug ends up in URLs and in clients that split ids at "/".
slug_validator = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,99}\Z",
    "Letters, digits and . _ : - only, starting with a letter or digit; at most 100 characters.",
)


class OnDisconnect(models.TextChoices):
    CANCEL = "cancel", "stop the agent"
    DETACH = "detach", "let the agent finish"


class Profile(models.Model):
    """An agent that callers can name as a model: an LLM, its parameters, tools, prompt and limits.

    Published as `openhands_{slug}`. The whole agent is sent inline to an agent-server when a conversation
    starts; nothing of it is stored there under a name.
    """

    class Source(models.TextChoices):
        ADMIN = "admin", "made by hand"
        API = "api", "made over REST"
        ENVIRONMENT = "environment", "made from LLM_MODEL"
        DEMO = "demo", "demo, no real model"

    class Workspace(models.TextChoices):
        PER_CONVERSATION = "per_conversation", "a new directory for each conversation"
        PER_KEY = "per_key", "one directory for each API key"
        FIXED = "fixed", "one fixed directory"

    class Thoughts(models.TextChoices):
        REASONING = "reasoning", "beside the answer, as reasoning"
        CONTENT = "content", "as part of the answer"
        HIDDEN = "hidden", "not shown"

    class Activity(models.TextChoices):
        REASONING = "reasoning", "beside the answer, as reasoning"
        HIDDEN = "hidden", "not shown"

    class ClientTools(models.TextChoices):
        REJECT = "reject", "refuse the request"
        IGNORE = "ignore", "ignore the tools"

    class WhenBusy(models.TextChoices):
        QUEUE = "queue", "wait until the agent is free"
        REJECT = "reject", "refuse with 409"

    class ReasoningEffort(models.TextChoices):
        NONE = "none", "none"
        MINIMAL = "minimal", "minimal"
        LOW = "low", "low"
        MEDIUM = "medium", "medium"
        HIGH = "high", "high"
        XHIGH = "xhigh", "extra high"
        MAX = "max", "maximum"

    slug = models.CharField(
        "name",
        max_length=100,
        unique=True,
        validators=[slug_validator],
        help_text="Callers write openhands_ and this name as the model. Changing it breaks their configuration.",
    )
    description = models.CharField(max_length=300, blank=True, help_text="Shown to callers in the list of models.")
    owner = models.ForeignKey(
        Tenant,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="profiles",
        help_text="Only keys of this tenant can use or see the profile. Empty: any key that is allowed to.",
    )
    is_enabled = models.BooleanField(
        "enabled", default=True, help_text="Off: callers get “not found”, and open turns are stopped within seconds."
    )
    source = models.CharField(max_length=20, choices=Source, default=Source.ADMIN, editable=False)

    # --- the LLM ---
    llm_model = models.CharField(
        "LLM model",
        max_length=200,
        help_text="As LiteLLM spells it: anthropic/claude-sonnet-4-5, openai/gpt-5, litellm_proxy/name, or "
        "openai/anything together with a base URL.",
    )
    llm_api_key = EncryptedTextField(
        "LLM API key", help_text="Stored encrypted and never shown again. Leave empty to keep the stored one."
    )
    llm_base_url = models.CharField(
        "LLM base URL",
        blank=True,
        max_length=500,
        validators=[validate_http_url],
        help_text="Only for self-hosted or proxied models. Changing the host clears the stored API key.",
    )
    temperature = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(2)],
        help_text="0 to 2. Empty: the provider's default.",
    )
    top_p = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="0 to 1. Empty: the provider's default.",
    )
    max_output_tokens = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Per LLM call. Empty: the model's maximum."
    )
    reasoning_effort = models.CharField(
        max_length=10, choices=ReasoningEffort, blank=True, help_text="Empty: not sent to the provider."
    )
    allows_overrides = models.BooleanField(
        "callers may set sampling parameters",
        default=False,
        help_text="On: temperature, top_p, max_tokens and reasoning_effort of a request reach the LLM. Off: they are "
        "accepted and ignored, because many clients send them without being asked.",
    )
    llm_timeout_seconds = models.PositiveIntegerField(
        default=600,
        validators=[MinValueValidator(1)],
        help_text="For one LLM call, its whole stream included. A shorter value cuts long answers.",
    )
    llm_idle_timeout_seconds = models.PositiveIntegerField(
        default=120,
        validators=[MinValueValidator(1)],
        help_text="An LLM stream that says nothing for this long is given up.",
    )
    llm_streams = models.BooleanField(
        "the provider streams",
        default=True,
        help_text="Off only for providers that cannot stream: answers then arrive whole.",
    )
    llm_retries = models.PositiveIntegerField(
        "LLM retries",
        default=2,
        validators=[MaxValueValidator(10)],
        help_text="How often a failed LLM call is repeated when the provider is overloaded or unreachable. Only while "
        "nothing of the answer was sent and the agent has not acted in this turn.",
    )
    context_window = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1000)],
        help_text="Tokens that the LLM can read at once. A history that a new agent has to be told takes at most half "
        "of them; messages in its middle are left out. Empty: as LiteLLM's catalogue says of the model; if that does "
        "not know it either, histories are told whole.",
    )
    accepts_images = models.BooleanField(
        null=True,
        blank=True,
        help_text="Whether callers may send images. Unknown: as LiteLLM's catalogue says of the model.",
    )
    accepts_remote_images = models.BooleanField(
        "images by URL",
        default=False,
        help_text="On: https URLs with a public host name are passed on to the provider, which fetches them. "
        "The gateway itself never does.",
    )

    # --- prices, USD per million tokens; empty means as in the catalogue ---
    input_price = models.DecimalField(
        "input price",
        max_digits=12,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        help_text="USD per million tokens. Empty: LiteLLM's price, if it knows the model.",
    )
    output_price = models.DecimalField(
        "output price",
        max_digits=12,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        help_text="USD per million tokens. Empty: LiteLLM's price, if it knows the model.",
    )
    cached_input_price = models.DecimalField(
        "cached input price",
        max_digits=12,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        help_text="USD per million tokens read from a provider's cache. Empty: the input price if you gave one, else "
        "LiteLLM's.",
    )
    # What LiteLLM's catalogue says of the model, read when the profile is saved and once a day by a task, so that
    # neither pricing a turn nor checking an image needs LiteLLM.
    # {"provider": "anthropic", "is_known": true, "input_price": "3", "output_price": "15", "cached_input_price": "0.3",
    #  "cache_write_input_price": "3.75", "context_window": 200000, "max_output_tokens": 64000,
    #  "supports_vision": true, "supports_reasoning": true}; {} if it could not be asked (`model_facts.ModelFacts`).
    catalogue = models.JSONField(default=dict, blank=True, editable=False)

    # --- housekeeping calls ---
    answers_housekeeping = models.BooleanField(
        "answer housekeeping calls without the agent",
        default=True,
        help_text="Chat UIs ask for titles, tags, follow-up questions and search queries by requests of their own. On: "
        "the LLM alone answers them; no agent and no conversation is begun. Off: each of them is a turn of an agent.",
    )
    utility_llm_model = models.CharField(
        "LLM model for housekeeping",
        blank=True,
        max_length=200,
        help_text="A cheaper model of the same provider (or at the same base URL), called with the same API key. "
        "Empty: the profile's own LLM.",
    )
    # What LiteLLM's catalogue says of that model; {} without one. Its prices are those of housekeeping calls.
    utility_catalogue = models.JSONField(default=dict, blank=True, editable=False)

    # --- the agent ---
    system_prompt = models.TextField(
        blank=True, help_text="Replaces the agent's own system prompt. Empty: the agent's own (recommended with tools)."
    )
    system_suffix = models.TextField(
        blank=True, help_text="Added after the system prompt, before whatever system message the caller sends."
    )
    tools = models.JSONField(
        default=list,
        blank=True,
        help_text="What the agent can do, as the agent-servers name it: terminal, file_editor, task_tracker, … "
        "The agent acts without asking. None: it only answers.",
    )
    mcp_config = EncryptedJSONField(
        "MCP servers",
        help_text='JSON such as {"mcpServers": {"docs": {"url": "https://…", "headers": {…}}}}. '
        "Stored encrypted and never shown again. Leave empty to keep what is stored.",
    )
    terminal_secrets = EncryptedJSONField(
        help_text='JSON such as {"GITHUB_TOKEN": "…"}: environment variables of the agent\'s terminal, masked in its '
        "output. Stored encrypted and never shown again. Leave empty to keep what is stored.",
    )
    max_iterations = models.PositiveIntegerField(
        default=100,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="Steps of the agent per turn.",
    )
    time_limit_seconds = models.PositiveIntegerField(
        "time limit",
        default=1800,
        validators=[MinValueValidator(1), MaxValueValidator(86_400)],
        help_text="Seconds a turn may take. Then the agent is interrupted and the caller gets 504.",
    )
    workspace = models.CharField(
        max_length=20,
        choices=Workspace,
        default=Workspace.PER_CONVERSATION,
        help_text="Where the agent works on its agent-server. Directories keep work apart, not tenants. A conversation "
        "that is forked (an earlier message was edited, or its answer written anew) shares its source's directory.",
    )
    workspace_path = models.CharField(
        max_length=500,
        blank=True,
        help_text="For a fixed directory: an absolute path under one of GATEWAY_WORKSPACE_ROOTS.",
    )
    workspace_template = models.CharField(
        max_length=500,
        blank=True,
        help_text="An absolute path on the agent-server under one of GATEWAY_WORKSPACE_ROOTS. Its content is copied "
        "into the directory of each new conversation.",
    )

    # --- what the caller sees and may do ---
    thoughts = models.CharField(
        max_length=10,
        choices=Thoughts,
        default=Thoughts.REASONING,
        help_text="What the agent says before it uses a tool.",
    )
    activity = models.CharField(
        max_length=10, choices=Activity, default=Activity.REASONING, help_text="One line for each tool the agent uses."
    )
    answer_holdback_chars = models.PositiveIntegerField(
        default=240,
        validators=[MaxValueValidator(100_000)],
        help_text="With tools, a thought cannot be told from the answer while it is written: this many characters are "
        "held back before text is shown as the answer.",
    )
    client_tools = models.CharField(
        max_length=10,
        choices=ClientTools,
        default=ClientTools.REJECT,
        help_text="What to do with a request that brings its own tools: the agent cannot call them.",
    )
    on_disconnect = models.CharField(
        max_length=10,
        choices=OnDisconnect,
        default=OnDisconnect.CANCEL,
        help_text="When a caller goes away mid-turn. An agent that finishes keeps its answer for a repeated request.",
    )
    disconnect_grace_seconds = models.PositiveIntegerField(
        "grace after a disconnect",
        default=15,
        validators=[MaxValueValidator(600)],
        help_text="Seconds in which a client that repeats an unstreamed request finds its agent still at work, before "
        "it is stopped. Streams, and clients that never repeat a request, get none.",
    )
    when_busy = models.CharField(
        max_length=10,
        choices=WhenBusy,
        default=WhenBusy.QUEUE,
        help_text="When a request comes for a conversation whose agent is still at work.",
    )
    continues_by_history = models.BooleanField(
        "continue by history",
        default=True,
        help_text="On: a client that sends its whole history again goes on with the agent that wrote it. With tools "
        "that takes a user's name in the request, or a key that one person uses. A history that leaves an earlier turn "
        "another way (edit, regenerate) forks the agent: both then work in the same directory. Off: such requests get "
        "a new agent that is told the history.",
    )
    resume_after_server_restart = models.BooleanField(
        "resume after a restart",
        default=False,
        help_text="On: when an agent-server was restarted in mid-turn, the agent goes on. Off: the turn fails, because "
        "the agent may have acted already and could act twice.",
    )

    # --- how long it is kept ---
    conversation_idle_hours = models.PositiveIntegerField(
        "conversations are kept for",
        default=24,
        validators=[MinValueValidator(1), MaxValueValidator(24 * 365)],
        help_text="Hours after its last turn in which a conversation stays on its agent-server. After that it is "
        "removed there, and told anew from the record when somebody goes on with it.",
    )
    workspace_keep_days = models.PositiveIntegerField(
        "working directories are kept for",
        default=7,
        validators=[MaxValueValidator(3650)],
        help_text="Days after a conversation was removed from its agent-server. Only directories of a conversation's "
        "own; those shared by a key, and fixed ones, are never deleted.",
    )
    keep_content_days = models.PositiveIntegerField(
        "texts are kept for",
        null=True,
        blank=True,
        validators=[MaxValueValidator(36_500)],
        help_text="Days after a turn ended. Then what was asked and answered, and every step of the agent, is removed "
        "from the record; who asked, when, tokens and cost stay. 0: for ever. Empty: GATEWAY_KEEP_CONTENT_DAYS.",
    )
    keep_usage_days = models.PositiveIntegerField(
        "turns are kept for",
        null=True,
        blank=True,
        validators=[MaxValueValidator(36_500)],
        help_text="Days after a turn ended. Then its row is deleted; what it used and cost stays in the ledger. 0: for "
        "ever. Empty: GATEWAY_KEEP_USAGE_DAYS.",
    )

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ProfileQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]
        permissions = [("try_profile", "Can test profiles, which costs what a turn costs")]
        constraints = [
            models.UniqueConstraint(
                Lower("slug"),
                name="profile_slug_any_case",
                violation_error_message="A profile with this name exists (case does not count).",
            ),
            models.CheckConstraint(
                name="profile_fixed_workspace_has_path",
                condition=~Q(workspace="fixed") | ~Q(workspace_path=""),
                violation_error_message="A fixed workspace needs a path.",
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def model_id(self) -> str:
        return f"openhands_{self.slug}"

    @property
    def is_demo(self) -> bool:
        return self.source == self.Source.DEMO

    @property
    def has_tools(self) -> bool:
        return bool(self.tools)

    @property
    def sees_images(self) -> bool:
        """Whether image parts are accepted: as set, else as the catalogue says, else not."""
        if self.accepts_images is not None:
            return self.accepts_images
        return bool(self.catalogue.get("supports_vision", False))

    def prices(self) -> dict[str, str]:
        """USD per million tokens as decimal texts (`input`, `output`, `cached` and, where the provider charges more
        for tokens it puts into its cache, `cache_write`); `{}` when the price is unknown."""
        catalogue = self.catalogue
        known = {
            "input": catalogue.get("input_price") if self.input_price is None else self.input_price,
            "output": catalogue.get("output_price") if self.output_price is None else self.output_price,
        }
        if self.input_price is None:  # the catalogue's other prices belong to its input price
            known["cached"] = catalogue.get("cached_input_price")
            known["cache_write"] = catalogue.get("cache_write_input_price")
        if self.cached_input_price is not None:
            known["cached"] = self.cached_input_price
        return _complete_prices(known)

    def housekeeping_prices(self) -> dict[str, str]:
        """The same of the LLM that answers housekeeping calls. What was entered by hand is the price of the profile's
        own LLM."""
        if not self.utility_llm_model:
            return self.prices()
        catalogue = self.utility_catalogue
        return _complete_prices(
            {
                "input": catalogue.get("input_price"),
                "output": catalogue.get("output_price"),
                "cached": catalogue.get("cached_input_price"),
                "cache_write": catalogue.get("cache_write_input_price"),
            }
        )

    @property
    def window_tokens(self) -> int | None:
        """How much the LLM reads at once: as set, else as the catalogue says; None if nobody knows."""
        known: int | None = self.context_window or self.catalogue.get("context_window")
        return known or None


def _complete_prices(known: dict[str, Any]) -> dict[str, str]:
    """What `pricing.cost_usd` takes: empty unless input and output have a price."""
    if known["input"] is None or known["output"] is None:
        return {}
    if known.get("cached") is None:
        known["cached"] = known["input"]
    return {name: str(price) for name, price in known.items() if price is not None}
