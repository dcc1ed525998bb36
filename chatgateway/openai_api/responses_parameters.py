"""Every parameter of `POST /v1/responses`, one row each, as `parameters.py` has those of chat completions."""

from __future__ import annotations

from chatgateway.errors import InvalidRequest
from chatgateway.openai_api import parameters as chat
from chatgateway.openai_api.parameters import Parameter
from chatgateway.openai_api.structured_output import text_format

# What replies may be asked to include (the SDK's `ResponseIncludable`); an agent's replies hold none of it.
INCLUDABLE = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
MAX_ID_CHARS = 128


def _stream_options(param: str, value: object) -> None:
    chat._object(param, value)
    assert isinstance(value, dict)
    if value.get("include_obfuscation") is not None:
        chat._boolean(f"{param}.include_obfuscation", value["include_obfuscation"])


def _conversation(param: str, value: object) -> None:
    if isinstance(value, dict):
        if value.get("id") is None:
            raise InvalidRequest(f"'{param}.id' is missing.", param=f"{param}.id", code="missing_required_parameter")
        chat._string(MAX_ID_CHARS)(f"{param}.id", value["id"])
    elif not isinstance(value, str):
        raise chat._wrong_type(param, "a string or an object with an id", value)
    else:
        chat._string(MAX_ID_CHARS)(param, value)


def _reasoning(param: str, value: object) -> None:
    chat._object(param, value)
    assert isinstance(value, dict)
    if value.get("effort") is not None:
        chat._one_of(*chat.REASONING_EFFORTS)(f"{param}.effort", value["effort"])
    for name in ("summary", "generate_summary"):
        if value.get(name) is not None:
            chat._one_of("auto", "concise", "detailed")(f"{param}.{name}", value[name])


def _text(param: str, value: object) -> None:
    chat._object(param, value)
    assert isinstance(value, dict)
    if value.get("verbosity") is not None:
        chat._one_of("low", "medium", "high")(f"{param}.verbosity", value["verbosity"])
    if value.get("format") is not None:
        text_format(value["format"], param=f"{param}.format")


def _include(param: str, value: object) -> None:
    if not isinstance(value, list):
        raise chat._wrong_type(param, "an array of strings", value)
    for index, item in enumerate(value):
        chat._one_of(*INCLUDABLE)(f"{param}.{index}", item)


def _prompt(param: str, _: object) -> None:
    raise InvalidRequest(
        "There are no stored prompts here. Send the text as 'instructions' and 'input'.",
        param=param,
        code="unsupported_parameter",
    )


def _row(name: str, treatment: chat.Treatment, check: chat.Check, note: str, *, is_override: bool = False) -> Parameter:
    return Parameter(name=name, treatment=treatment, check=check, note=note, is_override=is_override)


def _limit() -> chat.Check:
    return chat._integer(1, chat.MAX_OUTPUT_TOKENS)


PARAMETERS: tuple[Parameter, ...] = (
    _row("model", "honour", chat._anything, "A model id of `GET /v1/models`; the reply repeats it."),
    _row("input", "honour", chat._anything, "A text, or at most 2,000 items; must end with a user's message."),
    _row("instructions", "honour", chat._string(), "A system text for this response alone; the next has its own."),
    _row("stream", "honour", chat._boolean, "The response arrives as numbered events."),
    _row("stream_options", "ignore", _stream_options, "`include_obfuscation` has no effect."),
    _row("background", "honour", chat._boolean, "The reply comes at once; needs `store`."),
    _row("store", "honour", chat._boolean, "`false`: not given out afterwards. Every turn is recorded all the same."),
    _row(
        "previous_response_id",
        "honour",
        chat._string(MAX_ID_CHARS),
        "The response to go on after; not together with `conversation`.",
    ),
    _row("conversation", "honour", _conversation, "An id, or an object with one: the conversation to go on with."),
    _row(
        "max_output_tokens", "honour", _limit(), "The output limit of each call of the agent's LLM.", is_override=True
    ),
    _row("max_tool_calls", "honour", _limit(), "The agent is stopped when it calls one more; `incomplete` then."),
    _row("temperature", "honour", chat._number(0, 2), "0 to 2, for each call of the LLM.", is_override=True),
    _row("top_p", "honour", chat._number(0, 1), "0 to 1, for each call of the LLM.", is_override=True),
    _row(
        "reasoning",
        "honour",
        _reasoning,
        "`effort` for each call of the LLM; summaries come whatever `summary` says.",
        is_override=True,
    ),
    _row(
        "text",
        "honour",
        _text,
        "`format` of type `text`, `json_object` or `json_schema`, as in [structured output](#structured-output); "
        "`verbosity` has no effect.",
    ),
    _row("include", "ignore", _include, "OpenAI's values; an agent's reply holds none of it."),
    _row("truncation", "ignore", chat._one_of("auto", "disabled"), "Agents shorten their history by themselves."),
    _row(
        "tools",
        "refuse",
        chat._objects,
        "Only an empty list, or with `tool_choice: none`: agents have tools of their own. "
        "A profile can be set to ignore the caller's tools instead.",
    ),
    _row("tool_choice", "refuse", chat._tool_choice, "Only `none` and `auto`; treated as `tools`."),
    _row("parallel_tool_calls", "ignore", chat._boolean, "The agent decides how it uses its tools."),
    _row("top_logprobs", "refuse", chat._top_logprobs, "Only 0."),
    _row("prompt", "refuse", _prompt, "There are no stored prompts."),
    _row("metadata", "honour", chat._metadata, "At most 16 pairs of strings; given back with the response."),
    _row(
        "user",
        "honour",
        chat._user,
        "Names the end user in the record; a string up to 256 characters, or an object.",
    ),
    _row(
        "safety_identifier",
        "honour",
        chat._string(chat.MAX_SAFETY_IDENTIFIER_CHARS),
        "Names the end user in the record, up to 64 characters; wins over `user`.",
    ),
    _row("service_tier", "ignore", chat._string(), "The reply says `default`."),
    _row("prompt_cache_key", "ignore", chat._string(), "Agent-servers cache by conversation."),
    _row("prompt_cache_retention", "ignore", chat._string(), "Agent-servers cache by conversation."),
    _row("prompt_cache_options", "ignore", chat._object, "Agent-servers cache by conversation."),
    _row("context_management", "ignore", chat._anything, "Agents shorten their history by themselves."),
    _row("moderation", "ignore", chat._object, "Nothing is moderated here."),
    _row("background_options", "ignore", chat._object, "Every response in the background is kept alike."),
    _row("image", "ignore", chat._anything, "Agents answer in text."),
    _row("access_programs", "ignore", chat._anything, "There are none."),
)
