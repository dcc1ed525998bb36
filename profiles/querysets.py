"""Questions asked of profiles and keys."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    from profiles.models import ApiKey, Profile  # noqa: F401  named in strings below


class ProfileQuerySet(models.QuerySet["Profile"]):
    def usable(self) -> ProfileQuerySet:
        """Profiles that callers can name at all."""
        return self.filter(is_enabled=True)

    def visible_to_tenant(self, tenant_id: int) -> ProfileQuerySet:
        """Profiles without an owner, and the tenant's own."""
        return self.filter(Q(owner__isnull=True) | Q(owner_id=tenant_id))


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, *, now: dt.datetime) -> ApiKeyQuerySet:
        """Keys neither revoked nor expired."""
        return self.filter(revoked_at__isnull=True).filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now))
