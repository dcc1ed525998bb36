"""Whether a key and its tenant may begin a turn, and whether a turn may go on: the ceilings of `profiles.ceilings`.

Synchronous. `admit` runs in the transaction that opens the turn and under the lock that all openings take, so that
parallel requests cannot overshoot together. What open turns may yet cost is set aside in their rows (`held_usd`): a
process that dies leaks nothing, because the hold ends with the turn.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from django.db.models import QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from chatgateway import ledger
from chatgateway.errors import CeilingReached, InsufficientQuota, PriceUnknown
from chatgateway.models import Turn
from profiles.access import Caller
from profiles.ceilings import Ceilings
from profiles.models import ApiKey, Profile

MINUTE = dt.timedelta(seconds=60)
# Money that open turns hold is free again when the first of them ends; when that is nobody knows.
HELD_RETRY_SECONDS = 5
_ZERO = Decimal(0)
_LEAST = Decimal("0.00000001")
_KEY, _TENANT = "this API key", "this tenant"
_REQUESTS_LEFT = "x-ratelimit-remaining-requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """`held_usd` is what the turn sets aside, None without a ceiling in USD. `headers` tell what is left."""

    held_usd: Decimal | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A key or a tenant, with its ceilings."""

    name: str
    ceilings: Ceilings
    tenant_id: int
    api_key_id: int | None  # None: the tenant with all its keys


def subjects_of(caller: Caller) -> list[_Subject]:
    """Return those of the caller's key and tenant that have ceilings."""
    found = []
    if caller.key_ceilings is not None:
        found.append(_Subject(_KEY, caller.key_ceilings, caller.tenant_id, caller.api_key_id))
    if caller.tenant_ceilings is not None:
        found.append(_Subject(_TENANT, caller.tenant_ceilings, caller.tenant_id, None))
    return found


def admit(caller: Caller, profile: Profile, *, is_housekeeping: bool = False) -> Admission:
    """Raise CeilingReached, InsufficientQuota or PriceUnknown if a turn may not begin now. No query without ceilings.

    What is refused consumes nothing: only turns that were begun count. A housekeeping call has a price of its own, and
    is not one of the turns of which there may be so many at once: no agent works for it.
    """
    subjects = subjects_of(caller)
    if not subjects:
        return Admission()
    now = timezone.now()
    prices = profile.housekeeping_prices() if is_housekeeping else profile.prices()
    headers: dict[str, str] = {}
    try:
        for subject in subjects:
            _check_requests(subject, now, headers)
            _check_tokens(subject, now, headers)
            if not is_housekeeping:
                _check_open_turns(subject)
        held_usd = _hold(subjects, caller, profile, prices, now)
    except (CeilingReached, InsufficientQuota) as refused:
        refused.headers |= headers  # whichever ceiling it was: what is left of the others is as it was
        raise
    if _REQUESTS_LEFT in headers:
        headers[_REQUESTS_LEFT] = str(int(headers[_REQUESTS_LEFT]) - 1)  # this one counts
    return Admission(held_usd=held_usd, headers=headers)


def may_go_on(turn: Turn, cost: Decimal) -> bool:
    """Whether a turn that has cost so much by now may go on; if it may, so much is set aside for it."""
    now = timezone.now()
    for subject in _subjects_of_turn(turn):
        per_turn = subject.ceilings.usd_per_turn
        if per_turn is not None and cost >= per_turn:
            return False
        if any(cost >= span.free for span in _spans(subject, now, besides=turn)):
            return False
    if turn.held_usd is not None and cost > turn.held_usd:
        turn.held_usd = cost
        Turn.objects.open().filter(pk=turn.pk).update(held_usd=cost)
    return True


def _subjects_of_turn(turn: Turn) -> list[_Subject]:
    """As they are now: a ceiling that was raised or lowered while the turn runs counts."""
    found = []
    key = ApiKey.objects.select_related("tenant").filter(turns=turn).first()
    if key is not None and (of_key := key.ceilings()) is not None:
        found.append(_Subject(_KEY, of_key, key.tenant_id, key.pk))
    if key is not None and (of_tenant := key.tenant.ceilings()) is not None:
        found.append(_Subject(_TENANT, of_tenant, key.tenant_id, None))
    return found


# --- counts ---------------------------------------------------------------------------------------------------------


def _check_open_turns(subject: _Subject) -> None:
    limit = subject.ceilings.open_turns
    if limit is not None and _open_agents(subject) >= limit:
        raise CeilingReached(
            f"{limit} turns of {subject.name} are under way, which is as many as may be at once. "
            "Try again when one of them has ended.",
            retry_after_seconds=HELD_RETRY_SECONDS,
        )


def _open_agents(subject: _Subject) -> int:
    return _turns_of(subject).filter(outcome=Turn.Outcome.OPEN, kind=Turn.Kind.AGENT).count()


def _check_requests(subject: _Subject, now: dt.datetime, headers: dict[str, str]) -> None:
    limit = subject.ceilings.requests_per_minute
    if limit is None:
        return
    begun = _turns_of(subject).filter(opened_at__gt=now - MINUTE).exclude(outcome=Turn.Outcome.REFUSED)
    # Newest first, the index's order; when the oldest of the last `limit` leaves the minute there is room again.
    moments = list(begun.order_by("-opened_at").values_list("opened_at", flat=True)[:limit])
    reset = (moments[-1] + MINUTE - now).total_seconds() if moments else 0
    _note(headers, "requests", limit=limit, remaining=limit - len(moments), reset=reset)
    if len(moments) >= limit:
        raise CeilingReached(
            f"{limit} requests per minute is the ceiling of {subject.name}. There is room again in "
            f"{_seconds(reset)} s.",
            retry_after_seconds=_seconds(reset),
        )


