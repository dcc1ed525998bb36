"""What an administrator says about an API key: its limits, how it is rotated, why it is revoked."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from profiles.models import ApiKey, ApiKeySecret


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # a generic ModelForm cannot be subclassed at run time
    """The rules are `issuing.save_key`'s and `allow_profiles`'; here they name the field before anything is written."""

    class Meta:
        model = ApiKey
        fields = "__all__"  # noqa: DJ007  the admin's fieldsets choose

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("is_global") and not cleaned.get("can_manage"):
            self.add_error("is_global", "Only a key that may manage profiles can manage every tenant's.")
        if not cleaned.get("can_chat") and not cleaned.get("can_manage"):
            self.add_error("can_chat", "The key has no scope: let it call agents or manage profiles.")
        self._check_profiles(cleaned)
        return cleaned

    def _check_profiles(self, cleaned: dict[str, Any]) -> None:
        tenant, chosen = cleaned.get("tenant"), cleaned.get("allowed_profiles") or ()
        if tenant is None or "allowed_profiles" not in self.fields:
            return
        if cleaned.get("allows_all_profiles"):
            if chosen:
                self.add_error("allowed_profiles", "Switch “all profiles” off, or choose none here.")
            return
        if not chosen and cleaned.get("can_chat"):
            self.add_error("allowed_profiles", "Choose at least one profile, or switch “all profiles” on.")
        for profile in chosen:
            if profile.owner_id not in {None, tenant.pk}:
                self.add_error("allowed_profiles", f"The profile “{profile.slug}” belongs to another tenant.")

    @property
    def chosen_profiles(self) -> list[Any] | None:
        """The profiles the key is limited to; None for one that may use them all."""
        if self.cleaned_data.get("allows_all_profiles"):
            return None
        return list(self.cleaned_data.get("allowed_profiles") or ())


class RotateForm(forms.Form):
    hours = forms.TypedChoiceField(
        label="The present secret goes on working",
        coerce=int,
        initial=24,
        choices=[
            (0, "not at all: it ends now"),
            (1, "for 1 hour"),
            (24, "for 24 hours"),
            (72, "for 3 days"),
            (168, "for 7 days"),
            (720, "for 30 days"),
        ],
        widget=UnfoldAdminSelectWidget,
        help_text="Long enough to put the new one wherever the key is used.",
    )
    end_oldest = forms.BooleanField(required=False, widget=UnfoldBooleanWidget)

    def __init__(self, *args: Any, oldest: ApiKeySecret | None, **kwargs: Any) -> None:
        """`oldest` is the older of two live secrets; None when there is room for another."""
        super().__init__(*args, **kwargs)
        if oldest is None:
            del self.fields["end_oldest"]
            return
        self.fields["end_oldest"].label = f"End {oldest} now"
        self.fields["end_oldest"].help_text = "A key has two secrets at most, and this one has two already."
        self.fields["end_oldest"].required = True


class RevokeForm(forms.Form):
    reason = forms.CharField(
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the key: “laptop stolen”, “project ended”, “found in a repository”.",
    )
