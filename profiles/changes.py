"""Who changed what an administrator edits, and what it was before: the only writer of `ChangeRecord` rows.

A change and its record are one transaction: neither is there without the other. Secrets are masked before anything is
written; that one was replaced by another can be seen, what either was cannot.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import connection, models, transaction
from django.utils import timezone

from profiles.access import Caller
from profiles.fields import MASK, Secret
from profiles.models import ApiKey, ChangeRecord

State = dict[str, Any]

# Characters kept of a long text, such as a system prompt.
LONGEST_TEXT = 20_000
# Written by the gateway itself, not by whoever edits the row. `password` is a digest, and treated as a secret.
_NOT_EDITED = frozenset({
    "id", "created_at", "updated_at", "catalogue", "last_used_at", "last_used_client", "last_login", "date_joined",
    "health", "health_checked_at", "health_message", "down_since", "version", "capabilities", "usable_tools",
})  # fmt: skip
_SECRET_COLUMNS = frozenset({"password"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who makes a change, as it is written down."""

    by: ChangeRecord.By
    name: str
    user_id: int | None = None
    api_key_id: int | None = None
    address: str = ""


def person(user: AbstractUser, *, address: str) -> Actor:
    return Actor(by=ChangeRecord.By.PERSON, name=user.get_username(), user_id=user.pk, address=address)


def api_key(caller: Caller, *, address: str = "") -> Actor:
    name = f"{caller.key_name} (gw-{caller.key_prefix}-…) of {caller.tenant_name}"
    return Actor(by=ChangeRecord.By.API_KEY, name=name, api_key_id=caller.api_key_id, address=address)


def program(name: str) -> Actor:
    """A command, or the gateway's own start."""
    return Actor(by=ChangeRecord.By.PROGRAM, name=name)


@contextmanager
def recorded(row: models.Model, *, by: Actor, note: str = "") -> Iterator[None]:
    """Run a change of `row` and write down what it changed, in one transaction. A change of nothing leaves no row."""
    with transaction.atomic():
        before = stored_state(row)
        yield
        changed(row, by=by, before=before, note=note)


def added(row: models.Model, *, by: Actor, note: str = "") -> ChangeRecord:
    """Write down that `row` was made: everything in it that is not empty. Return what was written."""
    fields = {name: [None, _shown(value)] for name, value in stored_state(row).items() if not _is_empty(value)}
    return _write(row, by=by, action=ChangeRecord.Action.ADDED, fields=fields, note=note)


def changed(row: models.Model, *, by: Actor, before: Mapping[str, Any], note: str = "") -> ChangeRecord | None:
    """Write down how the stored row differs from `before`, a `stored_state`; nothing if it does not. Return what was
    written."""
    after = stored_state(row)
    fields = {name: _difference(before.get(name), value) for name, value in after.items() if before.get(name) != value}
    return _write(row, by=by, action=ChangeRecord.Action.CHANGED, fields=fields, note=note) if fields else None


def deleted(row: models.Model, *, by: Actor, note: str = "") -> None:
    """Write down that `row` is about to be deleted, with what it held. Call it before."""
    fields = {name: [_shown(value), None] for name, value in stored_state(row).items() if not _is_empty(value)}
    _write(row, by=by, action=ChangeRecord.Action.DELETED, fields=fields, note=note)


def stored_state(row: models.Model) -> State:
    """Return what the database holds of a row that can be edited, to be given to `changed` afterwards.

    In a transaction the row is locked, so that two people who save at once are told apart. Secrets stand as `Secret`.
    """
    rows = type(row)._base_manager.filter(pk=row.pk)
    if connection.in_atomic_block:
        rows = rows.select_for_update(of=("self",))
    stored = rows.first()
    if stored is None:
        return {}
    state = {field.name: _value(stored, field) for field in stored._meta.concrete_fields if _is_edited(field)}
    for name in _many_to_many(stored):
        state[name] = sorted(str(other) for other in getattr(stored, name).all())
    if isinstance(stored, ApiKey):
        state["secrets"] = [
            f"{secret}" + (f" until {_plain(secret.expires_at)}" if secret.expires_at else "")
            for secret in stored.secrets.order_by("created_at")
        ]
    return state


# --- inside -------------------------------------------------------------------------------------------------------


def _write(
    row: models.Model, *, by: Actor, action: ChangeRecord.Action, fields: Mapping[str, Any], note: str
) -> ChangeRecord:
    return ChangeRecord.objects.create(
        at=timezone.now(),
        by=by.by,
        user_id=by.user_id,
        api_key_id=by.api_key_id,
        actor=by.name[:200],
        address=by.address[:64],
        action=action,
        kind=row._meta.label_lower,
        object_pk=str(row.pk),
        name=str(row)[:200],
        fields=dict(fields),
        note=note[:300],
    )


def _is_edited(field: models.Field[Any, Any]) -> bool:
    return field.name not in _NOT_EDITED


def _value(row: models.Model, field: models.Field[Any, Any]) -> Any:
    if field.name in _SECRET_COLUMNS:
        return Secret(getattr(row, field.name))
    if field.is_relation:
        other = getattr(row, field.name)
        return None if other is None else str(other)
    return _plain(getattr(row, field.attname))


def _many_to_many(row: models.Model) -> list[str]:
    """The names under which a row has many others, whichever of the two models says so."""
    own = [field.name for field in row._meta.many_to_many]
    others = [
        relation.get_accessor_name()
        for relation in row._meta.related_objects
        if isinstance(relation, models.ManyToManyRel)
    ]
    return own + [name for name in others if name is not None]


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; a `Secret` stays one until it is shown."""
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value):,} characters)"
    return value


def _is_empty(value: Any) -> bool:
    return value in (None, "", [], {}) or (isinstance(value, Secret) and not value)


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Secret) else value


def _difference(before: Any, after: Any) -> list[Any]:
    pair = [_shown(before), _shown(after)]
    return [MASK, f"{MASK} (another one)"] if pair == [MASK, MASK] else pair
