"""Bringing a database up to the file: rows are made or changed, none is deleted, and each change is recorded.

All of it is one transaction. A column that an entry leaves out stays as it is; so does a row that the file leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.utils.dateparse import parse_datetime

from chatgateway import servers
from chatgateway.configuration import values
from chatgateway.configuration.document import (
    ALL,
    KEYS,
    PROFILES,
    SERVERS,
    TENANTS,
    Entry,
    Kind,
    Unreadable,
    load,
    name_of,
)
from chatgateway.models import AgentServer
from profiles import access, changes, issuing, manage
from profiles.exceptions import InvalidKey, InvalidProfile
from profiles.http_urls import origin_of
from profiles.manage import CheckedModel
from profiles.models import ApiKey, ChangeRecord, Profile, Tenant
from profiles.profile_rules import check_retention, clean_workspace_path


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What was changed, or would be, and what its administrator should know."""

    changes: list[ChangeRecord] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def apply(text: str, *, by: changes.Actor, is_dry_run: bool) -> Outcome:
    """Make the database as the file says. Raises Unreadable with all that is wrong; then nothing was changed."""
    entries = load(text)
    checked = _Models(entries[PROFILES.section])
    outcome = Outcome(notices=checked.notices)
    writer = _Writer(by=by, outcome=outcome, checked=checked, problems=list(checked.problems))
    try:
        _write_all(entries, writer, is_dry_run=is_dry_run)
    except IntegrityError:
        raise Unreadable("Somebody changed the same rows at the same time. Run it again.") from None
    access.forget_all()
    servers.forget()
    return outcome


def _write_all(entries: dict[str, list[Entry]], writer: _Writer, *, is_dry_run: bool) -> None:
    with transaction.atomic():
        for kind, write in (
            (TENANTS, writer.tenant),
            (SERVERS, writer.server),
            (PROFILES, writer.profile),
            (KEYS, writer.key),
        ):
            for entry in entries[kind.section]:
                writer.attempt(kind, entry, write)
        if writer.problems:
            raise Unreadable(*writer.problems)
        if is_dry_run:
            transaction.set_rollback(True)


class _Models:
    """What LiteLLM says of the models in the file that are new here. Asked before the transaction: it may take
    seconds. `problems` are those nobody can resolve."""

    def __init__(self, entries: list[Entry]) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []
        self._found: dict[tuple[str, str], CheckedModel] = {}
        for entry in entries:
            stored = Profile.objects.filter(slug__iexact=entry["slug"]).first() or Profile()
            model, base_url, utility = (
                entry.get(name, getattr(stored, name)) for name in ("llm_model", "llm_base_url", "utility_llm_model")
            )
            if not stored.catalogue or (model, base_url) != (stored.llm_model, stored.llm_base_url):
                self._check(entry, model, base_url)
            if utility and (utility, base_url) != (stored.utility_llm_model, stored.llm_base_url):
                self._check(entry, utility, base_url)

    def catalogue(self, model: str, base_url: str, stored: dict[str, Any]) -> dict[str, Any]:
        """Return what is known of a model: as it was asked just now, else as it is stored."""
        checked = self._found.get((model, base_url))
        return stored if checked is None else checked.catalogue or {}

    def _check(self, entry: Entry, model: Any, base_url: Any) -> None:
        if not isinstance(model, str) or not isinstance(base_url, str) or (model, base_url) in self._found:
            return  # what is no text is refused with its column's name
        try:
            checked = manage.check_model(model, base_url)
        except InvalidProfile as error:
            self.problems.append(f"{name_of(PROFILES, entry)}: {error.message}")
            return
        self._found[model, base_url] = checked
        self.notices += [f"{name_of(PROFILES, entry)}: {warning}" for warning in checked.warnings]


