"""Who signs in to the admin."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class SignInIdentity(models.Model):
    """A person as an OpenID provider knows them, and the user of the admin they sign in as. Written at their first
    sign-in: names and addresses may change hands there, an issuer's subject never does."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=500, help_text="The provider, as it calls itself.")
    subject = models.CharField(max_length=255, help_text="The person, as the provider numbers them.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "sign-in identities"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="sign_in_identity_once")]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"
