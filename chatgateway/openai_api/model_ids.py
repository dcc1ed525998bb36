"""A profile's slug and the model id callers know it by, and the model objects that describe it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chatgateway.errors import ModelNotFound

PREFIX = "openhands_"
OWNED_BY = "openhands"

UNKNOWN_PREFIX = "Unknown OpenHands model '{model}'. Use GET /v1/models."
UNKNOWN_PROFILE = "Profile '{name}' not found. Use GET /v1/models."

# An id is quoted in the message so that its sender recognises it; a longer one is abuse or an accident.
_QUOTED_CHARS = 128


def to_model_id(slug: str) -> str:
    return PREFIX + slug


def to_slug(model_id: str) -> str | None:
    """The slug in `model_id`, or None if it does not have our prefix or nothing follows it."""
    return model_id.removeprefix(PREFIX) or None if model_id.startswith(PREFIX) else None


def model_not_found(model_id: str) -> ModelNotFound:
    """The 404 for `model_id`, to be raised by the caller.

    One text whether the profile is unknown, disabled or not this key's, so that nobody learns other people's names.
    """
    slug = to_slug(model_id)
    if slug is None:
        return ModelNotFound(UNKNOWN_PREFIX.format(model=_quotable(model_id)), param="model")
    return ModelNotFound(UNKNOWN_PROFILE.format(name=_quotable(slug)), param="model")


def model_object(*, slug: str, created: int, name: str = "", description: str = "") -> dict[str, Any]:
    """One row of `GET /v1/models`. `created` is in Unix seconds.

    `name` and `description` are left out when empty: Open WebUI shows `name`, but trips over a null.
    """
    row: dict[str, Any] = {"id": to_model_id(slug), "object": "model", "created": created, "owned_by": OWNED_BY}
    if name:
        row["name"] = name
    if description:
        row["description"] = description
    return row


def model_list(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The reply of `GET /v1/models`: all rows, ordered by id so that menus do not flicker. OpenAI knows no paging."""
    return {"object": "list", "data": sorted(rows, key=_id_of)}


def _id_of(row: dict[str, Any]) -> str:
    return str(row["id"])


def _quotable(text: str) -> str:
    """`text` cut short, without what cannot be encoded (ids may come from a percent-encoded path)."""
    shown = text if len(text) <= _QUOTED_CHARS else text[:_QUOTED_CHARS] + "…"
    return shown.encode("utf-8", "replace").decode("utf-8")
