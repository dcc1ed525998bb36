"""Values of the file as columns take them. YAML guesses types, so what it guessed wrong is refused, not converted."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import models

from chatgateway.configuration.document import Entry, Kind
from profiles.fields import decrypt
from profiles.json_secrets import validate_mcp_servers, validate_variables

_TEXTS = (models.CharField, models.TextField)
_JSON_SECRETS = {"mcp_config": validate_mcp_servers, "terminal_secrets": validate_variables}


def set_columns(kind: Kind, row: models.Model, entry: Entry) -> None:
    """Set what the entry says. Raises ValidationError, by column, for what cannot be one."""
    wrong: dict[str, list[str]] = {}
    for name in kind.columns:
        if name not in entry:
            continue
        column: Any = kind.model._meta.get_field(name)
        try:
            _check(column, entry[name])
            setattr(row, name, column.clean(entry[name], row))
        except ValidationError as error:
            wrong[name] = error.messages
    if wrong:
        raise ValidationError(wrong)


def secret(entry: Entry, name: str) -> str | None:
    """Return a secret of the entry: encrypted, in a file beside, or as plain text; None if it does not say one."""
    told = entry.get(name)
    match told:
        case None:
            return None
        case {"encrypted": str(token), **rest} if not rest:
            try:
                return decrypt(token)
            except ImproperlyConfigured:
                text = "It cannot be read: it was encrypted with another GATEWAY_ENCRYPTION_KEYS."
                raise ValidationError({name: text}) from None
        case {"file": str(path), **rest} if not rest:
            try:
                return Path(path).read_text().strip()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not a text"
                raise ValidationError({name: f"The file {path} cannot be read: {reason}."}) from None
        case {"text": str(text), **rest} if not rest:
            return text
    raise ValidationError(
        {name: "Write {file: …}, {text: …} or {encrypted: …}, or leave it out to keep what is stored."}
    )


def check_json_secret(name: str, text: str) -> None:
    """Raise ValidationError unless the text is what the admin's form would take; the empty text removes it."""
    if not text:
        return
    try:
        _JSON_SECRETS[name](text)
    except ValidationError as error:
        raise ValidationError({name: error.messages}) from None


def _check(column: models.Field[Any, Any], value: Any) -> None:
    if isinstance(column, models.JSONField):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValidationError("Write a list of texts.")
        return
    if isinstance(value, dict | list):
        raise ValidationError("Write one value.")
    if isinstance(column, _TEXTS) and not isinstance(value, str):
        raise ValidationError("Write a text, in quotes.")
    if isinstance(value, str) and "\0" in value:
        raise ValidationError("The text holds a NUL character.")
    if isinstance(column, models.BooleanField):
        if value is not None and not isinstance(value, bool):
            raise ValidationError("Write true or false.")
    elif isinstance(value, bool):
        raise ValidationError("That is true or false, not a value of this column.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValidationError("Write a finite number.")
    if isinstance(column, models.DateTimeField) and isinstance(value, dt.datetime | str):
        parsed = column.to_python(value)
        if parsed is not None and parsed.tzinfo is None:
            raise ValidationError("Write a time with its zone, such as 2027-01-31T00:00:00Z.")
    elif isinstance(value, dt.date):
        raise ValidationError("Write a time, such as 2027-01-31T00:00:00Z.")
