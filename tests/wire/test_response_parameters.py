"""Parameters of `POST /v1/responses` that an agent has no use for."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests import factories
from tests.wire.test_responses import RESPONSES, ask


@pytest.mark.parametrize(
    ("body", "ignored"),
    [
        ({"tools": []}, ""),
        ({"tool_choice": "auto"}, ""),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, "text.verbosity"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"truncation": "disabled"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"prompt_cache_key": "k"}, "prompt_cache_key"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"context_management": []}, "context_management"),
        ({"temperature": 1}, "temperature"),  # the profile keeps its own
        ({"temprature": 1, "seed": 1}, "temprature, seed"),
    ],
)
def test_what_has_no_effect_is_named_or_refused_as_the_key_says(
    http: httpx.Client, body: dict[str, Any], ignored: str
) -> None:
    strict = {"Authorization": f"Bearer {factories.api_key(name='strict', refuses_ignored=True).text}"}

    taken = http.post(RESPONSES, json=ask() | body)
    by_a_strict_key = http.post(RESPONSES, json=ask() | body, headers=strict)

    assert (taken.status_code, taken.headers.get("X-Gateway-Ignored", "")) == (200, ignored)
    assert by_a_strict_key.status_code == (400 if ignored else 200)
    assert ((by_a_strict_key.json()["error"] or {"param": ""})["param"]) == ignored.split(",", maxsplit=1)[0]
