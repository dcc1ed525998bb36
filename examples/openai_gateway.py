"""Drive the gateway with nothing but the OpenAI SDK and plain HTTP.

    GATEWAY_URL=http://127.0.0.1:8000 GATEWAY_API_KEY=gw-… LLM_MODEL=… LLM_API_KEY=… python examples/openai_gateway.py

The key needs both scopes, chat and manage. The script creates a profile, asks the agent behind it, asks again in the
same conversation, looks the conversation up, adds up what it cost, and removes what it made.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from openai import OpenAI

GATEWAY_URL = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000").rstrip("/")
API_KEY = os.environ["GATEWAY_API_KEY"]
PROFILE = "example"


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the gateway's own API."""
    request = urllib.request.Request(
        GATEWAY_URL + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Session-API-Key": API_KEY, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def main() -> None:
    llm: dict[str, Any] = {"model": os.environ["LLM_MODEL"], "api_key": os.environ["LLM_API_KEY"]}
    if os.environ.get("LLM_BASE_URL"):
        llm["base_url"] = os.environ["LLM_BASE_URL"]
    print(call("POST", f"/api/profiles/{PROFILE}", {"llm": llm, "include_secrets": True})["message"])

    client = OpenAI(base_url=f"{GATEWAY_URL}/v1", api_key=API_KEY)
    print("Models:", ", ".join(model.id for model in client.models.list()))

    first = client.chat.completions.with_raw_response.create(
        model=f"openhands_{PROFILE}", messages=[{"role": "user", "content": "Say hello in one sentence."}]
    )
    conversation_id = first.headers["X-OpenHands-ServerConversation-ID"]
    print("Agent:", first.parse().choices[0].message.content)

    # The header continues the same agent: only the new message is sent to it.
    second = client.chat.completions.create(
        model=f"openhands_{PROFILE}",
        messages=[{"role": "user", "content": "What did I ask you before?"}],
        extra_headers={"X-OpenHands-ServerConversation-ID": conversation_id},
    )
    print("Agent:", second.choices[0].message.content)

    conversation = call("GET", f"/api/conversations/{conversation_id}")
    metrics = conversation["stats"]["usage_to_metrics"].values()
    cost = sum(metric.get("accumulated_cost") or 0 for metric in metrics)
    print(f"Conversation {conversation_id}: {conversation['execution_status']}, cost ${cost:.4f}")

    print(call("DELETE", f"/api/conversations/{conversation_id}")["message"])
    print(call("DELETE", f"/api/profiles/{PROFILE}")["message"])


if __name__ == "__main__":
    main()
