"""How callers' messages are kept: each once, in chains, images apart.

A chat client sends its whole history with every request. Stored as it comes, a conversation of n turns would
take n² of space; as chains that share their beginnings it takes n.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import connection

from chatgateway import sql
from chatgateway.models import Image, Message
from chatgateway.openai_api.canonical import message_digest

# A request deeper than this is refused before it is stored with its messages; what a refused one contained is
# kept up to here, as text of the rest.
MAX_DEPTH = 40
# Characters kept of each text of a refused request. An accepted one is kept whole; its size was checked.
REFUSED_TEXT = 20_000
# Characters kept of each text of a caller's message where it comes back as an event of the agent-server.
ECHOED_TEXT = 2_000
# Parameters of one query.
_CHAINS_AT_ONCE = 400
# Integers of JSON beyond 64 bits are refused in requests; a tool's output may hold them.
_BIGGEST = 2**63


def store(*, tenant_id: int, body: Any, is_refused: bool = False) -> tuple[dict[str, Any], Message | None]:
    """Write the messages of a request body, or the items of its `input`, that are not there yet.

    Return its other parameters (`messages` or `input` stands as null where it stood, an `input` that is a text as an
    empty one) and the last message. A body that is no object, or whose messages are no list of objects, is
    kept whole in the parameters.
    """
    limit = REFUSED_TEXT if is_refused else None
    if not isinstance(body, dict):
        return ({} if body is None else {"": storable(body, limit=limit)}), None
    held_in = _held_in(body)
    sent, stands_for = body.get(held_in), None
    if held_in == "input" and isinstance(sent, str) and sent:
        sent, stands_for = [_as_message(sent)], ""
    if not isinstance(sent, list) or not sent or not all(isinstance(message, dict) for message in sent):
        return storable(body, limit=limit), None
    parameters = storable({name: stands_for if name == held_in else value for name, value in body.items()}, limit=limit)
    return parameters, store_chain(tenant_id, [storable(message, limit=limit) for message in sent])


def with_messages(parameters: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the messages of a request back where `store` took them from."""
    held_in = _held_in(parameters)
    was_text = held_in == "input" and parameters[held_in] == ""
    return {**parameters, held_in: messages[0]["content"] if was_text else messages}


def _held_in(body: dict[str, Any]) -> str:
    """The parameter that holds the messages: chat completions and responses name it differently."""
    return "input" if "input" in body and "messages" not in body else "messages"


def _as_message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def store_chain(tenant_id: int, sent: list[dict[str, Any]]) -> Message:
    """Write a chain of messages, none of which is missing or unfit to be stored; return the last one."""
    images: dict[str, str] = {}
    rows = chain_rows(tenant_id, sent, images)
    if images:
        sql.insert(
            [Image(tenant_id=tenant_id, sha256=sha256, data_url=url) for sha256, url in images.items()],
            ignore_conflicts=True,
        )
    sql.insert(_missing(rows), ignore_conflicts=True)
    return rows[-1]


def chain_rows(tenant_id: int, sent: list[dict[str, Any]], images: dict[str, str]) -> list[Message]:
    """Return the unsaved rows of messages, which may be there already; the images in them go into `images`."""
    rows: list[Message] = []
    digest = f"tenant {tenant_id}".encode()
    parent_id: UUID | None = None
    for depth, message in enumerate(sent):
        body = _without_images(message, images)
        digest = message_digest(digest, body)
        message_id = UUID(bytes=digest[:16])
        rows.append(
            Message(
                id=message_id,
                tenant_id=tenant_id,
                parent_id=parent_id,
                depth=depth,
                role=str(message.get("role", ""))[:20],
                body=body,
            )
        )
        parent_id = message_id
    return rows


def _missing(rows: list[Message]) -> list[Message]:
    """Drop the beginning that is stored already; a short history is cheaper to insert blindly than to ask for."""
    if len(rows) <= 4:
        return rows
    for end in range(len(rows), 0, -400):
        part = rows[max(0, end - 400) : end]
        known = set(Message.objects.filter(pk__in=[row.pk for row in part]).values_list("pk", flat=True))
        if known:
            last_known = max(index for index, row in enumerate(rows[:end]) if row.pk in known)
            return rows[last_known + 1 :]
    return rows


def chain(last_message_id: UUID) -> list[dict[str, Any]]:
    """Return the messages of a request in order, images put back."""
    return [body for _, body in identified_chain(last_message_id)]


def identified_chain(last_message_id: UUID) -> list[tuple[UUID, dict[str, Any]]]:
    """`chain`, each message with its row's id."""
    return identified_chains([last_message_id])[last_message_id]


def identified_chains(last_message_ids: Iterable[UUID]) -> dict[UUID, list[tuple[UUID, dict[str, Any]]]]:
    """Return the chains that end with these messages, by their last one. One query for 400 chains however long they
    are, and one for each image."""
    last_ids = list(dict.fromkeys(last_message_ids))
    rows: dict[UUID, Message] = {}
    for begin in range(0, len(last_ids), _CHAINS_AT_ONCE):
        rows |= {row.pk: row for row in _chained(last_ids[begin : begin + _CHAINS_AT_ONCE])}
    bodies = {row_id: whole(row) for row_id, row in rows.items()}
    chains = {}
    for last_id in last_ids:
        ids: list[UUID] = []
        next_id: UUID | None = last_id
        while next_id is not None:
            ids.append(next_id)
            next_id = rows[next_id].parent_id
        chains[last_id] = [(row_id, bodies[row_id]) for row_id in reversed(ids)]
    return chains


