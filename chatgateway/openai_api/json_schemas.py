"""JSON Schemas of callers: checked when they come, and applied to an answer within bounds.

A schema is a program that a stranger wrote, run on a text that a model wrote. Its size is limited here and its depth
by `plain_json`; it refers to nothing outside itself; and whatever it does ends after CHECK_SECONDS: each keyword looks
at the clock, patterns are matched by an engine that knows a time limit, and what cannot be bounded is refused by name.

`jsonschema` takes a quarter of a second to import and `regex` takes 8 MiB, so they are imported on first use; call
these functions in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import orjson

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.canonical import canonical_json
from chatgateway.openai_api.plain_json import kind_of

# OpenAI allows 120,000 characters of names and values.
MAX_SCHEMA_BYTES = 128 * 1024
MAX_PATTERN_CHARS = 1000
CHECK_SECONDS = 2.0
MAX_PROBLEM_CHARS = 400

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
# Where values stand that only look like schemas.
_VALUES = ("enum", "const", "default", "examples", "example")
_deadline: ContextVar[float] = ContextVar("deadline")


class TookTooLong(Exception):
    """The check did not end within its time."""


def check_schema(schema: object, *, param: str) -> dict[str, Any]:
    """Return a schema that can be applied. Raises InvalidRequest, naming `param`, for any other."""
    if not isinstance(schema, dict):
        raise InvalidRequest(f"'{param}' must be an object, not {kind_of(schema)}.", param=param, code="invalid_type")
    text = canonical_json(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"'{param}' is longer than {MAX_SCHEMA_BYTES // 1024} KiB.", param=param)
    try:
        _validator(text)
    except _Unusable as problem:
        raise InvalidRequest(f"'{param}' cannot be used: {problem}", param=param) from None
    return schema


def problem_with(value: object, schema: dict[str, Any]) -> str | None:
    """Say what is wrong with a value, for the model to read; None if it is as a checked schema says."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    set_back = _deadline.set(time.monotonic() + CHECK_SECONDS)
    try:
        error = best_match(_validator(canonical_json(schema)).iter_errors(value))
    except (TookTooLong, RecursionError, Unresolvable, ArithmeticError) as failure:
        return f"it could not be checked against the schema ({type(failure).__name__})"
    finally:
        _deadline.reset(set_back)
    if error is None:
        return None
    message = error.message
    if len(message) > MAX_PROBLEM_CHARS:  # it may quote the whole answer
        message = f"{message[:MAX_PROBLEM_CHARS]}…"
    return f"at {error.json_path}: {message}"


class _Unusable(Exception):
    """Why a schema cannot be applied."""


@lru_cache(maxsize=64)  # programs send the same schema with every request
def _validator(text: bytes) -> Any:
    from jsonschema import validators
    from jsonschema.exceptions import ValidationError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    schema = orjson.loads(text)
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    set_back = _deadline.set(time.monotonic() + CHECK_SECONDS)
    try:
        _bounded(kind)(kind.META_SCHEMA).validate(schema)
        _look_through(schema)
        # An empty registry: nothing is fetched from anywhere.
        validator = _bounded(kind)(schema, registry=Registry())
        validator.is_valid(None)
    except ValidationError as error:
        raise _Unusable(f"{error.message[:MAX_PROBLEM_CHARS]} ({error.json_path})") from None
    except RecursionError:
        raise _Unusable("it refers to itself without end.") from None
    except Unresolvable as error:
        raise _Unusable(f"it refers to {error.ref!r}, which is not in it.") from None
    except TookTooLong:
        raise _Unusable("it takes too long to apply.") from None
    finally:
        _deadline.reset(set_back)
    return validator


def _look_through(schema: dict[str, Any]) -> None:
    """Find what a schema says that cannot be bounded, or points outside it. Raises _Unusable."""
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    whole = Registry().with_resource("", Resource.from_contents(schema, default_specification=DRAFT202012))
    resolver = whole.resolver()
    for one in _objects_in(schema):
        if "$id" in one and one is not schema and isinstance(one["$id"], str):
            raise _Unusable("only the schema as a whole may have an '$id'.")
        if isinstance(one.get("patternProperties"), dict):
            raise _Unusable("'patternProperties' is not supported.")
        for keyword in _REFERENCES:
            reference = one.get(keyword)
            if not isinstance(reference, str):
                continue
            if not reference.startswith("#"):
                raise _Unusable(f"'{keyword}' may only refer to the schema itself ('#/$defs/…'), not to {reference!r}.")
            if keyword == "$ref":
                resolver.lookup(reference)
        if isinstance(one.get("pattern"), str):
            _check_pattern(one["pattern"])


def _objects_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    todo: list[Any] = [schema]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo += [value for key, value in one.items() if key not in _VALUES]
        elif isinstance(one, list):
            todo += one


def _check_pattern(pattern: str) -> None:
    import regex

    if len(pattern) > MAX_PATTERN_CHARS:
        raise _Unusable(f"a 'pattern' is longer than {MAX_PATTERN_CHARS} characters.")
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise _Unusable(f"the 'pattern' {pattern[:60]!r} is no regular expression ({error}).") from None


# --- keywords that end ------------------------------------------------------------------------------------------------

_Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


@lru_cache(maxsize=16)
def _bounded(kind: Any) -> Any:
    """The validator of a draft whose keywords look at the clock."""
    from jsonschema import validators

    own = {"pattern": _pattern, "uniqueItems": _unique_items}
    return validators.extend(kind, {name: _timed(own.get(name, check)) for name, check in kind.VALIDATORS.items()})


def _timed(check: _Keyword) -> _Keyword:
    def timed(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any] | None:
        if time.monotonic() > _deadline.get():
            raise TookTooLong
        return check(validator, value, instance, schema)

    return timed


def _pattern(validator: Any, pattern: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    import regex
    from jsonschema.exceptions import ValidationError

    if not validator.is_type(instance, "string"):
        return
    seconds_left = max(0.001, _deadline.get() - time.monotonic())
    try:
        # `concurrent`: other threads go on meanwhile.
        found = regex.search(pattern, instance, timeout=seconds_left, concurrent=True)
    except TimeoutError:
        raise TookTooLong from None
    if found is None:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique_items(validator: Any, is_wanted: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    """In linear time; 1 and 1.0 are equal, 1 and true are not."""
    from jsonschema.exceptions import ValidationError

    if not is_wanted or not validator.is_type(instance, "array"):
        return
    if len({canonical_json(item) for item in instance}) != len(instance):
        yield ValidationError("the array has equal elements")
