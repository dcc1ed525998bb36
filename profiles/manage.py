"""The only author of profiles for REST and for the start command, and the rules the admin's forms share with them.

Over REST a profile's LLM is set and nothing else: tools, MCP servers, secrets, prompts, the workspace and servers are
an administrator's business, because with them a caller could reach files and networks that are not theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from profiles import access, changes, llm_client, native_llm
from profiles.access import Caller
from profiles.exceptions import InvalidProfile, LlmProcessDown, ProfileNameTaken, UnknownProfile, UnknownProvider
from profiles.fields import Secret
from profiles.http_urls import origin_of
from profiles.models import Profile, slug_validator

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedModel:
    """What LiteLLM said of a model. `catalogue` is None when it could not be asked."""

    catalogue: dict[str, Any] | None
    warnings: tuple[str, ...] = ()


# --- over REST ----------------------------------------------------------------------------------------------------


def save_profile(caller: Caller, name: str, body: object, *, address: str = "") -> tuple[Profile, tuple[str, ...]]:
    """Create or replace the LLM of a profile and return it with warnings for the caller. `address`: for the record.

    `body` is what the agent-server takes: `{"llm": {…}, "include_secrets": true}`. A new profile belongs to the
    caller's tenant, or to nobody when the key manages every tenant. Of an existing one everything but the LLM stays
    as an administrator set it. A stored API key is kept when none is sent and the LLM is still at the same place;
    `include_secrets: false` stores none. Raises InvalidProfile, ProfileNameTaken.
    """
    _check_name(name)
    asked = _read_body(body)
    model, base_url = asked.columns["llm_model"], asked.columns["llm_base_url"]
    checked = check_model(model, base_url, param="llm.model")

    dropped: list[str] = []

    def write(profile: Profile | None) -> Profile:
        dropped.clear()
        if profile is None:
            owner_id = None if caller.is_global else caller.tenant_id
            profile = Profile(slug=name, owner_id=owner_id)
        elif profile.slug != name or not _may_manage(caller, profile):
            raise ProfileNameTaken(f"The profile name '{name}' is taken. Choose another.", param="name")
        dropped.extend(_drop_utility_model(profile, model=model, base_url=base_url, catalogue=checked.catalogue))
        _set_llm(profile, asked, checked)
        profile.source = Profile.Source.API
        return profile

    profile = _write(name, write, by=changes.api_key(caller, address=address))
    warnings = (*asked.warnings, *checked.warnings, *dropped)
    if not profile.is_enabled:
        warnings = (*warnings, "The profile is disabled: callers cannot use it until an administrator enables it.")
    return profile, warnings


def list_profiles(caller: Caller) -> list[Profile]:
    """Return the profiles the caller may change, ordered by name, disabled ones included."""
    rows = Profile.objects.all() if caller.is_global else Profile.objects.filter(owner_id=caller.tenant_id)
    return list(rows.order_by("slug"))


def get_profile(caller: Caller, name: str) -> Profile:
    """Return a profile the caller may change; raises UnknownProfile for any other."""
    _refuse_impossible(name)
    profile = Profile.objects.filter(slug=name).first()
    if profile is None or not _may_manage(caller, profile):
        raise UnknownProfile(name)
    return profile


def delete_profile(caller: Caller, name: str, *, address: str = "") -> None:
    """Delete a profile the caller may change; raises UnknownProfile for any other. Its turns keep its name."""
    profile = get_profile(caller, name)
    with transaction.atomic():
        changes.deleted(profile, by=changes.api_key(caller, address=address))
        profile.delete()
    forget(name)


def profile_json(profile: Profile) -> dict[str, Any]:
    """Return a profile as the native routes show it: never its secrets, but whether there is an API key."""
    return {
        "name": profile.slug,
        "model": profile.llm_model,
        "base_url": profile.llm_base_url or None,
        "api_key_set": bool(profile.llm_api_key),
        "model_id": profile.model_id,
        "is_enabled": profile.is_enabled,
        "config": native_llm.to_json(profile),
    }


# --- for the start command ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """What the start command wants of a profile: `llm` are LLM columns, brought up to date at every start; `initial`
    are other columns, set when the profile is made and then left to administrators."""

    slug: str
    source: Profile.Source
    llm: dict[str, Any]
    llm_api_key: str = field(default="", repr=False)
    initial: dict[str, Any] = field(default_factory=dict)


def set_up_profile(wanted: SetUp) -> tuple[Profile, tuple[str, ...]]:
    """Create a profile, or bring its LLM up to date if it was made by the same source. Returns it with warnings.

    A profile of that name which somebody made by hand or over REST is left alone, with a warning that says so.
    Raises InvalidProfile.
    """
    _check_name(wanted.slug)
    existing = Profile.objects.filter(slug__iexact=wanted.slug).first()
    if existing is not None and existing.source != wanted.source:
        how = existing.get_source_display()
        return existing, (f"There is a profile '{existing.slug}' already ({how}); it is left as it is.",)
    checked = check_model(wanted.llm["llm_model"], wanted.llm.get("llm_base_url", ""), param="llm_model")
    dropped: list[str] = []

    def write(profile: Profile | None) -> Profile:
        if profile is None:
            profile = Profile(slug=wanted.slug, source=wanted.source, **wanted.initial)
        dropped.clear()
        at = {"model": wanted.llm["llm_model"], "base_url": wanted.llm.get("llm_base_url", "")}
        dropped.extend(_drop_utility_model(profile, **at, catalogue=checked.catalogue))
        for column, value in wanted.llm.items():
            setattr(profile, column, value)
        profile.llm_api_key = Secret(wanted.llm_api_key)
        _set_catalogue(profile, checked)
        return profile

    return _write(wanted.slug, write, by=changes.program("start")), (*checked.warnings, *dropped)


# --- rules the admin's forms share --------------------------------------------------------------------------------


def check_model(model: str, base_url: str, *, param: str | None = None) -> CheckedModel:
    """Ask the llm process about a model string; waits up to 5 s for it.

    Raises InvalidProfile when LiteLLM cannot tell the provider. A model that it does not know is warned about, and
    so is an llm process that does not answer.
    """
    try:
        facts = llm_client.describe_model(model, base_url)
    except UnknownProvider:
        raise InvalidProfile(no_provider_text(model), param=param) from None
    except LlmProcessDown as error:
        logger.warning("a model was saved unchecked: %s", error)
        return CheckedModel(catalogue=None, warnings=(f"The model '{model}' was saved but could not be checked.",))
    if not facts.is_known:
        return CheckedModel(
            catalogue=facts.to_json(),
            warnings=(f"LiteLLM's catalogue does not have '{model}': its price is unknown unless the profile says.",),
        )
    return CheckedModel(catalogue=facts.to_json())


def no_provider_text(model: str) -> str:
    return (
        f"LiteLLM cannot tell the provider of '{model}'. Write provider/model, such as anthropic/claude-sonnet-4-5, or "
        f"openai/{model.rpartition('/')[2] or 'name'} together with the base URL of a server that speaks OpenAI's "
        f"protocol."
    )


def keep_or_clear_secret(*, stored: Secret, sent: str | None, old_place: str, new_place: str) -> Secret:
    """Return the secret to store beside an edited URL: stored credentials do not follow it to another place.

    `sent` is what came with the edit, None for nothing. `old_place` and `new_place` are what the secret is sent to:
    `http_urls.origin_of` an agent-server's URL, `llm_place` of a profile.
    """
    if sent is not None:
        return Secret(sent)
    return stored if old_place == new_place else Secret()


def llm_place(*, model: str, base_url: str, catalogue: dict[str, Any]) -> str:
    """Return where a profile's API key is sent: the base URL's scheme, host and port, else the model's provider.

    `catalogue` says the provider of a model without one in its name; without it, such a model is a place of its own.
    """
    prefix, slash, _ = model.partition("/")
    return origin_of(base_url) or f"provider {catalogue.get('provider') or prefix + slash}"


def check_utility_place(
    *,
    model: str,
    utility: str,
    base_url: str,
    catalogue: dict[str, Any] | None,
    utility_catalogue: dict[str, Any] | None,
) -> None:
    """Raise InvalidProfile unless a model for housekeeping calls lives where the profile's key belongs."""
    if not catalogue or not utility_catalogue:
        catalogue = utility_catalogue = {}  # what the names say, of both
    place = llm_place(model=model, base_url=base_url, catalogue=catalogue)
    if place != llm_place(model=utility, base_url=base_url, catalogue=utility_catalogue):
        raise InvalidProfile(
            f"It is called with the key of {model}, so it must be a model of the same provider.",
            param="utility_llm_model",
        )


