"""Responses that a caller names by their ids: the one door to them, and what may be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatgateway import stored_items
from chatgateway.errors import InvalidRequest, NotFound
from chatgateway.models import Turn
from chatgateway.openai_api.responses_parameters import INCLUDABLE
from profiles.access import Caller

Item = dict[str, Any]

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


def find(caller: Caller, response_id: str) -> Turn:
    """Return the turn behind an id. Raises NotFound, with one text, for unknown ids, those of other tenants (or keys,
    for a key that sees only its own), responses that were not to be stored, and deleted ones. One query."""
    own_key = caller.api_key_id if caller.only_own_conversations else None
    turn = stored_items.turn_named(response_id, tenant_id=caller.tenant_id, api_key_id=own_key)
    if turn is None:
        raise NotFound(
            "There is no such response. Responses sent with 'store': false are not kept.", code="response_not_found"
        )
    return turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which items of a list are asked for. `after` and `before` are ids of items, empty where there is no bound; a page
    that has only a `before` ends there."""

    limit: int = DEFAULT_LIMIT
    is_descending: bool = True
    after: str = ""
    before: str = ""


def page_in(query: Any) -> Page:
    """Read `limit`, `order`, `after` and `before` of a URL; raises InvalidRequest naming the one that is wrong."""
    check_include(query)
    text = query.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {MAX_LIMIT}.", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc.", param="order")
    return Page(
        limit=limit, is_descending=order == "desc", after=query.get("after", ""), before=query.get("before", "")
    )


def check_include(query: Any) -> None:
    """Raise InvalidRequest if a URL's `include` asks for what there is not in OpenAI's API; an agent has none of it."""
    for name in ("include", "include[]"):
        for index, value in enumerate(query.getlist(name)):
            if value not in INCLUDABLE:
                raise InvalidRequest(
                    f"'include.{index}' must be one of {', '.join(INCLUDABLE)}.", param=f"include.{index}"
                )


def paged(items: Sequence[Item], page: Page) -> dict[str, Any]:
    """One page of `items`, which stand in ascending order. Raises InvalidRequest if a bound is none of them."""
    ordered = list(reversed(items)) if page.is_descending else list(items)
    begin = _place_of(page.after, ordered, param="after") + 1 if page.after else 0
    end = _place_of(page.before, ordered, param="before") if page.before else len(ordered)
    ordered = ordered[begin:end]
    shown = ordered[-page.limit :] if page.before and not page.after else ordered[: page.limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(ordered) > len(shown),
    }


def _place_of(item_id: str, items: Sequence[Item], *, param: str) -> int:
    place = next((index for index, item in enumerate(items) if item["id"] == item_id), None)
    if place is None:
        raise InvalidRequest(f"'{param}' is the id of no item in this list.", param=param)
    return place
