"""Sweeps that Celery runs. Each works from rows, may run twice at once, and is bounded by a deadline of its own: the
embedded worker's thread pool knows no time limits. LiteLLM is not imported here either: the llm process is asked.
What each returns is what the admin says of its last run."""

from __future__ import annotations

import datetime as dt
import logging
import time

from celery import shared_task
from django.utils import timezone

from profiles import issuing, manage
from profiles.exceptions import LlmProcessDown
from profiles.models import FailedAuthentication, Profile

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 120.0
# How long an ended secret and a failed attempt can still be looked up.
KEPT_DAYS = 30


@shared_task(name="profiles.tasks.refresh_catalogues")
def refresh_catalogues() -> str:
    """Daily: read prices and context windows again, which change with LiteLLM's releases. Turns keep the prices
    they were opened with."""
    deadline = time.monotonic() + REFRESH_SECONDS
    changed, note = 0, ""
    rows = Profile.objects.defer("llm_api_key", "mcp_config", "terminal_secrets").order_by("updated_at")
    for profile in rows.iterator():
        if time.monotonic() > deadline:
            note = ", out of time: the rest tomorrow"
            break
        try:
            changed += manage.refresh_catalogue(profile)
        except LlmProcessDown as error:
            note = f", not refreshed: {error}"
            break
    if note:
        logger.warning("catalogue%s", note)
    return f"{changed} profiles changed{note}"


@shared_task(name="profiles.tasks.sweep_keys")
def sweep_keys() -> str:
    """Daily: delete secrets that ended long ago, and old counts of failed attempts. Keys are never deleted."""
    before = timezone.now() - dt.timedelta(days=KEPT_DAYS)
    secrets = issuing.delete_expired_secrets(before=before)
    attempts, _ = FailedAuthentication.objects.filter(minute__lt=before).delete()
    return f"{secrets} ended secrets and {attempts} counts of failed attempts deleted"
