"""The `llm` object of `POST /api/profiles/{name}`, as OpenHands' SDK writes it, to and from a profile's columns.

Nothing is dropped in silence. A field is stored; or it is accepted with its default value only, because the gateway
has no such thing yet; or it has no effect behind a gateway, which is answered with a warning; or it is refused.
The names and defaults are those of `LLM(...).model_dump()` of openhands-sdk 1.58.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Field

from profiles.exceptions import InvalidProfile
from profiles.http_urls import validate_http_url
from profiles.models import Profile

# What the SDK prints for a secret; sent back, it means "as it was".
SDK_MASK = "**********"
_MAXIMUM_KEY_CHARS = 10_000
_MAXIMUM_INTEGER = 2_147_483_647  # a PositiveIntegerField on PostgreSQL

# Accepted as they are by default and nothing else: they would change what the LLM does, and there is no column.
_ONLY_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "api_mode": ("auto",),
    "api_version": (),
    "auth_type": ("api_key",),
    "aws_access_key_id": (),
    "aws_bedrock_runtime_endpoint": (),
    "aws_profile_name": (),
    "aws_region_name": (),
    "aws_role_name": (),
    "aws_secret_access_key": (),
    "aws_session_name": (),
    "aws_session_token": (),
    "caching_prompt": (True,),
    "capability_overrides": ({},),
    "custom_tokenizer": (),
    "disable_stop_word": (False,),
    "drop_params": (True,),
    "enable_encrypted_reasoning": (True,),
    "extended_thinking_budget": (200_000,),
    "extra_headers": ({},),
    "fallback_strategy": (),
    "force_string_serializer": (),
    "inline_image_urls": (),
    "is_subscription": (False,),
    "litellm_extra_body": ({},),
    "max_input_tokens": (),
    "model_canonical_name": (),
    "native_tool_calling": (True,),
    "ollama_base_url": (),
    "prompt_cache_retention": ("24h",),
    "provider_connection_id": (),
    "reasoning_summary": (),
    "seed": (),
    "subscription_vendor": (),
    "top_k": (),
}
# Other values than these are accepted and reported: the gateway streams always, retries by its own rule, keeps its
# own record, and names usage itself.
_WITHOUT_EFFECT: dict[str, Any] = {
    "log_completions": False,
    "log_completions_folder": "logs/completions",
    "max_message_chars": 30_000,
    "openrouter_app_name": "OpenHands",
    "openrouter_site_url": "https://docs.all-hands.dev/",
    "retry_max_wait": 64,
    "retry_min_wait": 8,
    "retry_multiplier": 8.0,
    "stream": None,  # either way
    "usage_id": "default",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeLlm:
    """What an `llm` object asks for. `columns` holds every LLM column it can set, defaults included.

    `api_key`: None when none was sent, "" to store none. `sets_price` tells whether a price was sent.
    """

    columns: dict[str, Any]
    sets_price: bool
    api_key: str | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


def parse(body: object) -> NativeLlm:
    """Read an `llm` object. Raises InvalidProfile with the path of the field that is wrong, such as `llm.top_p`."""
    if not isinstance(body, dict):
        raise InvalidProfile("'llm' must be an object with at least a 'model'.", param="llm")
    if body.get("model") in (None, ""):
        raise InvalidProfile(
            "'llm.model' is missing: name a model, such as anthropic/claude-sonnet-4-5.", param="llm.model"
        )
    known = {*_STORED, *_ONLY_DEFAULTS, *_WITHOUT_EFFECT, "api_key"}
    for name, value in body.items():
        if name not in known:
            raise InvalidProfile(f"'llm.{shown(name)}' is not a field of an LLM.", param=f"llm.{shown(name)}")
        if name in _ONLY_DEFAULTS and value is not None and not _is_one_of(value, _ONLY_DEFAULTS[name]):
            raise InvalidProfile(f"The gateway cannot set 'llm.{name}'. Leave it out.", param=f"llm.{name}")
    columns = {}
    for name, stored in _STORED.items():
        value = body.get(name)
        columns[stored.column] = stored.default() if value is None else stored.read(value, f"llm.{name}")
    return NativeLlm(
        columns=columns,
        sets_price=any(body.get(name) is not None for name in ("input_cost_per_token", "output_cost_per_token")),
        api_key=_read_key(body.get("api_key")),
        warnings=tuple(
            f"'llm.{name}' has no effect here."
            for name, default in _WITHOUT_EFFECT.items()
            if default is not None and body.get(name) is not None and body[name] != default
        ),
    )


def to_json(profile: Profile) -> dict[str, Any]:
    """Return a profile's `llm` object, without its key. Posted again it leaves the profile as it is."""
    return {
        "model": profile.llm_model,
        "api_key": None,
        "base_url": profile.llm_base_url or None,
        "temperature": profile.temperature,
        "top_p": profile.top_p,
        "max_output_tokens": profile.max_output_tokens,
        "reasoning_effort": profile.reasoning_effort or None,
        "timeout": profile.llm_timeout_seconds,
        "stream_idle_timeout": profile.llm_idle_timeout_seconds,
        "num_retries": profile.llm_retries,
        "disable_vision": None if profile.accepts_images is None else not profile.accepts_images,
        "input_cost_per_token": _per_token(profile.input_price),
        "output_cost_per_token": _per_token(profile.output_price),
    }


