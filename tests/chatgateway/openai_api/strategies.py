"""Generated JSON, requests and events, shared by the tests of this package."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from chatgateway.openai_api.chat_request import PARAMETERS
from chatgateway.turn_events import AnswerShown, ReasoningShown, StepShown

# Quick enough for every run; a Hypothesis profile that asks for more gets more.
examples = settings(max_examples=max(500, settings().max_examples), deadline=None)

# Surrogates and NUL included: JSON escapes can carry them.
any_text = st.text(st.characters(), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | any_text
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)

_part_types = st.sampled_from(["text", "image_url", "input_image", "input_audio", "file", "refusal", "nonsense"])
_parts = st.fixed_dictionaries(
    {},
    optional={
        "type": _part_types | json_values,
        "text": any_text | json_values,
        "refusal": any_text,
        "image_url": json_values
        | st.fixed_dictionaries(
            {"url": st.just("data:image/png;base64,AAAA") | any_text}, optional={"detail": json_values}
        ),
    },
)
_messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | json_values,
        "content": any_text | st.lists(_parts | json_values, max_size=4) | json_values,
        "tool_calls": json_values | st.lists(st.fixed_dictionaries({"function": json_values}), max_size=2),
        "tool_call_id": json_values,
        "name": json_values,
        "refusal": json_values,
        "function_call": json_values,
    },
)
message_lists = st.lists(_messages | json_values, max_size=6) | json_values

# A value that most parameters take beside values that none does.
_good_values: dict[str, st.SearchStrategy[Any]] = {
    "stream": st.booleans(),
    "temperature": st.floats(0, 2),
    "max_tokens": st.integers(1, 100),
    "stop": any_text,
    "user": any_text | st.dictionaries(any_text, scalars, max_size=3),
    "metadata": st.dictionaries(any_text, any_text, max_size=3),
    "tools": st.just([]),
    "n": st.just(1),
    "logit_bias": st.dictionaries(any_text, scalars, max_size=3),
    "chat_id": json_values,
}
_parameter_names = st.sampled_from([parameter.name for parameter in PARAMETERS]) | any_text
_good_bodies = st.fixed_dictionaries({"model": st.just("openhands_default")}, optional=_good_values)
_odd_values = st.dictionaries(_parameter_names, json_values, max_size=2)
_good_conversations = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.text(max_size=10) | any_text}
    ),
    max_size=3,
).map(lambda earlier: [*earlier, {"role": "user", "content": "Hello"}])


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Bodies near enough to requests that many get past every check."""
    body = draw(_good_bodies) | {"messages": draw(_good_conversations | message_lists)}
    return body | draw(st.just({}) | _odd_values)


clean_text = st.text(max_size=40)
progress_events = st.lists(
    st.builds(AnswerShown, text=any_text)
    | st.builds(ReasoningShown, text=any_text)
    | st.builds(StepShown, line=st.text(st.characters(exclude_characters="\n"), max_size=20)),
    max_size=12,
)


@st.composite
def batches(draw: st.DrawFn) -> list[list[Any]]:
    """Progress events in the order they came, cut into batches anywhere."""
    return [draw(progress_events) for _ in range(draw(st.integers(0, 4)))]
