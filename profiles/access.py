"""The one door: who is calling, and which profile they may use. Nothing else fetches either on a caller's behalf.

What was found is kept in this process for at most GATEWAY_CACHE_SECONDS; what was not found is looked up every
time. So a new key or profile works at once everywhere, and a change or removal at once in the process that made it
(it calls one of the `forget_…` functions) and within that time in all others.

The `cached_…` functions never touch the database and may be called on an event loop; the others query. `refresh`,
called in the background, reads what was used lately again before it is too old, so that people who think between
their messages need not wait for these queries either.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Exists, Q
from django.utils import timezone

from profiles import keys
from profiles.ceilings import Ceilings
from profiles.exceptions import UnknownKey, UnknownProfile
from profiles.models import ApiKey, ApiKeySecret, Profile, slug_validator
from profiles.querysets import ProfileQuerySet


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The API key behind a request, as it was when it was looked up.

    `allowed_profile_ids` is None for a key that may use every profile its tenant can see. `is_global` counts with
    `can_manage` only: such a key manages every tenant's profiles and conversations.
    """

    api_key_id: int
    key_name: str
    key_prefix: str
    tenant_id: int
    tenant_name: str
    can_chat: bool
    can_manage: bool
    is_global: bool
    allowed_profile_ids: frozenset[int] | None
    only_own_conversations: bool
    used_by_one_person: bool
    on_disconnect: str = ""  # of the key; empty: as the profile says
    refuses_ignored: bool = False
    key_ceilings: Ceilings | None = None
    tenant_ceilings: Ceilings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownCaller:
    caller: Caller
    expires_at: dt.datetime | None
    looked_up_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownProfile:
    profile: Profile
    looked_up_at: dt.datetime


# By digest of the key, never by the key itself: a dump of this process should not hold more keys than it must.
_callers: dict[str, _KnownCaller] = {}
_profiles: dict[str, _KnownProfile] = {}
# Prefixes that this process has met in the database; the limit on unknown ones does not apply to them.
_prefixes: set[str] = set()
# When something was last asked for, by its key in the two dictionaries.
_used_at: dict[str, dt.datetime] = {}
# Counts the calls of `forget_…`: a row that was read before one of them must not be stored after it.
_generation = 0
_lock = threading.Lock()

# How long after its last use something is still read again; after that it waits to be asked for.
KEPT_WARM_SECONDS = 900
# Of each kind, those used last: the queries of a refresh stay small whatever comes in.
MAXIMUM_KEPT_WARM = 200


# --- who is calling -----------------------------------------------------------------------------------------------


def caller_for(key_text: str, *, now: dt.datetime) -> Caller:
    """Return the caller whose key this is. One query, or two for a key that is limited to some profiles.

    Raises UnknownKey for a key that is unknown, wrong, revoked or expired.
    """
    known = cached_caller(key_text, now=now)
    if known is not None:
        return known
    parsed = keys.parse(key_text, pepper=settings.GATEWAY_API_KEY_PEPPER)
    if parsed is None:
        raise UnknownKey(UnknownKey.MALFORMED)
    generation = _generation
    secret = ApiKeySecret.objects.select_related("api_key__tenant").filter(prefix=parsed.prefix).first()
    if secret is None:
        raise UnknownKey(UnknownKey.UNKNOWN)
    _prefixes.add(parsed.prefix)
    if not keys.matches(key_text, secret.digest, pepper=settings.GATEWAY_API_KEY_PEPPER):
        raise UnknownKey(UnknownKey.WRONG)
    if secret.api_key.revoked_at is not None:
        raise UnknownKey(UnknownKey.REVOKED)
    expires_at = _earlier(secret.expires_at, secret.api_key.expires_at)
    if expires_at is not None and expires_at <= now:
        raise UnknownKey(UnknownKey.EXPIRED)
    found = _KnownCaller(caller=_caller(secret), expires_at=expires_at, looked_up_at=now)
    with _lock:
        if generation == _generation:
            _callers[secret.digest] = found
            _used_at[secret.digest] = now
    return found.caller


