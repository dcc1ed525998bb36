"""The bodies of `/v1/conversations`: what a conversation begins with, and what its owner notes beside it."""

from __future__ import annotations

from typing import Any

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api import parameters
from chatgateway.openai_api.plain_json import cleaned, kind_of
from chatgateway.openai_api.responses_input import Item, items_of, parse_items

MAX_ITEMS = 20  # OpenAI's limit


def parse(body: object) -> tuple[dict[str, str], list[Item]]:
    """(metadata, items). Raises InvalidRequest naming what is wrong."""
    raw = {} if body is None else cleaned(_an_object(body))
    # OpenAI's Agents SDK makes its conversations with an empty array.
    return _metadata(raw), ([] if raw.get("items") in (None, []) else parse_new_items(raw))


def parse_metadata(body: object) -> dict[str, str]:
    return _metadata(cleaned(_an_object(body)))


def parse_new_items(body: object) -> list[Item]:
    """The `items` of a body: messages, and calls of tools with their results."""
    items = items_of(cleaned(_an_object(body)).get("items"), whole="items")
    if isinstance(body, dict) and isinstance(body.get("items"), str):
        raise InvalidRequest("'items' must be an array, not a string.", param="items", code="invalid_type")
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidRequest(f"'items' must hold 1 to {MAX_ITEMS} items.", param="items")
    parse_items(items, whole="items", accepts_images=True, accepts_remote_images=True)
    return items


def _an_object(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {kind_of(body)}.", code="invalid_type")
    return body


def _metadata(raw: dict[str, Any]) -> dict[str, str]:
    value = raw.get("metadata")
    if value is None:
        return {}
    parameters._metadata("metadata", value)
    return dict(value)
