"""Request bodies made safe to store and to send on, before anybody looks into them.

Python's JSON parser lets through what other readers refuse: lone surrogates (no UTF-8 for them), NUL characters
(PostgreSQL stores none), numbers that overflow to infinity, integers beyond 64 bits, hundreds of thousands of nested
brackets. After `cleaned` none of these is left anywhere in a body, so nothing behind it has to think of them.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from chatgateway.errors import InvalidRequest

# Seventeen levels of objects in a tool's schema fit; what takes a body apart by recursion is far from its limit.
MAX_DEPTH = 40
# Two thousand messages with tools and parameters stay far below; what is walked in Python stays below 0.1 s.
MAX_VALUES = 100_000
_MAX_INTEGER = 2**64 - 1
_MIN_INTEGER = -(2**63)

# A path may be built from the caller's own keys.
_PATH_CHARS = 200

_Path = tuple["_Path", str | int] | None


def cleaned(body: dict[str, Any]) -> dict[str, Any]:
    """`body`, or a copy of it without NUL characters in its texts.

    Raises InvalidRequest naming the path for lone surrogates, NUL in a key (dropping it could make two keys one),
    non-finite numbers, integers beyond 64 bits, nesting beyond MAX_DEPTH and more than MAX_VALUES values.
    """
    # orjson writes a body far faster than Python can walk it, and refuses what has no UTF-8, integers that are too
    # large and extreme depth. NUL it escapes, and non-finite numbers it writes as null; a value follows a bracket or
    # a comma. So only bodies that show one of these marks are walked.
    try:
        encoded = orjson.dumps(body)
    except TypeError:
        return _walked(body)
    brackets = encoded.count(b"[") + encoded.count(b"{")
    has_marks = b"\\u0000" in encoded or b"null" in encoded or brackets + encoded.count(b",") > MAX_VALUES
    if has_marks or (brackets > MAX_DEPTH and _is_too_deep(body)):
        return _walked(body)
    return body


def _is_too_deep(body: dict[str, Any]) -> bool:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def clean_text(text: str, *, param: str | None) -> str:
    """`text` without NUL characters. Raises InvalidRequest for lone surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            where = f"'{param}'" if param else "The request body"
            raise InvalidRequest(
                f"{where} holds half of a UTF-16 surrogate pair, which is no character. "
                "Send whole characters; a text was probably cut in the middle of one.",
                param=param,
            ) from None
    return text.replace("\0", "") if "\0" in text else text


def kind_of(value: object) -> str:
    """What JSON calls `value`, for messages: "an array", "a string", …"""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, dict) else "an array"


def _walked(body: dict[str, Any]) -> dict[str, Any]:
    """A checked copy. A loop with its own stack: a parser's nesting must not become our recursion."""
    copy: dict[str, Any] = {}
    todo: list[tuple[Any, Any, _Path, int]] = [(body, copy, None, 1)]
    values = 0
    while todo:
        source, target, path, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"The request body is nested more than {MAX_DEPTH} levels deep.", param=_written(path))
        values += len(source)
        if values > MAX_VALUES:
            raise InvalidRequest(f"The request body holds more than {MAX_VALUES} values.", param=_written(path))
        is_object = isinstance(source, dict)
        for key, item in source.items() if is_object else enumerate(source):
            if isinstance(key, str):
                _check_key(key, path)
            value = item
            if isinstance(item, dict | list):
                value = {} if isinstance(item, dict) else []
                todo.append((item, value, (path, key), depth + 1))
            elif isinstance(item, str):
                value = clean_text(item, param=_written((path, key))) if not _is_plain(item) else item
            elif item is not None and not isinstance(item, bool):
                _check_number(item, (path, key))
            if is_object:
                target[key] = value
            else:
                target.append(value)
    return copy


def _is_plain(text: str) -> bool:
    return text.isascii() and "\0" not in text


def _check_key(key: str, path: _Path) -> None:
    if not _is_plain(key) and clean_text(key, param=_written(path)) != key:
        raise InvalidRequest("A key of the request body holds a NUL character.", param=_written(path))


def _check_number(value: float, path: _Path) -> None:
    if isinstance(value, int):
        if not _MIN_INTEGER <= value <= _MAX_INTEGER:
            raise InvalidRequest(f"'{_written(path)}' is an integer beyond 64 bits.", param=_written(path))
    elif not math.isfinite(value):
        raise InvalidRequest(f"'{_written(path)}' must be a finite number.", param=_written(path))


def _written(path: _Path) -> str | None:
    """`messages.0.content`, cut short; None for the body itself."""
    keys: list[str] = []
    while path is not None:
        path, key = path
        keys.append(str(key))
    return ".".join(reversed(keys))[:_PATH_CHARS] or None