def _check_tokens(subject: _Subject, now: dt.datetime, headers: dict[str, str]) -> None:
    limit = subject.ceilings.tokens_per_minute
    if limit is None:
        return
    used = ledger.tokens_since(now - MINUTE, tenant_id=subject.tenant_id, api_key_id=subject.api_key_id)
    total = sum(tokens for _, tokens in used)
    reset, left = 0.0, total
    for moment, tokens in used:  # until so many have left the minute that there is room
        if left < limit:
            break
        left -= tokens
        reset = (moment + MINUTE - now).total_seconds()
    _note(headers, "tokens", limit=limit, remaining=limit - total, reset=reset)
    if total >= limit:
        raise CeilingReached(
            f"{limit} tokens per minute is the ceiling of {subject.name}, and its turns used {total}. There is room "
            f"again in {_seconds(reset)} s.",
            retry_after_seconds=_seconds(reset),
        )


def _turns_of(subject: _Subject) -> QuerySet[Turn]:
    if subject.api_key_id is None:
        return Turn.objects.filter(tenant_id=subject.tenant_id).order_by()
    return Turn.objects.filter(api_key_id=subject.api_key_id).order_by()


def _note(headers: dict[str, str], kind: str, *, limit: int, remaining: int, reset: float) -> None:
    """Add OpenAI's headers. Of two ceilings the one that is nearer is told."""
    remaining = max(0, remaining)
    name = f"x-ratelimit-remaining-{kind}"
    if name in headers and int(headers[name]) <= remaining:
        return
    headers[f"x-ratelimit-limit-{kind}"] = str(limit)
    headers[name] = str(remaining)
    headers[f"x-ratelimit-reset-{kind}"] = f"{_seconds(reset)}s"


def _seconds(value: float) -> int:
    return max(1, math.ceil(value))


# --- money ----------------------------------------------------------------------------------------------------------


def _hold(
    subjects: list[_Subject], caller: Caller, profile: Profile, prices: dict[str, str], now: dt.datetime
) -> Decimal | None:
    """Return what is to be set aside for a turn: its own ceiling; without one, what such turns usually cost; without
    any such turn, everything that is left, so that the first one is alone."""
    paying = [subject for subject in subjects if subject.ceilings.has_money]
    if not paying:
        return None
    if not prices:
        raise PriceUnknown(
            f"What the model of profile '{profile.slug}' costs is not known, so it cannot be used under a ceiling in "
            "USD. An administrator can give the profile prices."
        )
    per_turn = [limit for subject in paying if (limit := subject.ceilings.usd_per_turn) is not None]
    spans = [span for subject in paying for span in _spans(subject, now)]
    free = min((span.free for span in spans), default=None)
    if per_turn:
        hold = min(per_turn)
    else:
        usual = ledger.usual_cost(profile_id=profile.pk, tenant_id=caller.tenant_id, api_key_id=caller.api_key_id)
        hold = free if usual is None and free is not None else usual or _LEAST
        if free is not None and not any(span.held for span in spans):
            hold = min(hold, free)  # an estimate keeps nobody from using up what is left
        hold = max(hold, _LEAST)
    for span in spans:
        span.refuse_unless(hold)
    return hold


@dataclass(frozen=True, slots=True)
class _Span:
    """A ceiling in USD over a day or a month, and what is used of it."""

    subject: str
    period: str
    limit: Decimal
    spent: Decimal
    held: Decimal  # by open turns
    resets_at: dt.datetime

    @property
    def free(self) -> Decimal:
        return self.limit - self.spent - self.held

    def refuse_unless(self, hold: Decimal) -> None:
        if self.spent >= self.limit:
            raise InsufficientQuota(
                f"{_usd(self.limit)} USD per {self.period} is the ceiling of {self.subject}, and it is used up. "
                f"It begins anew at {self.resets_at:%Y-%m-%d %H:%M} UTC."
            )
        if self.free >= hold:
            return
        if self.held:
            raise CeilingReached(
                f"What is left of {_usd(self.limit)} USD per {self.period}, the ceiling of {self.subject}, is set "
                "aside for turns that are under way. Try again when one of them has ended.",
                retry_after_seconds=HELD_RETRY_SECONDS,
            )
        raise InsufficientQuota(
            f"Of {_usd(self.limit)} USD per {self.period}, the ceiling of {self.subject}, {_usd(self.free)} USD are "
            f"left, which is less than a turn may cost ({_usd(hold)} USD). It begins anew at "
            f"{self.resets_at:%Y-%m-%d %H:%M} UTC."
        )


def _spans(subject: _Subject, now: dt.datetime, *, besides: Turn | None = None) -> Iterator[_Span]:
    day, month = subject.ceilings.usd_per_day, subject.ceilings.usd_per_month
    if day is None and month is None:
        return
    spent = ledger.spent(tenant_id=subject.tenant_id, api_key_id=subject.api_key_id, now=now)
    held = _held(subject, besides)
    if day is not None:
        yield _Span(subject.name, "day", day, spent.day, held, ledger.end_of_day(now))
    if month is not None:
        yield _Span(subject.name, "month", month, spent.month, held, ledger.end_of_month(now))


def _held(subject: _Subject, besides: Turn | None) -> Decimal:
    rows = _turns_of(subject).filter(outcome=Turn.Outcome.OPEN)
    if besides is not None:
        rows = rows.exclude(pk=besides.pk)
    return Decimal(rows.aggregate(held=Coalesce(Sum("held_usd"), _ZERO))["held"])


def _usd(amount: Decimal) -> str:
    """Return an amount as people write it: two decimals, more for parts of a cent."""
    short = amount.quantize(Decimal("0.01"))
    return str(short if short == amount else amount.normalize())
