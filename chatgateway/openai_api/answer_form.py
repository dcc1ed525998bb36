"""What a request says of the form of its answer: where it ends, and whether it is JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatgateway.openai_api.structured_output import OutputFormat, response_format, text_format


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """`stop`: the answer ends before the first of these. `output`: the JSON it is to be; None for free text."""

    stop: tuple[str, ...] = ()
    output: OutputFormat | None = None


def form_in(body: Mapping[str, Any]) -> AnswerForm:
    """The form that a checked request asks for, by the parameters of whichever endpoint it came to."""
    stop = body.get("stop") or ()
    text = body.get("text")
    return AnswerForm(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        output=response_format(body.get("response_format"))
        or (text_format(text.get("format")) if isinstance(text, dict) else None),
    )


def takes_long(body: object) -> bool:
    """Whether a body is better read in a thread: a schema is checked, and a large library imported for it."""
    return isinstance(body, dict) and isinstance(body.get("response_format") or body.get("text"), dict)
