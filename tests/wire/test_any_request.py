"""No request, however malformed, gets a 500, a page of HTML or a stack trace.

500 generated requests by default; `HYPOTHESIS_PROFILE=full` makes it 10,000.
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "full" else 500

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
parts = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url", "file", "input_audio", "nope"]), "text": json_values}
    ),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": json_values}),
    json_values,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", "wizard"]) | json_values},
    optional={
        "content": st.text(max_size=40) | st.lists(parts, max_size=3) | json_values,
        "tool_calls": json_values,
        "name": json_values,
    },
)
names = st.sampled_from(
    [
        "n",
        "stop",
        "tools",
        "user",
        "seed",
        "temperature",
        "top_p",
        "max_tokens",
        "metadata",
        "response_format",
        "logprobs",
        "stream_options",
        "functions",
        "tool_choice",
        "reasoning_effort",
        "modalities",
        "store",
        "service_tier",
        "prediction",
    ]
)
bodies = st.one_of(
    json_values,
    st.builds(
        lambda base, more: more | base,
        st.fixed_dictionaries(
            {
                "model": st.sampled_from(["openhands_chat", "openhands_nope", "x"]) | json_values,
                "messages": st.lists(messages, max_size=4) | json_values,
            },
            optional={"stream": st.booleans() | json_values},
        ),
        st.dictionaries(names, json_values, max_size=3),
    ),
)
paths = st.sampled_from(
    [
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/models",
        "/v1/models/%00",
        "/v1/models/openhands_%F0%9F%8C%95",
        "/v1/models/%ff",
        "/v1/nope",
        "/v1//",
        "/api/profiles",
        "/api/profiles/x%2fy",
        "/api/profiles/%00",
        "/api/conversations/x",
        "/api/conversations/00000000-0000-0000-0000-000000000000",
        "/api/",
    ]
)
raw = st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode())
media_types = st.sampled_from(["application/json", "application/json", "application/json", "text/plain", "x", ""])
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip)


@pytest.fixture
def anything(served: LiveGateway, agent_server: FakeAgentServer) -> httpx.Client:
    headers = {"Authorization": f"Bearer {served.key}"}
    return httpx.Client(base_url=served.url, headers=headers, timeout=100)


@pytest.mark.timeout(3600)  # of the 10,000; the 500 take half a minute
def test_every_reply_is_json_or_a_stream_and_never_a_500(anything: httpx.Client) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        method=st.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "PUT", "PATCH", "HEAD"]),
        path=paths,
        body=raw,
        media_type=media_types,
        conversation=st.none() | header_values,
        retry_count=st.none() | header_values,
    )
    def check(
        method: str, path: str, body: bytes, media_type: str, conversation: str | None, retry_count: str | None
    ) -> None:
        given_headers: dict[str, Any] = {
            "Content-Type": media_type,
            "X-OpenHands-ServerConversation-ID": conversation,
            "X-Stainless-Retry-Count": retry_count,
        }
        headers = {name: value for name, value in given_headers.items() if value is not None}
        reply = anything.request(method, path, content=body, headers=headers)
        assert reply.status_code != 500, (method, path, body, reply.text)
        assert reply.headers["content-type"].startswith(("application/json", "text/event-stream")), reply.headers
        assert reply.headers["x-request-id"]
        assert "Traceback" not in reply.text

    check()
    anything.close()


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x"}] * 2_001},
        {"messages": [{"role": "user", "content": "x" * 11_000_000}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": "x"}], "user": {"a": [[[[[[[[[[[]]]]]]]]]]]}},
        {"messages": [{"role": "user", "content": "x"}], "seed": 10**30},
    ],
    ids=["2001 messages", "11 MB of text", "lone surrogate", "nested user", "huge number"],
)
def test_extremes_are_refused_or_served_and_nothing_else(anything: httpx.Client, body: dict[str, Any]) -> None:
    reply = anything.post(
        "/v1/chat/completions",
        content=json.dumps({"model": "openhands_chat"} | body),
        headers={"Content-Type": "application/json"},
    )

    assert reply.status_code in {200, 400, 413}
    assert reply.headers["content-type"] == "application/json"
    anything.close()