def _chained(last_ids: list[UUID]) -> Iterable[Message]:
    """The rows of messages and of all those before them."""
    table = connection.ops.quote_name(Message._meta.db_table)
    field = Message._meta.pk
    assert field is not None
    # Names are the model's own; every value is a parameter. UNION, not UNION ALL: chains that begin alike are one.
    text = f"""
        WITH RECURSIVE chained(id, parent_id) AS (
            SELECT id, parent_id FROM {table} WHERE id IN ({", ".join(["%s"] * len(last_ids))})
            UNION
            SELECT earlier.id, earlier.parent_id FROM {table} earlier JOIN chained ON earlier.id = chained.parent_id
        )
        SELECT * FROM {table} WHERE id IN (SELECT id FROM chained)
    """  # noqa: S608
    return Message.objects.raw(text, [field.get_db_prep_value(last_id, connection) for last_id in last_ids])


def text_of(content: Any) -> str:
    """Return the text of a message's content: of its parts, those that are texts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def whole(row: Message) -> dict[str, Any]:
    """Return one message with its images put back."""
    return _with_images(row.body, row.tenant_id)


def _without_images(message: dict[str, Any], images: dict[str, str]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part_without_image(part, images) for part in content]}


def _part_without_image(part: Any, images: dict[str, str]) -> Any:
    if not isinstance(part, dict):
        return part
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, dict) else holder
    if not isinstance(url, str) or not url.startswith("data:"):
        return part
    sha256 = hashlib.sha256(url.encode()).hexdigest()
    images[sha256] = url
    reference: Any = {"$image": sha256}
    return {**part, "image_url": {**holder, "url": reference} if isinstance(holder, dict) else reference}


def _with_images(body: dict[str, Any], tenant_id: int) -> dict[str, Any]:
    content = body.get("content")
    if not isinstance(content, list):
        return body
    return {**body, "content": [_part_with_image(part, tenant_id) for part in content]}


def _part_with_image(part: Any, tenant_id: int) -> Any:
    holder = part.get("image_url") if isinstance(part, dict) else None
    if not isinstance(holder, dict):
        return part
    if "$image" in holder:
        return {**part, "image_url": _image(tenant_id, holder)}
    url = holder.get("url")
    if isinstance(url, dict) and "$image" in url:
        return {**part, "image_url": {**holder, "url": _image(tenant_id, url)}}
    return part


def _image(tenant_id: int, reference: dict[str, Any]) -> Any:
    """Return the data URL, or the reference itself where a refused request contained such an object."""
    image = Image.objects.filter(tenant_id=tenant_id, sha256=str(reference["$image"])[:64]).first()
    return reference if image is None else image.data_url


def storable_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return an agent-server's event as it is stored.

    Of the caller's own message, which the request's record holds, long texts are cut and images replaced by the
    reference to their row: told histories would otherwise be kept again with every turn that resends them.
    """
    kept: dict[str, Any] = storable(event)
    said = kept.get("llm_message")
    if kept.get("kind") != "MessageEvent" or kept.get("source") != "user" or not isinstance(said, dict):
        return kept
    content = said.get("content")
    if not isinstance(content, list):
        return kept
    return {**kept, "llm_message": {**said, "content": [_echo_of(part) for part in content]}}


def _echo_of(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    text, urls = part.get("text"), part.get("image_urls")
    if isinstance(text, str) and len(text) > ECHOED_TEXT:
        digest = hashlib.sha256(text.encode()).hexdigest()
        cut = {"chars": len(text), "sha256": digest}
        return {**part, "text": f"{text[: ECHOED_TEXT // 2]}…{text[-ECHOED_TEXT // 2 :]}", "$cut": cut}
    if isinstance(urls, list):
        return {**part, "image_urls": [_image_reference(url) for url in urls]}
    return part


def _image_reference(url: Any) -> Any:
    if not isinstance(url, str) or not url.startswith("data:"):
        return url
    return {"$image": hashlib.sha256(url.encode()).hexdigest()}


def storable(value: Any, *, limit: int | None = None, depth: int = 0) -> Any:
    """Return `value` as any database takes it: no NUL, no lone surrogate, no number that is not one, not too deep.

    `limit`: longer texts are cut to that many characters.
    """
    if isinstance(value, str):
        return storable_text(value, limit=limit)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if -_BIGGEST <= value <= _BIGGEST else str(value)[:40]
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {
            storable_text(str(name), limit=limit): storable(item, limit=limit, depth=depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [storable(item, limit=limit, depth=depth + 1) for item in value]
    return value


def storable_text(text: str, *, limit: int | None = None) -> str:
    """Return `text` without NUL and lone surrogates, which PostgreSQL refuses, cut to `limit` characters if given."""
    if limit is not None and len(text) > limit:
        text = text[:limit] + "…"
    if "\x00" in text:
        text = text.replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
