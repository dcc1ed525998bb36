"""Write-only form fields for encrypted columns: what is stored never reaches the page.

An empty input keeps what is stored, a new text replaces it, and "Remove" clears it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.text import capfirst

from profiles.fields import EncryptedJSONField, EncryptedTextField, Secret
from profiles.json_secrets import validate_mcp_servers, validate_variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a form was sent for a secret. `text` is not shown by `repr`."""

    text: str
    clear: bool

    def __repr__(self) -> str:
        return f"Sent(clear={self.clear})"

    @property
    def change(self) -> str | None:
        """The new text, "" to clear what is stored, None to keep it."""
        return "" if self.clear else self.text or None


class SecretInput(forms.Widget):
    """A password input, or a text area for JSON, that never renders a value."""

    template_name = "profiles/admin/secret_input.html"

    def __init__(self, attrs: dict[str, Any] | None = None, *, is_long: bool = False) -> None:
        super().__init__(attrs)
        self.is_long = is_long
        self.is_stored = False  # set by the form, which knows the row

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context = super().get_context(name, None, attrs)
        context["widget"] |= {
            "is_long": self.is_long,
            "is_stored": self.is_stored,
            "clear_name": f"{name}-clear",
            "clear_id": f"id_{name}-clear",
        }
        return context

    def format_value(self, value: Any) -> None:
        return None

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Sent:
        text = data.get(name)
        return Sent(text=text.strip() if isinstance(text, str) else "", clear=f"{name}-clear" in data)

    def value_omitted_from_data(self, data: Mapping[str, Any], files: Any, name: str) -> bool:
        return False  # an omitted secret is a kept one; Django must not fall back to the column's default


class SecretField(forms.Field):
    """Cleans to a `Sent`; `SecretsForm` turns that into what is to be stored."""

    widget = SecretInput

    def clean(self, value: Sent) -> Sent:
        if value.text and value.clear:
            raise ValidationError("Either type a new one or tick “Remove”, not both.", code="both")
        if value.text:
            self.run_validators(value.text)
        return value

    def has_changed(self, initial: Any, data: Any) -> bool:
        return isinstance(data, Sent) and data.change is not None


class SecretsForm(forms.ModelForm):  # type: ignore[type-arg]  # a generic ModelForm cannot be subclassed at run time
    """A form whose encrypted columns are write-only.

    `sent_secrets` says what was sent for each after `clean`: a new text, "" to clear it, None to keep it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent_secrets: dict[str, str | None] = {}
        for name, field in self._secret_fields():
            cast("SecretInput", field.widget).is_stored = bool(getattr(self.instance, name))
            self.initial.pop(name, None)

    def _secret_fields(self) -> list[tuple[str, SecretField]]:
        return [(name, field) for name, field in self.fields.items() if isinstance(field, SecretField)]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for name, _ in self._secret_fields():
            sent = cleaned.get(name)
            stored: Secret = getattr(self.instance, name)
            change = sent.change if isinstance(sent, Sent) else None
            self.sent_secrets[name] = change
            cleaned[name] = stored if change is None else Secret(change)
        return cleaned


def secret_formfield(column: models.Field[Any, Any]) -> SecretField:
    """Return the form field of an encrypted column, with the rules of what it holds."""
    assert isinstance(column, EncryptedTextField)
    validators = {"mcp_config": [validate_mcp_servers], "terminal_secrets": [validate_variables]}
    return SecretField(
        label=capfirst(column.verbose_name),
        help_text=column.help_text,
        required=False,
        validators=validators.get(column.name, []),
        widget=SecretInput(is_long=isinstance(column, EncryptedJSONField)),
    )