def forget(*slugs: str) -> None:
    """Let this process see changed profiles at once: now, and after the commit of a transaction that goes on."""
    for slug in slugs:
        access.forget_profile(slug)
        transaction.on_commit(partial(access.forget_profile, slug))


# --- daily --------------------------------------------------------------------------------------------------------


def refresh_catalogue(profile: Profile) -> bool:
    """Read LiteLLM's facts of a profile's models again; True if they had changed. Raises LlmProcessDown."""
    facts = {
        "catalogue": _described(profile.llm_model, profile.llm_base_url),
        "utility_catalogue": _described(profile.utility_llm_model, profile.llm_base_url),
    }
    if all(getattr(profile, name) == catalogue for name, catalogue in facts.items()):
        return False
    # Not if somebody chose other models meanwhile.
    chosen = {name: getattr(profile, name) for name in ("llm_model", "llm_base_url", "utility_llm_model")}
    changed = Profile.objects.filter(pk=profile.pk, **chosen).update(**facts)
    forget(profile.slug)
    return bool(changed)


def _described(model: str, base_url: str) -> dict[str, Any]:
    try:
        return llm_client.describe_model(model, base_url).to_json() if model else {}
    except UnknownProvider:
        return {}  # a newer LiteLLM may have dropped the provider


# --- inside -------------------------------------------------------------------------------------------------------


