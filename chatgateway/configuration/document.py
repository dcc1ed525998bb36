"""What stands in the file: which columns of which rows, and how the file itself is read and written.

Columns are taken from the models: whatever an administrator can edit is in, so that a new column comes along by itself.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

import yaml
from django.conf import settings
from django.db import models

from chatgateway.models import AgentServer
from profiles.fields import EncryptedTextField
from profiles.models import ApiKey, Profile, Tenant

FORMAT = "openhands-gateway/1"
# What every key may use, in place of a list of profiles.
ALL = "all"

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One section of the file. `identity` names a row; `links` are written as names of other rows."""

    section: str
    model: type[models.Model]
    identity: str
    links: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    columns: tuple[str, ...] = field(init=False)
    secrets: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        edited = [
            column
            for column in self.model._meta.concrete_fields
            if column.editable and not column.primary_key and not column.is_relation and column.name not in self.without
        ]
        secrets = tuple(column.name for column in edited if isinstance(column, EncryptedTextField))
        object.__setattr__(self, "secrets", secrets)
        object.__setattr__(self, "columns", tuple(c.name for c in edited if c.name not in secrets))

    @property
    def known(self) -> set[str]:
        return {*self.columns, *self.secrets, *self.links}


TENANTS = Kind(section="tenants", model=Tenant, identity="name")
SERVERS = Kind(section="agent_servers", model=AgentServer, identity="name")
PROFILES = Kind(section="profiles", model=Profile, identity="slug", links=("owner", "allowed_servers"))
KEYS = Kind(
    section="api_keys",
    model=ApiKey,
    identity="name",
    links=("tenant", "profiles", "secrets"),
    without=frozenset({"allows_all_profiles"}),  # `profiles: all`
)
# In the order in which they need one another.
KINDS = (TENANTS, SERVERS, PROFILES, KEYS)


class Unreadable(Exception):
    """The file is not one of ours, or what is in it cannot be. `problems` are sentences."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def pepper_mark() -> str:
    """Return what tells one GATEWAY_API_KEY_PEPPER from another without saying it."""
    return hmac.new(settings.GATEWAY_API_KEY_PEPPER.encode(), b"export_config", hashlib.sha256).hexdigest()[:16]


def load(text: str) -> dict[str, list[Entry]]:
    """Return the entries of each section. Raises Unreadable with everything that is wrong about their shape."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own text quotes the line, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Unreadable(f"That is not YAML: it breaks{where}.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Unreadable(f"The file does not begin with “format: {FORMAT}”: it is not one of export_config.")
    problems: list[str] = []
    sections = {kind.section: kind for kind in KINDS}
    problems += [
        f"There is no section “{name}”." for name in found if name not in {*sections, "format", "api_key_pepper"}
    ]
    entries = {name: _entries(kind, found.get(name), problems) for name, kind in sections.items()}
    has_digests = any(entry.get("secrets") for entry in entries[KEYS.section])
    if has_digests and found.get("api_key_pepper") != pepper_mark():
        problems.append(
            "The secrets of the API keys were made with another GATEWAY_API_KEY_PEPPER: none of them would work here. "
            "Use the same one, or take “secrets” out of the file."
        )
    if problems:
        raise Unreadable(*problems)
    return entries


def dump(document: dict[str, Any], *, comment: str) -> str:
    """Return the file, with a comment at its head."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text


def name_of(kind: Kind, entry: Entry) -> str:
    """How an entry is called when something is said of it."""
    of = f" of {entry.get('tenant')}" if kind is KEYS else ""
    return f"{kind.section}: “{entry.get(kind.identity)}”{of}"


def _entries(kind: Kind, found: Any, problems: list[str]) -> list[Entry]:
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        problems.append(f"{kind.section}: write a list of entries, each with “{kind.identity}”.")
        return []
    seen: set[tuple[str, str]] = set()
    for entry in found:
        if not isinstance(entry.get(kind.identity), str):
            problems.append(f"{kind.section}: an entry has no “{kind.identity}”, or it is not a text.")
            continue
        place = (
            str(entry.get("tenant", "")),
            entry[kind.identity].lower() if kind is PROFILES else entry[kind.identity],
        )
        if place in seen:
            problems.append(f"{name_of(kind, entry)} stands in the file twice.")
        seen.add(place)
        problems += [f"{name_of(kind, entry)}: there is no “{name}”." for name in entry if name not in kind.known]
    return found


class _Dumper(yaml.SafeDumper):
    """Long texts stand as they are, line by line."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
