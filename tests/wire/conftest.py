from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.gateway_process import LiveGateway


@pytest.fixture
def http(served: LiveGateway) -> Iterator[httpx.Client]:
    """Plain HTTP with a good key."""
    headers = {"Authorization": f"Bearer {served.key}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=100) as session:
        yield session


@pytest.fixture
def anonymous(served: LiveGateway) -> Iterator[httpx.Client]:
    """Plain HTTP without a key."""
    with httpx.Client(base_url=served.url, timeout=100) as session:
        yield session


def question(**more: object) -> dict[str, object]:
    return {"model": "openhands_chat", "messages": [{"role": "user", "content": "Hi"}]} | more
