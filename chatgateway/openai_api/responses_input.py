"""`input` of a response: a text or a list of items, read as the messages that they are.

Clients that keep the conversation themselves send everything again, the items of earlier replies included: messages,
and calls of tools with their results. Reasoning is dropped: it was never meant to be read by another run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.messages import MAX_MESSAGES, Placed, spoken_at, transcript_at
from chatgateway.openai_api.plain_json import kind_of
from chatgateway.openai_api.transcript import EarlierMessage, Transcript

Item = dict[str, Any]

# What earlier replies may hold and no agent needs to be told.
_DROPPED = ("reasoning", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response")


def items_of(value: object, *, whole: str = "input") -> list[Item]:
    """The items of an input; a text is a user's message. Raises InvalidRequest for anything that is neither."""
    if value is None:
        raise InvalidRequest(
            f"'{whole}' is missing. Send a text, or an array of items that ends with a user's message.",
            param=whole,
            code="missing_required_parameter",
        )
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise InvalidRequest(
            f"'{whole}' must be a string or an array of items, not {kind_of(value)}.", param=whole, code="invalid_type"
        )
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(f"'{whole}' holds {len(value)} items; the limit is {MAX_MESSAGES}.", param=whole)
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise InvalidRequest(
                f"'{whole}.{index}' must be an object, not {kind_of(item)}.",
                param=f"{whole}.{index}",
                code="invalid_type",
            )
    return value


def references_in(value: object) -> list[str]:
    """The ids of stored items that an input names instead of sending them."""
    items = value if isinstance(value, list) else []
    return [
        item["id"]
        for item in items
        if isinstance(item, dict) and item.get("type") == "item_reference" and isinstance(item.get("id"), str)
    ]


def parse_input(
    value: object, *, stored: Mapping[str, Item], accepts_images: bool, accepts_remote_images: bool
) -> Transcript:
    """The transcript, or InvalidRequest naming the item and the part (`input.0.content.1`).

    `stored` are the items that the input refers to, by id. Expects a body that went through `plain_json.cleaned`.
    """
    items = items_of(value)
    if not items or (isinstance(value, str) and not value.strip()):
        raise InvalidRequest("'input' is empty. Write what the agent should do.", param="input")
    return transcript_at(
        _placed(items, stored=stored, whole="input"),
        sent=items,
        whole="input",
        accepts_images=accepts_images,
        accepts_remote_images=accepts_remote_images,
    )


def parse_items(
    items: Sequence[Item], *, whole: str, accepts_images: bool, accepts_remote_images: bool
) -> tuple[str, tuple[EarlierMessage, ...]]:
    """The system text and the messages of items that need not end with a user's: those a conversation begins with."""
    system_texts, spoken = spoken_at(
        _placed(items, stored={}, whole=whole),
        whole=whole,
        accepts_images=accepts_images,
        accepts_remote_images=accepts_remote_images,
    )
    suffix = "\n\n".join(text for text in system_texts if text.strip())
    return suffix, tuple(message for message in spoken if not message.is_blank)


def _placed(items: Sequence[Item], *, stored: Mapping[str, Item], whole: str) -> Iterator[Placed]:
    for index, item in enumerate(items):
        path = f"{whole}.{index}"
        message = _message(_looked_up(item, stored, path=path), path=path)
        if message is not None:
            yield index, path, message


def _looked_up(item: Item, stored: Mapping[str, Item], *, path: str) -> Item:
    if item.get("type") != "item_reference":
        return item
    found = stored.get(str(item.get("id")))
    if found is None:
        raise InvalidRequest(
            f"'{path}.id' names no stored item. Items of responses sent with 'store': false are not kept; send the "
            "item itself.",
            param=f"{path}.id",
        )
    return found


def _message(item: Item, *, path: str) -> Item | None:
    """The item as a message of a chat; None if it says nothing to an agent."""
    kind = item.get("type")
    if kind is None or kind == "message":
        return item
    if not isinstance(kind, str):
        raise InvalidRequest(
            f"'{path}.type' must be a string, not {kind_of(kind)}.", param=f"{path}.type", code="invalid_type"
        )
    if kind in _DROPPED:
        return None
    call_id = item.get("call_id") or item.get("id") or ""
    if kind.endswith("_call_output"):
        output = item.get("output")
        content = output if isinstance(output, str | list) else _json({"output": output})
        return {"role": "tool", "tool_call_id": call_id, "content": content}
    if kind.endswith("_call"):
        name = item.get("name") or kind.removesuffix("_call")
        called = {"name": name, "arguments": _arguments(item)}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": call_id, "function": called}]}
    raise InvalidRequest(
        f"'{path}.type' is an item that agents cannot be told: {kind[:64]}. Send messages, and calls of tools with "
        "their outputs.",
        param=f"{path}.type",
        code="unsupported_value",
    )


def _arguments(item: Item) -> str:
    """What a tool was called with: the text that stands there, or all that the item says."""
    given = item.get("arguments", item.get("input"))
    if isinstance(given, str) and item.get("output") is None:
        return given
    known = ("type", "id", "call_id", "name", "status")
    return _json({name: value for name, value in item.items() if name not in known and value is not None})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
