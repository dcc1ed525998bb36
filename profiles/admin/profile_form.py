"""The form of a profile: what an administrator may choose, checked before it can fail a caller's turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminNullBooleanSelectWidget,
    UnfoldAdminSelect2MultipleWidget,
)

from profiles import manage
from profiles.admin.secret_fields import SecretsForm
from profiles.exceptions import InvalidProfile
from profiles.fields import Secret
from profiles.manage import CheckedModel
from profiles.models import Profile
from profiles.profile_rules import check_retention, clean_workspace_path

# The agent-server's own names (1.58). What else the registered servers say they have is offered too.
COMMON_TOOLS = {
    "terminal": "run commands",
    "file_editor": "read and edit files",
    "task_tracker": "keep a list of tasks",
    "browser_tool_set": "use a web browser",
}


class ProfileForm(SecretsForm):
    """`checked` is what LiteLLM said of the model, `checked_utility` what of the one for housekeeping calls; None when
    there was no need to ask. `notices` are for the person who saved: what was saved although it may not be what they
    want."""

    tools = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None: the profile only answers. With tools its agent <strong>acts without asking</strong>: it runs "
        "commands and changes files on the agent-server as soon as a caller's words lead it there.",
    )
    accepts_images = forms.NullBooleanField(
        required=False,
        widget=UnfoldAdminNullBooleanSelectWidget,
        help_text="Unknown: as LiteLLM's catalogue says of the model. Yes or no: whatever the catalogue says.",
    )
    allowed_servers = forms.ModelMultipleChoiceField(
        queryset=Profile.objects.none(),  # the agent-servers: see below
        required=False,
        label="Agent-servers",
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text="None: any active agent-server may run it. In force within a few seconds.",
    )

    class Meta:
        model = Profile
        fields = "__all__"
        labels = {
            "time_limit_seconds": "Time limit, seconds",
            "max_iterations": "Steps per turn",
            "workspace_path": "Fixed directory",
            "workspace_template": "Template directory",
            "client_tools": "Callers' own tools",
            "on_disconnect": "When a caller goes away",
            "top_p": "top_p",
            "max_output_tokens": "Most output tokens",
            "llm_timeout_seconds": "Longest LLM call, seconds",
            "llm_idle_timeout_seconds": "Longest silence, seconds",
            "answer_holdback_chars": "Holdback, characters",
            "conversation_idle_hours": "Conversations stay on their agent-server, hours",
            "workspace_keep_days": "Working directories are kept, days",
            "keep_content_days": "Texts are kept, days",
            "keep_usage_days": "Turns are kept, days",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.checked: CheckedModel | None = None
        self.checked_utility: CheckedModel | None = None
        self.notices: list[str] = []
        servers = _servers()
        names = {name for names in servers.values_list("usable_tools", flat=True) for name in names or ()}
        self._on_servers = names
        self._offer_tools(names | set(self.instance.tools))
        field = self.fields.get("allowed_servers")
        if isinstance(field, forms.ModelMultipleChoiceField):
            field.queryset = servers
            if self.instance.pk:
                field.initial = list(self.instance.allowed_servers.all())

    def _offer_tools(self, names: Iterable[str]) -> None:
        field = self.fields.get("tools")
        if isinstance(field, forms.MultipleChoiceField):
            others = sorted(set(names) - set(COMMON_TOOLS))
            field.choices = [
                *((name, f"{name}: {what}") for name, what in COMMON_TOOLS.items()),
                *((name, name) for name in others),
            ]

    def clean_workspace_template(self) -> str:
        return clean_workspace_path(self.cleaned_data["workspace_template"])

    def clean_tools(self) -> list[str]:
        chosen: list[str] = self.cleaned_data["tools"]
        missing = [name for name in chosen if self._on_servers and name not in self._on_servers]
        if missing:
            self.notices.append(
                f"No agent-server says it has {', '.join(missing)}: turns fail until one does. "
                f"See the agent-server's page for what it has."
            )
        return chosen

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        self._check_workspace(cleaned)
        self._check_retention(cleaned)
        self._check_model(cleaned)
        self._check_utility_model(cleaned)
        if "llm_model" in cleaned and "llm_base_url" in cleaned:
            cleaned["llm_api_key"] = self._key_for(cleaned["llm_model"], cleaned["llm_base_url"])
        return cleaned

    def _check_workspace(self, cleaned: dict[str, Any]) -> None:
        if cleaned.get("workspace") != Profile.Workspace.FIXED:
            cleaned["workspace_path"] = ""
            return
        try:
            cleaned["workspace_path"] = clean_workspace_path(cleaned.get("workspace_path", ""))
        except ValidationError as error:
            self.add_error("workspace_path", error)
            return
        if not cleaned["workspace_path"]:
            self.add_error("workspace_path", "A fixed workspace needs a path.")

    def _check_retention(self, cleaned: dict[str, Any]) -> None:
        try:
            check_retention(texts_days=cleaned.get("keep_content_days"), turns_days=cleaned.get("keep_usage_days"))
        except ValidationError as error:
            self.add_error("keep_content_days", error)

    def _check_model(self, cleaned: dict[str, Any]) -> None:
        model, base_url = cleaned.get("llm_model"), cleaned.get("llm_base_url")
        if model is None or base_url is None:
            return
        is_same = (model, base_url) == (self.initial.get("llm_model"), self.initial.get("llm_base_url"))
        if is_same and self.instance.catalogue:
            return
        try:
            self.checked = manage.check_model(model, base_url)
        except InvalidProfile as error:
            self.add_error("llm_model", error.message)
            return
        self.notices += self.checked.warnings

    def _check_utility_model(self, cleaned: dict[str, Any]) -> None:
        """It is called with the profile's key, so it must live where that key belongs."""
        model, utility, base_url = (cleaned.get(name) for name in ("llm_model", "utility_llm_model", "llm_base_url"))
        if not utility or model is None or base_url is None:
            return
        names = ("llm_model", "utility_llm_model", "llm_base_url")
        if self.instance.utility_catalogue and all(cleaned[name] == self.initial.get(name) for name in names):
            return
        try:
            self.checked_utility = manage.check_model(utility, base_url)
        except InvalidProfile as error:
            self.add_error("utility_llm_model", error.message)
            return
        self.notices += self.checked_utility.warnings
        try:
            manage.check_utility_place(
                model=model,
                utility=utility,
                base_url=base_url,
                catalogue=self.instance.catalogue if self.checked is None else self.checked.catalogue,
                utility_catalogue=self.checked_utility.catalogue,
            )
        except InvalidProfile as error:
            self.add_error("utility_llm_model", error.message)

    def _key_for(self, model: str, base_url: str) -> Secret:
        """Stored credentials do not follow an edited URL to another host, or a model to another provider."""
        stored: Secret = self.instance.llm_api_key if self.instance.pk else Secret()
        old_catalogue = self.instance.catalogue or {}
        new_catalogue = old_catalogue if self.checked is None else self.checked.catalogue or {}
        kept = manage.keep_or_clear_secret(
            stored=stored,
            sent=self.sent_secrets.get("llm_api_key"),
            old_place=manage.llm_place(
                model=self.initial.get("llm_model", ""),
                base_url=self.initial.get("llm_base_url", ""),
                catalogue=old_catalogue,
            ),
            new_place=manage.llm_place(model=model, base_url=base_url, catalogue=new_catalogue),
        )
        if stored and not kept and self.sent_secrets.get("llm_api_key") is None:
            self.notices.append(
                "The stored LLM API key was removed, because the model now lives somewhere else. Enter the key for "
                "the new place."
            )
        return kept


def _servers() -> models.QuerySet[Any]:
    # The agent-servers belong to the other application; only the relation it made is known here.
    related = Profile._meta.get_field("allowed_servers").related_model
    assert isinstance(related, type)
    return related._default_manager.order_by("name")