def cached_caller(key_text: str, *, now: dt.datetime) -> Caller | None:
    """Return the caller if this process has met the key within GATEWAY_CACHE_SECONDS; no database, no waiting."""
    if len(key_text) > keys.MAXIMUM_CHARS:
        return None
    digest = keys.digest(key_text, pepper=settings.GATEWAY_API_KEY_PEPPER)
    known = _callers.get(digest)
    if known is None:
        return None
    has_expired = known.expires_at is not None and known.expires_at <= now
    if has_expired or not _is_fresh(known.looked_up_at, now):
        _callers.pop(digest, None)
        return None
    _used_at[digest] = now
    return known.caller


def has_seen_prefix(prefix: str) -> bool:
    """Whether this process has met a key of this prefix in the database."""
    return prefix in _prefixes


def _caller(secret: ApiKeySecret) -> Caller:
    key = secret.api_key
    allowed = None
    if not key.allows_all_profiles:
        allowed = frozenset(key.allowed_profiles.values_list("pk", flat=True))
    return Caller(
        api_key_id=key.pk,
        key_name=key.name,
        key_prefix=secret.prefix,
        tenant_id=key.tenant_id,
        tenant_name=key.tenant.name,
        can_chat=key.can_chat,
        can_manage=key.can_manage,
        is_global=key.is_global,
        allowed_profile_ids=allowed,
        only_own_conversations=key.only_own_conversations,
        used_by_one_person=key.used_by_one_person,
        on_disconnect=key.on_disconnect,
        refuses_ignored=key.refuses_ignored,
        key_ceilings=key.ceilings(),
        tenant_ceilings=key.tenant.ceilings(),
    )


# --- what they may use --------------------------------------------------------------------------------------------


def profile_for(caller: Caller, slug: str, *, now: dt.datetime | None = None) -> Profile:
    """Return the profile of that name. Names are exact: `Fast` is not `fast`, as model ids are to OpenAI's clients.

    Raises UnknownProfile alike for one that does not exist, is disabled, belongs to another tenant or is not among
    the key's. One query, two for a key that is limited to some profiles. The row is shared with other requests:
    read it, do not change it.
    """
    now = now or timezone.now()
    known = cached_profile_for(caller, slug, now=now)
    if known is not None:
        return known
    if not _is_slug(slug):
        raise UnknownProfile(slug)
    generation = _generation
    profile = Profile.objects.usable().filter(slug=slug).first()
    if profile is None:
        raise UnknownProfile(slug)
    with _lock:
        if generation == _generation:
            _profiles[slug] = _KnownProfile(profile=profile, looked_up_at=now)
            _used_at[slug] = now
    if not _is_visible(caller, profile):
        raise UnknownProfile(slug)
    # Asked of the database even where `caller` says no: a profile added to a key works at once.
    if not _is_allowed(caller, profile) and not _granted_to(caller).filter(pk=profile.pk).exists():
        raise UnknownProfile(slug)
    return profile


def cached_profile_for(caller: Caller, slug: str, *, now: dt.datetime | None = None) -> Profile | None:
    """Return the profile if this process has met it within GATEWAY_CACHE_SECONDS and the caller may use it.

    No database, no waiting. None says nothing about whether there is such a profile: `profile_for` does.
    """
    now = now or timezone.now()
    known = _profiles.get(slug)
    if known is None:
        return None
    if not _is_fresh(known.looked_up_at, now):
        _profiles.pop(slug, None)
        return None
    _used_at[slug] = now
    may_use = _is_visible(caller, known.profile) and _is_allowed(caller, known.profile)
    return known.profile if may_use else None


def profiles_for(caller: Caller) -> list[Profile]:
    """Return every profile the caller may use, ordered by name, without its secrets. One query."""
    rows = Profile.objects.usable().visible_to_tenant(caller.tenant_id)
    if caller.allowed_profile_ids is not None:
        rows = rows.filter(pk__in=_granted_to(caller).values("pk"))
    return list(rows.defer("llm_api_key", "mcp_config", "terminal_secrets").order_by("slug"))


def _is_visible(caller: Caller, profile: Profile) -> bool:
    return profile.owner_id is None or profile.owner_id == caller.tenant_id