def _read_body(body: object) -> native_llm.NativeLlm:
    if not isinstance(body, dict):
        raise InvalidProfile('The body must be an object such as {"llm": {"model": "…", "api_key": "…"}}.')
    for name in body:
        if name not in {"llm", "include_secrets"}:
            quoted = native_llm.shown(name)
            raise InvalidProfile(f"'{quoted}' cannot be set over REST. Set it in the admin.", param=quoted)
    include_secrets = body.get("include_secrets", True)
    if not isinstance(include_secrets, bool):
        raise InvalidProfile("'include_secrets' must be true or false.", param="include_secrets")
    asked = native_llm.parse(body.get("llm"))
    return asked if include_secrets else native_llm.without_key(asked)


def _set_llm(profile: Profile, asked: native_llm.NativeLlm, checked: CheckedModel) -> None:
    columns = dict(asked.columns)
    model, base_url = columns["llm_model"], columns["llm_base_url"]
    profile.llm_api_key = keep_or_clear_secret(
        stored=profile.llm_api_key,
        sent=asked.api_key,
        old_place=llm_place(model=profile.llm_model, base_url=profile.llm_base_url, catalogue=profile.catalogue),
        new_place=llm_place(model=model, base_url=base_url, catalogue=checked.catalogue or {}),
    )
    if profile.llm_model != model:
        profile.cached_input_price = None  # prices that an administrator entered were those of the model before
    elif not asked.sets_price:
        columns.update(input_price=profile.input_price, output_price=profile.output_price)
    _set_catalogue(profile, checked, is_new_model=profile.llm_model != model or profile.llm_base_url != base_url)
    for column, value in columns.items():
        setattr(profile, column, value)


def _drop_utility_model(
    profile: Profile, *, model: str, base_url: str, catalogue: dict[str, Any] | None
) -> tuple[str, ...]:
    """Take the model for housekeeping calls off a profile whose LLM moves: it is called with that LLM's key.

    Return what is to be said of it."""
    if (profile.llm_model, profile.llm_base_url) == (model, base_url):
        return ()
    old_place = llm_place(model=profile.llm_model, base_url=profile.llm_base_url, catalogue=profile.catalogue)
    if not profile.utility_llm_model or old_place == llm_place(
        model=model, base_url=base_url, catalogue=catalogue or {}
    ):
        return ()
    gone, profile.utility_llm_model, profile.utility_catalogue = profile.utility_llm_model, "", {}
    return (f"The model for housekeeping calls, '{gone}', was taken off: the LLM is at another place now.",)


def _set_catalogue(profile: Profile, checked: CheckedModel, *, is_new_model: bool = True) -> None:
    if checked.catalogue is not None:
        profile.catalogue = checked.catalogue
    elif is_new_model:
        profile.catalogue = {}


def _write(slug: str, write: Callable[[Profile | None], Profile], *, by: changes.Actor) -> Profile:
    """Save what `write` makes of the row of that name, found in any case, or of None; and forget the old one."""
    try:
        profile = _write_once(slug, write, by)
    except IntegrityError:
        # Somebody made it between our look and our insert: now there is a row to look at.
        profile = _write_once(slug, write, by)
    forget(profile.slug)
    return profile


def _write_once(slug: str, write: Callable[[Profile | None], Profile], by: changes.Actor) -> Profile:
    with transaction.atomic():
        known = Profile.objects.select_for_update().filter(slug__iexact=slug).first()
        before = None if known is None else changes.stored_state(known)
        profile = write(known)
        _save(profile)
        if before is None:
            changes.added(profile, by=by)
        else:
            changes.changed(profile, by=by, before=before)
        return profile


def _save(profile: Profile) -> None:
    try:
        profile.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        column, messages = next(iter(error.message_dict.items()))
        raise InvalidProfile(f"{column}: {messages[0]}", param=column) from error
    profile.save()


def _may_manage(caller: Caller, profile: Profile) -> bool:
    return caller.is_global or (profile.owner_id is not None and profile.owner_id == caller.tenant_id)


def _check_name(name: str) -> None:
    try:
        slug_validator(name)
    except ValidationError as error:
        raise InvalidProfile(f"The profile's name is not one. {error.message}", param="name") from None


def _refuse_impossible(name: str) -> None:
    try:
        slug_validator(name)
    except ValidationError:
        raise UnknownProfile(name) from None