def without_key(asked: NativeLlm) -> NativeLlm:
    """The same, with the wish that no key be stored."""
    return replace(asked, api_key="")


def shown(name: object) -> str:
    """A field's name as a caller sent it, fit to be quoted in a reply."""
    return "".join(character for character in str(name)[:60] if character.isprintable())


# --- one reader per kind of value ---------------------------------------------------------------------------------

Reader = Callable[[Any, str], Any]


def _text(*, maximum: int) -> Reader:
    def read(value: Any, param: str) -> str:
        if not isinstance(value, str) or len(value) > maximum or not value.isprintable():
            raise InvalidProfile(f"'{param}' must be a line of at most {maximum} characters.", param=param)
        return value.strip()

    return read


def _url(value: Any, param: str) -> str:
    text: str = _text(maximum=500)(value, param)
    try:
        if text:
            validate_http_url(text)
    except ValidationError as error:
        raise InvalidProfile(f"'{param}': {error.message}", param=param) from None
    return text


def _number(*, minimum: float, maximum: float) -> Reader:
    def read(value: Any, param: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            raise InvalidProfile(f"'{param}' must be a number from {minimum} to {maximum}.", param=param)
        return float(value)

    return read


def _integer(*, minimum: int, maximum: int) -> Reader:
    def read(value: Any, param: str) -> int:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not is_whole or not minimum <= value <= maximum:
            raise InvalidProfile(f"'{param}' must be a whole number from {minimum} to {maximum}.", param=param)
        return int(value)

    return read


def _effort(value: Any, param: str) -> str:
    if value not in Profile.ReasoningEffort.values:
        raise InvalidProfile(f"'{param}' must be one of {', '.join(Profile.ReasoningEffort.values)}.", param=param)
    return str(value)


def _images(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidProfile(f"'{param}' must be true or false.", param=param)
    return not value


def _price(value: Any, param: str) -> Decimal:
    """USD per token to USD per million, as the column has it."""
    per_token: float = _number(minimum=0, maximum=0.9)(value, param)
    return (Decimal(repr(per_token)) * 1_000_000).quantize(Decimal("0.000001"))


def _read_key(value: Any) -> str | None:
    if value is None or value == SDK_MASK:
        return None
    if not isinstance(value, str) or len(value) > _MAXIMUM_KEY_CHARS or not value.isprintable():
        raise InvalidProfile("'llm.api_key' must be a text without line breaks.", param="llm.api_key")
    return value.strip()


def _per_token(price: Decimal | None) -> float | None:
    return None if price is None else float(price / 1_000_000)


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """The column a field is kept in, and how its value is read. Null and absent mean the column's default."""

    column: str
    read: Reader

    def default(self) -> Any:
        column = Profile._meta.get_field(self.column)
        assert isinstance(column, Field)
        return column.get_default()


_STORED = {
    "model": _Stored(column="llm_model", read=_text(maximum=200)),
    "base_url": _Stored(column="llm_base_url", read=_url),
    "temperature": _Stored(column="temperature", read=_number(minimum=0, maximum=2)),
    "top_p": _Stored(column="top_p", read=_number(minimum=0, maximum=1)),
    "max_output_tokens": _Stored(column="max_output_tokens", read=_integer(minimum=1, maximum=_MAXIMUM_INTEGER)),
    "reasoning_effort": _Stored(column="reasoning_effort", read=_effort),
    "timeout": _Stored(column="llm_timeout_seconds", read=_integer(minimum=1, maximum=86_400)),
    "stream_idle_timeout": _Stored(column="llm_idle_timeout_seconds", read=_integer(minimum=1, maximum=86_400)),
    "num_retries": _Stored(column="llm_retries", read=_integer(minimum=0, maximum=10)),
    "disable_vision": _Stored(column="accepts_images", read=_images),
    "input_cost_per_token": _Stored(column="input_price", read=_price),
    "output_cost_per_token": _Stored(column="output_price", read=_price),
}
