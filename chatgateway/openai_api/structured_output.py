"""`response_format` and Responses' `text.format`: what shape an answer is to have, and whether it has it.

An agent's LLM is told in words, because agent-servers have no parameter for it. Where the words go: at the end of the
message that the agent is sent, and nowhere else. Not into the system prompt, which is fixed when a conversation starts:
a format that comes, changes or goes would mean another conversation. Not into the transcript either: by that a client's
history is recognised, and the client never sent these words.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api import json_schemas
from chatgateway.openai_api.plain_json import kind_of

MAX_DESCRIPTION_CHARS = 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FENCED = re.compile(r"```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """The JSON that an answer is to be: an object, valid against `schema` if there is one (any value, then)."""

    schema: dict[str, Any] | None = None
    name: str = ""
    description: str = ""


class NotAsAsked(Exception):
    """An answer does not have its format. Its text says why, for the model to read."""


def response_format(value: object, *, param: str = "response_format") -> OutputFormat | None:
    """Read a chat completion's `response_format`; None for plain text. Raises InvalidRequest with the path."""
    return _format(value, param=param, holder="json_schema")


def text_format(value: object, *, param: str = "text.format") -> OutputFormat | None:
    """The same for Responses, which has the schema's name beside its type."""
    return _format(value, param=param, holder=None)


def instruction(output: OutputFormat) -> str:
    """What an agent is told at the end of the message whose answer is to have the format."""
    about = f"\nWhat it is for: {output.description}" if output.description else ""
    shape = "one JSON object"
    if output.schema is not None:
        written = json.dumps(output.schema, ensure_ascii=False, separators=(",", ":"))
        shape = "one JSON value that is valid against the JSON Schema below"
        about += f"\nJSON Schema{f' “{output.name}”' if output.name else ''}: {written}"
    return (
        f"Your final answer to this message is read by a program. Do first whatever the task needs; then answer with "
        f"{shape}, and nothing else: no words around it and no code fence. "
        f"This holds for the answer to this message only.{about}"
    )


def correction(problem: str) -> str:
    """What an agent is told whose answer does not have its format."""
    return (
        f"A program could not read your last answer: {problem}. Write the answer again, as JSON of the form that was "
        "asked for, and nothing else. Do not do the task again."
    )


def json_in(text: str, output: OutputFormat) -> str:
    """Return the JSON of an answer, without a code fence or words around one. Raises NotAsAsked.

    May take `json_schemas.CHECK_SECONDS`, and imports a large library: call it in a thread.
    """
    found = text.strip()
    try:
        value = _loaded(found)
    except NotAsAsked:
        fenced = _FENCED.findall(found)
        if len(fenced) != 1:
            raise
        found = fenced[0].strip()
        value = _loaded(found)
    if output.schema is None:
        if not isinstance(value, dict):
            raise NotAsAsked(f"it is {kind_of(value)}, not an object")
        return found
    problem = json_schemas.problem_with(value, output.schema)
    if problem is not None:
        raise NotAsAsked(problem)
    return found


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise NotAsAsked("it is nested too deeply") from None
    except ValueError as error:
        raise NotAsAsked(f"it is not JSON ({error})") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _format(value: object, *, param: str, holder: str | None) -> OutputFormat | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f"'{param}' must be an object, not {kind_of(value)}.", param=param, code="invalid_type")
    kind = _string(value, "type", param=param, is_required=True)
    match kind:
        case "text":
            return None
        case "json_object":
            return OutputFormat()
        case "json_schema" if holder is None:
            return _named_schema(value, param=param)
        case "json_schema":
            path = f"{param}.{holder}"
            held = value.get(holder)
            if held is None:
                raise InvalidRequest(f"'{path}' is missing.", param=path, code="missing_required_parameter")
            return _named_schema(held, param=path)
    raise InvalidRequest(f"'{param}.type' must be one of text, json_object, json_schema.", param=f"{param}.type")


def _named_schema(value: object, *, param: str) -> OutputFormat:
    if not isinstance(value, dict):
        raise InvalidRequest(f"'{param}' must be an object, not {kind_of(value)}.", param=param, code="invalid_type")
    name = _string(value, "name", param=param, is_required=True)
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"'{param}.name' must be 1 to 64 letters, digits, _ or -.", param=f"{param}.name", code="invalid_value"
        )
    description = _string(value, "description", param=param)
    if len(description) > MAX_DESCRIPTION_CHARS:
        raise InvalidRequest(
            f"'{param}.description' is longer than {MAX_DESCRIPTION_CHARS} characters.", param=f"{param}.description"
        )
    strict = value.get("strict")
    if not isinstance(strict, bool | None):
        raise InvalidRequest(
            f"'{param}.strict' must be true or false, not {kind_of(strict)}.",
            param=f"{param}.strict",
            code="invalid_type",
        )
    schema = value.get("schema")
    if schema is not None:
        schema = json_schemas.check_schema(schema, param=f"{param}.schema")
    return OutputFormat(schema=schema, name=name, description=description)


def _string(holder: dict[str, Any], key: str, *, param: str, is_required: bool = False) -> str:
    path, value = f"{param}.{key}", holder.get(key)
    if value is None:
        if is_required:
            raise InvalidRequest(f"'{path}' is missing.", param=path, code="missing_required_parameter")
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"'{path}' must be a string, not {kind_of(value)}.", param=path, code="invalid_type")
    return value
