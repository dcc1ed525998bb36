"""Columns that hold secrets: encrypted in the database, hidden everywhere else."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

MASK = "••••••••"


class Secret:
    """Text that does not show itself. `reveal()` is the only way to it, so that every use can be searched for.

    `str()`, `repr()`, f-strings, logs and templates get a mask. False when empty.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return MASK if self._text else ""

    def __repr__(self) -> str:
        return f"Secret({MASK if self._text else ''})"


@cache
def _box(keys: tuple[str, ...]) -> MultiFernet:
    # Fernet wants 32 bytes; hashing lets an operator use any passphrase long enough to be one.
    for key in keys:
        if len(key) < 32:
            raise ImproperlyConfigured("GATEWAY_ENCRYPTION_KEYS: each key needs at least 32 characters.")
    return MultiFernet([Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) for key in keys])


def _current_box() -> MultiFernet:
    if not settings.GATEWAY_ENCRYPTION_KEYS:
        raise ImproperlyConfigured("GATEWAY_ENCRYPTION_KEYS is empty.")
    return _box(tuple(settings.GATEWAY_ENCRYPTION_KEYS))


def encrypt(text: str) -> str:
    """Return `text` under the first of GATEWAY_ENCRYPTION_KEYS; the empty text stays empty."""
    return _current_box().encrypt(text.encode()).decode() if text else ""


def decrypt(token: str) -> str:
    """Undo `encrypt` with any of GATEWAY_ENCRYPTION_KEYS; raises ImproperlyConfigured when none fits."""
    if not token:
        return ""
    try:
        return _current_box().decrypt(token.encode()).decode()
    except InvalidToken:
        raise ImproperlyConfigured(
            "A stored secret cannot be read: the key it was encrypted with is not in GATEWAY_ENCRYPTION_KEYS."
        ) from None


class EncryptedTextField(models.TextField[Secret | str, Secret]):
    """Text encrypted at rest. Python sees a `Secret`; a plain string can be assigned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("blank", True)
        kwargs.setdefault("default", "")
        super().__init__(*args, **kwargs)

    def from_db_value(self, value: str | None, expression: object, connection: object) -> Secret:
        return Secret(decrypt(value or ""))

    def to_python(self, value: Any) -> Secret:
        return value if isinstance(value, Secret) else Secret(value or "")

    def get_prep_value(self, value: Any) -> str:
        return encrypt(self.to_python(value).reveal())

    def value_to_string(self, obj: models.Model) -> str:
        return ""  # dumpdata must not write secrets into a fixture


class EncryptedJSONField(EncryptedTextField):
    """A JSON object encrypted at rest, as a `Secret` that holds its text; `load_json` reads it."""


def load_json(secret: Secret) -> dict[str, Any]:
    """Return the object in an EncryptedJSONField; `{}` when it is empty."""
    loaded = json.loads(secret.reveal()) if secret else {}
    assert isinstance(loaded, dict)
    return loaded