def _is_allowed(caller: Caller, profile: Profile) -> bool:
    return caller.allowed_profile_ids is None or profile.pk in caller.allowed_profile_ids


def _granted_to(caller: Caller) -> ProfileQuerySet:
    """The profiles the key may use as its row says now, whatever `caller` remembers."""
    may_use_all = Exists(ApiKey.objects.filter(pk=caller.api_key_id, allows_all_profiles=True))
    chosen = ApiKey.allowed_profiles.through.objects.filter(apikey_id=caller.api_key_id).values("profile_id")
    return Profile.objects.filter(Q(may_use_all) | Q(pk__in=chosen))


def _is_slug(text: str) -> bool:
    try:
        slug_validator(text)
    except ValidationError:
        return False
    return True


# --- keeping warm -------------------------------------------------------------------------------------------------


def refresh(*, now: dt.datetime) -> None:
    """Read again what was used in the last KEPT_WARM_SECONDS, and drop what is too old to be used.

    Two queries, one more for each key that is limited to some profiles; none when nothing was used.
    """
    generation = _generation
    digests, slugs = _used_lately(_callers, now), _used_lately(_profiles, now)
    callers, profiles = {}, {}
    if digests:
        live = ApiKeySecret.objects.select_related("api_key__tenant").filter(
            digest__in=digests, api_key__revoked_at__isnull=True
        )
        for secret in live:
            expires_at = _earlier(secret.expires_at, secret.api_key.expires_at)
            callers[secret.digest] = _KnownCaller(caller=_caller(secret), expires_at=expires_at, looked_up_at=now)
    if slugs:
        usable = Profile.objects.usable().filter(slug__in=slugs)
        profiles = {row.slug: _KnownProfile(profile=row, looked_up_at=now) for row in usable}
    with _lock:
        if generation == _generation:
            _replace(_callers, callers, digests, now=now)
            _replace(_profiles, profiles, slugs, now=now)
            for name in _used_at.keys() - _callers.keys() - _profiles.keys():
                del _used_at[name]


def _used_lately(known: Mapping[str, object], now: dt.datetime) -> list[str]:
    since = now - dt.timedelta(seconds=KEPT_WARM_SECONDS)
    used = [(at, name) for name in list(known) if (at := _used_at.get(name)) is not None and at > since]
    return [name for _, name in sorted(used, reverse=True)[:MAXIMUM_KEPT_WARM]]


def _replace[T: (_KnownCaller, _KnownProfile)](
    known: dict[str, T], found: dict[str, T], asked: list[str], *, now: dt.datetime
) -> None:
    """Put what was found in place of what was asked for."""
    for name in [*asked, *(name for name, entry in known.items() if not _is_fresh(entry.looked_up_at, now))]:
        known.pop(name, None)
    known.update(found)


# --- forgetting ---------------------------------------------------------------------------------------------------


def forget_all() -> None:
    """Drop everything this process remembers. For whoever changed several rows, or renamed a profile."""
    with _forgetting():
        _callers.clear()
        _profiles.clear()
        _prefixes.clear()
        _used_at.clear()


def forget_profile(slug: str) -> None:
    """Drop a profile. For whoever changed, disabled or deleted its row."""
    with _forgetting():
        _profiles.pop(slug, None)


def forget_key(api_key_id: int) -> None:
    """Drop a key, whichever of its secrets it was met with. For whoever changed or revoked it."""
    with _forgetting():
        for digest in [digest for digest, known in _callers.items() if known.caller.api_key_id == api_key_id]:
            del _callers[digest]


@contextmanager
def _forgetting() -> Iterator[None]:
    global _generation  # noqa: PLW0603  one count per process, changed here alone
    with _lock:
        _generation += 1
        yield


def _is_fresh(looked_up_at: dt.datetime, now: dt.datetime) -> bool:
    # Not before it was looked up either: a clock that was set back must not prolong anything.
    return 0 <= (now - looked_up_at).total_seconds() < settings.GATEWAY_CACHE_SECONDS


def _earlier(first: dt.datetime | None, second: dt.datetime | None) -> dt.datetime | None:
    moments = [moment for moment in (first, second) if moment is not None]
    return min(moments, default=None)
