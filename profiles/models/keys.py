"""Who may call."""

from __future__ import annotations

import secrets

from django.db import models
from django.db.models import Q
from django.utils import timezone

from profiles.ceilings import CeilingColumns
from profiles.models.profile import OnDisconnect, Profile
from profiles.models.tenants import Tenant
from profiles.querysets import ApiKeyQuerySet


def new_key_prefix() -> str:
    """Return the public part of a key: 8 characters, enough for a unique index, no secret."""
    return secrets.token_hex(4)


class ApiKey(CeilingColumns):
    """One caller's credential. The key itself is kept as up to two `ApiKeySecret` rows, so that it can be
    replaced without losing its history, limits and figures."""

    tenant = models.ForeignKey(
        Tenant, models.PROTECT, related_name="api_keys", help_text="Whom this key's traffic is for."
    )
    name = models.CharField(max_length=100, help_text="Where the key is used: “laptop”, “Open WebUI”, “nightly job”.")
    can_chat = models.BooleanField("may call agents", default=True, help_text="Scope chat: /v1.")
    can_manage = models.BooleanField(
        "may manage profiles",
        default=False,
        help_text="Scope manage: create, read and delete its own tenant's profiles and conversations under /api.",
    )
    is_global = models.BooleanField(
        "manages every tenant", default=False, help_text="With scope manage: all tenants' profiles and conversations."
    )
    allows_all_profiles = models.BooleanField(
        "all profiles", default=True, help_text="Off: only the profiles chosen below."
    )
    allowed_profiles = models.ManyToManyField(Profile, blank=True, related_name="api_keys")
    only_own_conversations = models.BooleanField(
        default=False, help_text="On: the key sees only conversations it started, not all of its tenant's."
    )
    used_by_one_person = models.BooleanField(
        default=False,
        help_text="On: everything sent with this key comes from one person, so a chat history that a client sends "
        "again may continue the same agent, files included. Off: with a profile that has tools that needs a user or "
        "chat id in the request, or one person could reach another's files by repeating the same words.",
    )
    on_disconnect = models.CharField(
        max_length=10,
        choices=OnDisconnect,
        blank=True,
        help_text="When a caller goes away mid-turn. Empty: as the profile says.",
    )
    refuses_ignored = models.BooleanField(
        "refuses parameters without effect",
        default=False,
        help_text="On: a request with a parameter that would be ignored is refused with 400, which names it. Off: it "
        "is answered, and the header X-Gateway-Ignored names them; many clients send such parameters unasked.",
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_reason = models.CharField(max_length=200, blank=True, editable=False)
    notes = models.TextField(blank=True, help_text="For administrators only.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_client = models.CharField(max_length=200, blank=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ["tenant__name", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "name"],
                name="api_key_name_per_tenant",
                violation_error_message="This tenant has a key of that name.",
            ),
            models.CheckConstraint(
                name="api_key_revocation_has_reason",
                condition=Q(revoked_at__isnull=True) | ~Q(revoked_reason=""),
                violation_error_message="Say why the key is revoked.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ApiKeySecret(models.Model):
    """One live secret of a key: `gw-{prefix}-{secret}`. Only its HMAC is stored; it is shown once, when made."""

    api_key = models.ForeignKey(ApiKey, models.CASCADE, related_name="secrets")
    prefix = models.CharField(max_length=40, unique=True, default=new_key_prefix, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Set when a newer secret replaces this one.")

    class Meta:
        verbose_name = "API key secret"
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"gw-{self.prefix}-…"


class FailedAuthentication(models.Model):
    """How often one address tried keys of one prefix in one minute without success. Written once a minute."""

    minute = models.DateTimeField()
    address = models.CharField(max_length=64)
    prefix = models.CharField(max_length=40, blank=True, help_text="As sent; empty when the text was no key of ours.")
    count = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = "failed authentication"
        ordering = ["-minute"]
        constraints = [
            models.UniqueConstraint(fields=["minute", "address", "prefix"], name="failed_authentication_bucket"),
        ]

    def __str__(self) -> str:
        return f"{self.count} from {self.address}"
