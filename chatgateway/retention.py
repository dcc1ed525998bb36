"""How long the record is kept: for each profile one clock for texts and steps, and one for turns with their figures.

`sweep` is run by a task. It works in batches until its time is up, may run twice at once and die at any line, and goes
on where it was the next time.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from chatgateway import removal, turn_texts
from chatgateway.models import Conversation, Turn
from profiles.models import Profile

# With the batch it has begun by then a sweep ends, long before the next one.
SWEEP_SECONDS = 60.0
# How long SQLite may take to write its index of texts without the words that are gone.
FORGET_SECONDS = 30.0
# Of conversations whose callers sent no system text, or whose was removed.
_NO_TEXTS = Q(system_suffix="", instructions="", metadata={}, first_items=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Days after the end of a turn; None: for ever. `source`: whose rule it is, in words."""

    content_days: int | None
    usage_days: int | None
    source: str

    @property
    def why(self) -> str:
        """What stands on a turn whose texts were removed."""
        days = self.content_days
        return f"Texts are kept for {days} day{'s' * (days != 1)} ({self.source})."


@dataclass(slots=True)
class Swept:
    """What a sweep removed: the texts of so many turns, so many whole turns, so many conversations."""

    contents: int = 0
    turns: int = 0
    conversations: int = 0
    is_complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """How much a policy would remove now: the texts of `contents` turns, and `turns` whole turns."""

    contents: int
    turns: int
    oldest: dt.datetime | None


def policy_of(profile: Profile | None) -> Policy:
    """Return how long a profile's turns are kept; of None: those that have no profile, or none any more."""
    content = profile.keep_content_days if profile is not None else None
    usage = profile.keep_usage_days if profile is not None else None
    has_own = profile is not None and content is not None
    return Policy(
        content_days=(settings.GATEWAY_KEEP_CONTENT_DAYS if content is None else content) or None,
        usage_days=(settings.GATEWAY_KEEP_USAGE_DAYS if usage is None else usage) or None,
        source=f"profile {profile.slug}" if has_own and profile is not None else "GATEWAY_KEEP_CONTENT_DAYS",
    )


def due(profile: Profile | None, policy: Policy) -> Due:
    """Count what would be removed under `policy`, without removing anything."""
    now = timezone.now()
    contents = _content_due(profile, policy, now)
    turns = _usage_due(profile, policy, now)
    oldest = Turn.objects.filter(profile=profile).order_by("opened_at").values_list("opened_at", flat=True).first()
    return Due(contents=contents.count(), turns=turns.count(), oldest=oldest)


def sweep() -> Swept:
    """Remove what is due, of every profile and of what has none."""
    until = time.monotonic() + SWEEP_SECONDS
    done = Swept()
    columns = ("slug", "keep_content_days", "keep_usage_days")
    for profile in [*Profile.objects.only(*columns).order_by("pk"), None]:
        if time.monotonic() >= until:
            done.is_complete = False
            break
        _sweep_one(profile, policy_of(profile), done, until)
    if done.contents or done.turns:
        turn_texts.forget_deleted(seconds=FORGET_SECONDS)
    return done


def _sweep_one(profile: Profile | None, policy: Policy, done: Swept, until: float) -> None:
    now = timezone.now()
    # Whole turns first: what goes altogether need not be emptied before.
    done.turns += _in_batches(_usage_due(profile, policy, now), removal.delete_turns, done, until)
    done.contents += _in_batches(
        _content_due(profile, policy, now), lambda ids: removal.remove_content(ids, why=policy.why), done, until
    )
    of_profile = Q(profile=profile)
    if policy.content_days is not None:
        ended = Conversation.objects.filter(of_profile, last_turn_at__lt=now - dt.timedelta(days=policy.content_days))
        removal.remove_system_texts(ended.exclude(_NO_TEXTS).values_list("pk", flat=True)[: removal.BATCH])
    if policy.usage_days is not None:
        before = now - dt.timedelta(days=policy.usage_days)
        done.conversations += removal.delete_empty_conversations(of=of_profile, before=before)


def _in_batches(turns: QuerySet[Turn], remove: Callable[[Collection[UUID]], int], done: Swept, until: float) -> int:
    """Run `remove` over the turns, oldest first. It goes on after the last one it has seen: what was removed already
    would be read again with every batch."""
    removed, after = 0, None
    while True:
        if time.monotonic() >= until:
            done.is_complete = False
            return removed
        rest = turns if after is None else turns.filter(opened_at__gte=after)
        found = list(rest.order_by("opened_at").values_list("pk", "opened_at")[: removal.BATCH])
        if not found:
            return removed
        count = remove([pk for pk, _ in found])
        removed += count
        if not count:
            return removed  # what is left is still being written to, or another worker has it
        after = found[-1][1]


def _content_due(profile: Profile | None, policy: Policy, now: dt.datetime) -> QuerySet[Turn]:
    return _older(profile, policy.content_days, now).filter(content_removed_at__isnull=True)


def _usage_due(profile: Profile | None, policy: Policy, now: dt.datetime) -> QuerySet[Turn]:
    return _older(profile, policy.usage_days, now)


def _older(profile: Profile | None, days: int | None, now: dt.datetime) -> QuerySet[Turn]:
    if days is None:
        return Turn.objects.none()
    before = now - dt.timedelta(days=days)
    # By the index of a profile's turns by time; that a turn ended after it began is checked on the rows.
    return Turn.objects.filter(removal.settled(), profile=profile, opened_at__lt=before, closed_at__lt=before)
