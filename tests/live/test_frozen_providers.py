"""Replies in the shapes of real providers, served over HTTP, through LiteLLM, the agent and the gateway.

The gateway's reply equals a golden file, ids and times masked. `GATEWAY_WRITE_GOLDEN=1` writes them anew; look at
the difference before committing it.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import factories
from tests.gateway_process import LiveGateway
from tests.live.agent_process import AgentServerProcess
from tests.live.conftest import register
from tests.live.frozen_provider import FrozenProvider

pytestmark = pytest.mark.live

GOLDEN = Path(__file__).parent / "golden"
SCENARIOS = [
    "openai/frozen-plain",
    "openai/frozen-tool",
    "openai/frozen-rate-limited",
    "anthropic/claude-frozen-plain",
    "anthropic/claude-frozen-tool",
    "anthropic/claude-frozen-overloaded",
]


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "collected"])
@pytest.mark.parametrize("provider_streams", [True, False], ids=["provider-streams", "provider-does-not"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_providers_reply_comes_out_as_the_golden_file_has_it(
    gateway: LiveGateway,
    real_agent_server: AgentServerProcess,
    provider: FrozenProvider,
    scenario: str,
    provider_streams: bool,
    is_streamed: bool,
) -> None:
    register(real_agent_server)
    factories.profile(
        slug="frozen",
        llm_model=scenario,
        llm_api_key=provider.key,
        llm_base_url=provider.openai_url if scenario.startswith("openai/") else provider.url,
        llm_streams=provider_streams,
        tools=["terminal"] if scenario.endswith("-tool") else [],
    )
    gateway.key = factories.api_key().text

    reply = masked(post(gateway, is_streamed=is_streamed))

    # One file for both: whether the provider streams must not show in what the caller reads.
    name = f"{scenario.replace('/', '-')}-{'streamed' if is_streamed else 'collected'}"
    assert reply == golden(name, reply)


def post(gateway: LiveGateway, *, is_streamed: bool) -> str:
    body = {
        "model": "openhands_frozen",
        "messages": [{"role": "user", "content": "How many files are here?"}],
        "stream": is_streamed,
    }
    if is_streamed:
        body["stream_options"] = {"include_usage": True}
    request = urllib.request.Request(
        f"{gateway.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {gateway.key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return f"{response.status}\n{response.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code}\n{error.read().decode()}"


def masked(reply: str) -> str:
    """Without ids, times, keep-alives, and with the pieces of a stream's text joined: providers' chunks are timing."""
    reply = re.sub(r"chatcmpl-[0-9a-f]+", "chatcmpl-ID", reply)
    reply = re.sub(r'"created":\d+', '"created":0', reply)
    reply = reply.replace(": ping\n\n", "")
    lines = [line for line in reply.split("\n") if line]
    joined: list[str] = []
    for line in lines:
        text, before = _text_of(line), _text_of(joined[-1]) if joined else None
        if text is not None and before is not None and text[0] == before[0]:
            joined[-1] = _with_text(joined[-1], before[0], before[1] + text[1])
            continue
        joined.append(line)
    return "\n".join(joined) + "\n"


def _text_of(line: str) -> tuple[str, str] | None:
    delta = _delta(line)
    return next(((name, delta[name]) for name in ("content", "reasoning_content") if delta.get(name)), None)


def _delta(line: str) -> dict[str, Any]:
    if not line.startswith("data: {"):
        return {}
    choices = json.loads(line.removeprefix("data: ")).get("choices") or [{}]
    delta: dict[str, Any] = choices[0].get("delta", {})
    return delta


def _with_text(line: str, name: str, text: str) -> str:
    chunk = json.loads(line.removeprefix("data: "))
    chunk["choices"][0]["delta"][name] = text
    return "data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False)


def golden(name: str, reply: str) -> str:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GATEWAY_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(reply)
    return path.read_text()