@dataclass(slots=True, kw_only=True)
class _Writer:
    by: changes.Actor
    outcome: Outcome
    checked: _Models
    problems: list[str]

    def attempt(self, kind: Kind, entry: Entry, write: Any) -> None:
        """Write one entry; what is wrong with it is noted, so that all of it can be mended at once."""
        try:
            with transaction.atomic():
                write(entry)
        except ValidationError as error:
            told = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
            self.problems += [
                ": ".join(filter(None, [name_of(kind, entry), column.replace("__all__", ""), text]))
                for column, texts in told.items()
                for text in texts
            ]
        except (InvalidKey, InvalidProfile) as error:
            self.problems.append(": ".join(filter(None, [name_of(kind, entry), error.param, error.message])))

    # --- sections ---------------------------------------------------------------------------------------------------

    def tenant(self, entry: Entry) -> None:
        row = Tenant.objects.filter(name=entry["name"]).first() or Tenant()
        values.set_columns(TENANTS, row, entry)
        self._save(row)

    def server(self, entry: Entry) -> None:
        row = AgentServer.objects.filter(name=entry["name"]).first() or AgentServer()
        if row.is_embedded:
            raise ValidationError("The agent-server of that name is kept by “up” itself. Choose another name.")
        old_url = row.url
        values.set_columns(SERVERS, row, entry)
        row.session_api_key = manage.keep_or_clear_secret(
            stored=row.session_api_key,
            sent=values.secret(entry, "session_api_key"),
            old_place=origin_of(old_url),
            new_place=origin_of(row.url),
        )
        self._save(row)

    def profile(self, entry: Entry) -> None:
        row = Profile.objects.filter(slug__iexact=entry["slug"]).first() or Profile()
        old_place = manage.llm_place(model=row.llm_model, base_url=row.llm_base_url, catalogue=row.catalogue)
        values.set_columns(PROFILES, row, entry)
        self._set_models(row)
        if "owner" in entry:
            row.owner = None if entry["owner"] is None else _named(Tenant, "name", entry["owner"])
        for name in ("workspace_path", "workspace_template"):
            if name in entry:
                setattr(row, name, clean_workspace_path(getattr(row, name)))
        check_retention(texts_days=row.keep_content_days, turns_days=row.keep_usage_days)
        new_place = manage.llm_place(model=row.llm_model, base_url=row.llm_base_url, catalogue=row.catalogue)
        had_key = bool(row.llm_api_key)
        row.llm_api_key = manage.keep_or_clear_secret(
            stored=row.llm_api_key,
            sent=values.secret(entry, "llm_api_key"),
            old_place=old_place,
            new_place=new_place,
        )
        if had_key and not row.llm_api_key:
            self.outcome.notices.append(
                f"{name_of(PROFILES, entry)}: the stored LLM API key was removed, for the model lives elsewhere now."
            )
        for name in ("mcp_config", "terminal_secrets"):
            if (sent := values.secret(entry, name)) is not None:
                values.check_json_secret(name, sent)
                setattr(row, name, sent)
        bound = entry.get("allowed_servers")
        self._save(row, allowed_servers=None if bound is None else _all(AgentServer, "name", bound))
        manage.forget(row.slug)

    def _set_models(self, row: Profile) -> None:
        """Take over what is known of the models, and hold the rule that both are called with one key."""
        row.catalogue = self.checked.catalogue(row.llm_model, row.llm_base_url, row.catalogue)
        if not row.utility_llm_model:
            row.utility_catalogue = {}
            return
        row.utility_catalogue = self.checked.catalogue(row.utility_llm_model, row.llm_base_url, row.utility_catalogue)
        manage.check_utility_place(
            model=row.llm_model,
            utility=row.utility_llm_model,
            base_url=row.llm_base_url,
            catalogue=row.catalogue,
            utility_catalogue=row.utility_catalogue,
        )

    def key(self, entry: Entry) -> None:
        tenant = _named(Tenant, "name", entry.get("tenant"))
        row = ApiKey.objects.filter(tenant=tenant, name=entry["name"]).first() or ApiKey(tenant=tenant)
        if row.revoked_at is not None:
            self.outcome.notices.append(f"{name_of(KEYS, entry)} was revoked here and stays so.")
            return
        is_new = row._state.adding
        before = None if is_new else changes.stored_state(row)
        values.set_columns(KEYS, row, entry)
        issuing.save_key(row)
        profiles = entry.get("profiles", ALL if is_new else None)
        if profiles is not None:
            issuing.allow_profiles(row, None if profiles == ALL else _all(Profile, "slug", profiles))
        for secret in entry.get("secrets") or ():
            _restore_secret(row, secret)
        if is_new and not entry.get("secrets"):
            self.outcome.notices.append(
                f"{name_of(KEYS, entry)} has no secret yet: rotate it in the admin to make one."
            )
        self._record(row, before)

    # --- saving and recording ---------------------------------------------------------------------------------------

    def _save(self, row: Any, *, allowed_servers: list[AgentServer] | None = None) -> None:
        """Write a row and record it; one that is as the file says is left alone."""
        is_new = row._state.adding
        stored = None if is_new else type(row)._base_manager.get(pk=row.pk)
        before = None if is_new else changes.stored_state(row)
        row.full_clean()
        if stored is None or any(
            getattr(row, column.attname) != getattr(stored, column.attname) for column in row._meta.concrete_fields
        ):
            row.save()
        if allowed_servers is not None:
            row.allowed_servers.set(allowed_servers)
        self._record(row, before)

    def _record(self, row: models.Model, before: changes.State | None) -> None:
        record = changes.added(row, by=self.by) if before is None else changes.changed(row, by=self.by, before=before)
        if record is not None:
            self.outcome.changes.append(record)


def _named(model: type[Any], column: str, name: Any) -> Any:
    row = model._base_manager.filter(**{column: name}).first() if isinstance(name, str) else None
    if row is None:
        raise ValidationError(f"There is no {model._meta.verbose_name} “{name}”, neither here nor in the file.")
    return row


def _all(model: type[Any], column: str, names: Any) -> list[Any]:
    if not isinstance(names, list):
        raise ValidationError(f"Write a list of names of {model._meta.verbose_name_plural}, or leave it out.")
    return [_named(model, column, name) for name in names]


def _restore_secret(row: ApiKey, secret: Any) -> None:
    try:
        prefix, digest = str(secret["prefix"]), str(secret["digest"])
        created_at = parse_datetime(str(secret["created_at"]))
        expires_at = None if secret.get("expires_at") is None else parse_datetime(str(secret["expires_at"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValidationError("A secret needs prefix, digest and created_at, as export_config writes them.") from None
    if created_at is None or created_at.tzinfo is None or (expires_at is not None and expires_at.tzinfo is None):
        raise ValidationError("A secret's times need a zone, as export_config writes them.")
    issuing.restore_secret(row, prefix=prefix, digest=digest, created_at=created_at, expires_at=expires_at)
