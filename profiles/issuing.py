"""The only writer of API keys and their secrets. Each change is known in this process at once.

Inside a transaction what was cached is dropped twice: at once, for who reads on in it, and after the commit, for
another thread that read the old row meanwhile.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from profiles import access, keys
from profiles.exceptions import InvalidKey
from profiles.models import ApiKey, ApiKeySecret, Profile, Tenant

LIVE_SECRETS = 2


def create_key(
    *,
    tenant: Tenant,
    name: str,
    can_chat: bool = True,
    can_manage: bool = False,
    is_global: bool = False,
    profiles: Iterable[Profile] | None = None,
    only_own_conversations: bool = False,
    used_by_one_person: bool = False,
    refuses_ignored: bool = False,
    on_disconnect: str = "",
    expires_at: dt.datetime | None = None,
    notes: str = "",
    **ceilings: Any,
) -> tuple[ApiKey, str]:
    """Make a key and return it with its text, which nobody can read again.

    `profiles`: the only ones it may use; None for every one its tenant can see. `ceilings`: its columns `max_…`.
    Raises InvalidKey.
    """
    api_key = ApiKey(
        tenant=tenant,
        name=name,
        can_chat=can_chat,
        can_manage=can_manage,
        is_global=is_global,
        allows_all_profiles=profiles is None,
        only_own_conversations=only_own_conversations,
        used_by_one_person=used_by_one_person,
        refuses_ignored=refuses_ignored,
        on_disconnect=on_disconnect,
        expires_at=expires_at,
        notes=notes,
        **ceilings,
    )
    secret = keys.mint(pepper=settings.GATEWAY_API_KEY_PEPPER)
    with transaction.atomic():
        save_key(api_key)
        allow_profiles(api_key, profiles)
        _store(api_key, secret)
    return api_key, secret.text


def save_key(api_key: ApiKey) -> None:
    """Write a new or changed key. Raises InvalidKey with the name of the field that is wrong.

    When its use was stamped last is left alone: that may have been written since the row was read.
    """
    if api_key.is_global and not api_key.can_manage:
        raise InvalidKey("Only a key that may manage profiles can manage every tenant's.", param="is_global")
    if not api_key.can_chat and not api_key.can_manage:
        raise InvalidKey("The key has no scope: let it call agents or manage profiles.", param="can_chat")
    try:
        api_key.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidKey(messages[0], param=None if field == "__all__" else field) from error
    if api_key._state.adding:
        api_key.save()
        return
    stamped = {"id", "created_at", "last_used_at", "last_used_client", "revoked_at", "revoked_reason"}
    api_key.save(update_fields=[field.name for field in ApiKey._meta.concrete_fields if field.name not in stamped])
    forget(api_key)


def allow_profiles(api_key: ApiKey, profiles: Iterable[Profile] | None) -> None:
    """Limit a key to these profiles, or to none in particular. Raises InvalidKey for another tenant's profile."""
    chosen = list(profiles or ())
    for profile in chosen:
        if profile.owner_id not in {None, api_key.tenant_id}:
            raise InvalidKey(f"The profile '{profile.slug}' belongs to another tenant.", param="allowed_profiles")
    with transaction.atomic():
        ApiKey.objects.filter(pk=api_key.pk).update(allows_all_profiles=profiles is None)
        api_key.allows_all_profiles = profiles is None
        api_key.allowed_profiles.set(chosen)
    forget(api_key)


def add_secret(api_key: ApiKey, *, old_expire_at: dt.datetime | None) -> str:
    """Give a key a second secret and return its text. The key stays the same key, with its history and limits.

    The secret it has works until `old_expire_at`; None: until that is set or the key is revoked. Raises InvalidKey
    when two secrets are live already, or the key was revoked.
    """
    now = timezone.now()
    secret = keys.mint(pepper=settings.GATEWAY_API_KEY_PEPPER)
    with transaction.atomic():
        # Two administrators at once: the second waits here and then finds two.
        locked = ApiKey.objects.select_for_update().get(pk=api_key.pk)
        _refuse_revoked(locked)
        live = live_secrets(locked, now=now)
        if live.count() >= LIVE_SECRETS:
            raise InvalidKey("The key has two secrets already. Let the older one expire first.")
        if old_expire_at is not None:
            live.filter(_lasts_beyond(old_expire_at)).update(expires_at=old_expire_at)
        _store(locked, secret)
    return secret.text


