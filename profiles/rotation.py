"""Encrypting every stored secret anew, under the first of GATEWAY_ENCRYPTION_KEYS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction
from django.db.models import F, TextField
from django.db.models.functions import Cast

from profiles.fields import EncryptedTextField, Secret, decrypt

BATCH_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What became of one column. `unreadable` are primary keys of rows that none of the keys can read."""

    column: str
    count: int
    unreadable: tuple[object, ...]


def rotate_all() -> Iterator[Rotated]:
    """Re-encrypt every encrypted column of every model, in short transactions; safe to repeat and to interrupt.

    Yields one result per column when it is done. A row that was changed meanwhile is left: it is under the first
    key already. Unreadable ones are left too.
    """
    for model in apps.get_models():
        for column in model._meta.concrete_fields:
            if isinstance(column, EncryptedTextField):
                yield _rotate(model, column.attname)


def _rotate(model: type[models.Model], name: str) -> Rotated:
    # Cast keeps the field from decrypting: an unreadable row must not end the whole run.
    stored = model._base_manager.annotate(stored=Cast(F(name), TextField())).exclude(stored="").order_by("pk")
    count, unreadable = 0, []
    rows = list(stored.values_list("pk", "stored")[:BATCH_ROWS])
    while rows:
        with transaction.atomic():
            for pk, token in rows:
                try:
                    secret = Secret(decrypt(token))
                except ImproperlyConfigured:
                    unreadable.append(pk)
                    continue
                count += stored.filter(pk=pk, stored=token).update(**{name: secret})
        rows = list(stored.filter(pk__gt=rows[-1][0]).values_list("pk", "stored")[:BATCH_ROWS])
    return Rotated(column=f"{model._meta.label}.{name}", count=count, unreadable=tuple(unreadable))
