"""Every parameter of `POST /v1/chat/completions`, one row each: what the gateway does with it.

The table is the policy and the documentation of it. A row's check refuses values of the wrong type or range;
rules that need more than the value itself stand in `chat_request.py`. What is not in the table is ignored: chat UIs
and proxies add keys of their own to every body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api.plain_json import kind_of
from chatgateway.openai_api.structured_output import response_format

Treatment = Literal["honour", "ignore", "refuse"]
Check = Callable[[str, object], None]

MAX_OUTPUT_TOKENS = 2**31 - 1
MAX_STOP_SEQUENCES = 4
MAX_STOP_CHARS = 500
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
MAX_USER_CHARS = 256
MAX_SAFETY_IDENTIFIER_CHARS = 64  # OpenAI's limit
REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    `honour`: it does what OpenAI documents. `ignore`: accepted and without effect. `refuse`: an error unless it has
    a value without effect, which `note` names. `is_override` marks what reaches the profile's LLM only where the
    profile lets callers override it, and is ignored elsewhere. `note` is a sentence for the documentation.
    """

    name: str
    treatment: Treatment
    note: str
    check: Check = field(repr=False)
    is_override: bool = False


# --- checks: each takes the parameter's path and a value that is not null --------------------------------------


def _wrong_type(param: str, expected: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {expected}, not {kind_of(value)}.", param=param, code="invalid_type")


def _anything(param: str, value: object) -> None:
    """For what is checked elsewhere."""


def _boolean(param: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _wrong_type(param, "true or false", value)


def _object(param: str, value: object) -> None:
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object", value)


def _objects(param: str, value: object) -> None:
    if not isinstance(value, list):
        raise _wrong_type(param, "an array", value)
    for index, item in enumerate(value):
        _object(f"{param}.{index}", item)


def _string(max_chars: int | None = None) -> Check:
    def check(param: str, value: object) -> None:
        if not isinstance(value, str):
            raise _wrong_type(param, "a string", value)
        if max_chars is not None and len(value) > max_chars:
            raise InvalidRequest(f"'{param}' is longer than {max_chars} characters.", param=param)

    return check


def _one_of(*choices: str) -> Check:
    def check(param: str, value: object) -> None:
        if not isinstance(value, str):
            raise _wrong_type(param, "a string", value)
        if value not in choices:
            raise InvalidRequest(f"'{param}' must be one of {', '.join(choices)}.", param=param)

    return check


def _integer(minimum: int, maximum: int) -> Check:
    def check(param: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(param, "a whole number", value)
        if not minimum <= value <= maximum:
            raise InvalidRequest(f"'{param}' must be between {minimum} and {maximum}.", param=param)

    return check


def _number(minimum: float, maximum: float) -> Check:
    def check(param: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(param, "a number", value)
        if not minimum <= value <= maximum:
            raise InvalidRequest(f"'{param}' must be between {minimum} and {maximum}.", param=param)

    return check


def _stream_options(param: str, value: object) -> None:
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object", value)
    for key in ("include_usage", "include_obfuscation"):
        if value.get(key) is not None:
            _boolean(f"{param}.{key}", value[key])


def _n(param: str, value: object) -> None:
    _integer(1, 128)(param, value)
    if value != 1:
        raise InvalidRequest(
            "Only one choice can be made ('n': 1): each would be a run of the agent with effects of its own. "
            "Send the request several times instead.",
            param=param,
            code="unsupported_value",
        )


def _stop(param: str, value: object) -> None:
    if not isinstance(value, str | list):
        raise _wrong_type(param, "a string or an array of strings", value)
    sequences = {param: value} if isinstance(value, str) else {f"{param}.{n}": item for n, item in enumerate(value)}
    if len(sequences) > MAX_STOP_SEQUENCES:
        raise InvalidRequest(f"'{param}' may hold at most {MAX_STOP_SEQUENCES} strings.", param=param)
    for path, item in sequences.items():
        _string(MAX_STOP_CHARS)(path, item)
        if item == "":
            raise InvalidRequest(f"'{path}' is empty: every answer would end before it began.", param=path)


def _logprobs(param: str, value: object) -> None:
    _boolean(param, value)
    if value:
        raise InvalidRequest(
            "An agent's answer has no log probabilities. Leave 'logprobs' out or set it to false.",
            param=param,
            code="unsupported_parameter",
        )


def _top_logprobs(param: str, value: object) -> None:
    _integer(0, 20)(param, value)
    if value:
        raise InvalidRequest(
            "An agent's answer has no log probabilities. Leave 'top_logprobs' out.",
            param=param,
            code="unsupported_parameter",
        )


def _response_format(param: str, value: object) -> None:
    response_format(value, param=param)


def _tool_choice(param: str, value: object) -> None:
    if isinstance(value, str):
        _one_of("none", "auto", "required")(param, value)
    elif not isinstance(value, dict):
        raise _wrong_type(param, "a string or an object", value)


def _function_call(param: str, value: object) -> None:
    if isinstance(value, str):
        _one_of("none", "auto")(param, value)
    elif not isinstance(value, dict):
        raise _wrong_type(param, "a string or an object", value)


def _user(param: str, value: object) -> None:
    if not isinstance(value, dict):
        _string(MAX_USER_CHARS)(param, value)


def _metadata(param: str, value: object) -> None:
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object", value)
    if len(value) > MAX_METADATA_PAIRS:
        raise InvalidRequest(f"'{param}' may hold at most {MAX_METADATA_PAIRS} pairs.", param=param)
    for key, item in value.items():
        if len(key) > MAX_METADATA_KEY_CHARS:
            raise InvalidRequest(f"Keys of '{param}' may be {MAX_METADATA_KEY_CHARS} characters long.", param=param)
        if not isinstance(item, str):
            raise InvalidRequest(
                f"Values of '{param}' must be strings; '{key}' is {kind_of(item)}.", param=param, code="invalid_type"
            )
        if len(item) > MAX_METADATA_VALUE_CHARS:
            raise InvalidRequest(f"Values of '{param}' may be {MAX_METADATA_VALUE_CHARS} characters long.", param=param)


def _modalities(param: str, value: object) -> None:
    if not isinstance(value, list):
        raise _wrong_type(param, "an array of strings", value)
    for index, item in enumerate(value):
        _string()(f"{param}.{index}", item)
        if item != "text":
            raise InvalidRequest(
                "Agents answer in text. Leave 'modalities' out or send [\"text\"].",
                param=param,
                code="unsupported_value",
            )


# --- the table, in the order of OpenAI's reference --------------------------------------------------------------


def _row(name: str, treatment: Treatment, check: Check, note: str) -> Parameter:
    return Parameter(name=name, treatment=treatment, check=check, note=note)


def _override(name: str, check: Check, note: str) -> Parameter:
    return Parameter(name=name, treatment="honour", check=check, note=note, is_override=True)


PARAMETERS: tuple[Parameter, ...] = (
    _row("model", "honour", _anything, "A model id of `GET /v1/models`; the reply repeats it."),
    _row(
        "messages",
        "honour",
        _anything,
        "At most 2,000 messages and 10 MiB of text. Ends with a user message, or with an answer to go on with.",
    ),
    _row("stream", "honour", _boolean, "The answer arrives as the agent writes it."),
    _row(
        "stream_options",
        "honour",
        _stream_options,
        "`include_usage` is honoured, `include_obfuscation` ignored; an error without `stream: true`.",
    ),
    _row("n", "refuse", _n, "Only 1: each choice would be a run of the agent with effects of its own."),
    _override(
        "max_completion_tokens",
        _integer(1, MAX_OUTPUT_TOKENS),
        "The output limit of each call of the agent's LLM, not of the whole answer.",
    ),
    _override(
        "max_tokens", _integer(1, MAX_OUTPUT_TOKENS), "The older name of `max_completion_tokens`, which wins over it."
    ),
    _override("temperature", _number(0, 2), "0 to 2, for each call of the agent's LLM."),
    _override("top_p", _number(0, 1), "0 to 1, for each call of the agent's LLM."),
    _override("reasoning_effort", _one_of(*REASONING_EFFORTS), "`none` to `max`, for each call of the agent's LLM."),
    _row("frequency_penalty", "ignore", _number(-2, 2), "−2 to 2."),
    _row("presence_penalty", "ignore", _number(-2, 2), "−2 to 2."),
    _row(
        "stop",
        "honour",
        _stop,
        "A string or at most four, of up to 500 characters: the answer ends before the first; the agent goes on.",
    ),
    _row("seed", "ignore", _integer(-(2**63), 2**63 - 1), "An agent's run cannot be repeated exactly."),
    _row("logit_bias", "ignore", _object, "The agent's LLM keeps its own."),
    _row("prediction", "ignore", _object, "Only speeds up other models."),
    _row("prompt_cache_key", "ignore", _string(), "Agent-servers cache by conversation."),
    _row("prompt_cache_retention", "ignore", _string(), "Agent-servers cache by conversation."),
    _row("prompt_cache_options", "ignore", _object, "Agent-servers cache by conversation."),
    _row("service_tier", "ignore", _string(), "The reply says `default` if it was sent."),
    _row("moderation", "ignore", _object, "Nothing is moderated here."),
    _row("verbosity", "ignore", _one_of("low", "medium", "high"), "Say in a message how long the answer should be."),
    _row("logprobs", "refuse", _logprobs, "Only `false`."),
    _row("top_logprobs", "refuse", _top_logprobs, "Only 0."),
    _row(
        "response_format",
        "honour",
        _response_format,
        "`text`, `json_object` or `json_schema`; see [structured output](#structured-output).",
    ),
    _row(
        "tools",
        "refuse",
        _objects,
        "Only an empty list, or with `tool_choice: none`: agents have tools of their own. "
        "A profile can be set to ignore the caller's tools instead. Those that Open WebUI sends of itself are ignored.",
    ),
    _row("tool_choice", "refuse", _tool_choice, "Only `none` and `auto`; treated as `tools`."),
    _row("parallel_tool_calls", "ignore", _boolean, "The agent decides how it uses its tools."),
    _row("functions", "refuse", _objects, "The older name of `tools`; treated alike."),
    _row("function_call", "refuse", _function_call, "Only `none` and `auto`; treated as `tools`."),
    _row("user", "honour", _user, "Names the end user in the record; a string up to 256 characters, or an object."),
    _row(
        "safety_identifier",
        "honour",
        _string(MAX_SAFETY_IDENTIFIER_CHARS),
        "Names the end user in the record, up to 64 characters; wins over `user`.",
    ),
    _row(
        "metadata",
        "honour",
        _metadata,
        "Kept with the turn: at most 16 pairs of strings, keys up to 64 and values up to 512 characters. "
        "`conversation_id` chooses the conversation.",
    ),
    _row("store", "honour", _boolean, "Every turn is recorded, whatever this says."),
    _row("modalities", "refuse", _modalities, "Only `text`."),
    _row("audio", "ignore", _object, "Has no effect on text."),
    _row("web_search_options", "ignore", _object, "The agent searches with its own tools, if it has any."),
)