def restore_secret(
    api_key: ApiKey, *, prefix: str, digest: str, created_at: dt.datetime, expires_at: dt.datetime | None
) -> None:
    """Give a key a secret that it had elsewhere: its digest, made with the same pepper. Does nothing to one it has but
    set when it ends. Raises InvalidKey when the prefix is another key's, or when more than two would be live."""
    now = timezone.now()
    with transaction.atomic():
        locked = ApiKey.objects.select_for_update().get(pk=api_key.pk)
        _refuse_revoked(locked)
        known = ApiKeySecret.objects.filter(prefix=prefix).first()
        if known is None:
            ApiKeySecret.objects.create(
                api_key=locked, prefix=prefix, digest=digest, created_at=created_at, expires_at=expires_at
            )
        elif known.api_key_id == locked.pk and known.digest == digest:
            ApiKeySecret.objects.filter(pk=known.pk).update(expires_at=expires_at)
        else:
            raise InvalidKey(f"The secret gw-{prefix}-… is another one here.")
        if live_secrets(locked, now=now).count() > LIVE_SECRETS:
            raise InvalidKey(f"The key would have more than {LIVE_SECRETS} secrets. End one first.")
        forget(locked)


def expire_secret(secret: ApiKeySecret, *, at: dt.datetime) -> None:
    """End a secret at that moment, if it does not end before."""
    ApiKeySecret.objects.filter(pk=secret.pk).filter(_lasts_beyond(at)).update(expires_at=at)
    forget(secret.api_key)


def adopt_text(api_key: ApiKey, text: str) -> None:
    """Make a text that the operator chose a secret of the key.

    What is configured counts: the text works from now on, a text adopted before stops (unless it has the form of a
    minted key), and of more than two live secrets the oldest stop. To end it, revoke the key. Raises InvalidKey
    when the text is too short, is another key's, or the key was revoked.
    """
    try:
        secret = keys.adopt(text, pepper=settings.GATEWAY_API_KEY_PEPPER)
    except ValueError as error:
        raise InvalidKey(str(error)) from None
    now = timezone.now()
    with transaction.atomic():
        locked = ApiKey.objects.select_for_update().get(pk=api_key.pk)
        _refuse_revoked(locked)
        known = ApiKeySecret.objects.filter(prefix=secret.prefix).first()
        if known is not None and (known.api_key_id != locked.pk or known.digest != secret.digest):
            raise InvalidKey("That text is the key of somebody else. Choose another.")
        others = live_secrets(locked, now=now).exclude(prefix=secret.prefix)
        others.filter(prefix__startswith=keys.GIVEN_PREFIX).update(expires_at=now)
        kept = others.order_by("-created_at").values_list("pk", flat=True)[: LIVE_SECRETS - 1]
        others.exclude(pk__in=list(kept)).update(expires_at=now)
        if known is None:
            _store(locked, secret)
        else:
            ApiKeySecret.objects.filter(pk=known.pk).update(expires_at=None)
            forget(locked)


def revoke(api_key: ApiKey, *, reason: str) -> None:
    """End a key for good. `reason` is required; revoking it again changes nothing."""
    if not reason.strip():
        raise InvalidKey("Say why the key is revoked.", param="reason")
    open_keys = ApiKey.objects.filter(pk=api_key.pk, revoked_at__isnull=True)
    open_keys.update(revoked_at=timezone.now(), revoked_reason=reason.strip()[:200])
    api_key.refresh_from_db(fields=["revoked_at", "revoked_reason"])
    forget(api_key)


def delete_expired_secrets(*, before: dt.datetime) -> int:
    """Delete secrets that ended before that moment and return how many. The keys and their history stay."""
    deleted, _ = ApiKeySecret.objects.filter(expires_at__lt=before).delete()
    return deleted


def live_secrets(api_key: ApiKey, *, now: dt.datetime) -> models.QuerySet[ApiKeySecret]:
    return ApiKeySecret.objects.filter(api_key=api_key).filter(_lasts_beyond(now))


def forget(api_key: ApiKey) -> None:
    """Let this process see a changed key at once."""
    access.forget_key(api_key.pk)
    transaction.on_commit(partial(access.forget_key, api_key.pk))


def _lasts_beyond(moment: dt.datetime) -> Q:
    return Q(expires_at__isnull=True) | Q(expires_at__gt=moment)


def _store(api_key: ApiKey, secret: keys.NewSecret) -> None:
    ApiKeySecret.objects.create(api_key=api_key, prefix=secret.prefix, digest=secret.digest)
    forget(api_key)


def _refuse_revoked(api_key: ApiKey) -> None:
    if api_key.revoked_at is not None:
        raise InvalidKey(f"The key was revoked: {api_key.revoked_reason}.")
