"""What a test needs of its machine. Missing things skip the test on a laptop and fail it where all must be there."""

from __future__ import annotations

import os

import pytest

# Comma-separated: postgres, redis, rabbitmq, chromium, agent-server, node, clients, open-webui (not in CI). CI sets it,
# so that nothing is skipped there unseen.
REQUIRED = frozenset(filter(None, os.environ.get("GATEWAY_TEST_REQUIRE", "").split(",")))


def need(is_there: bool, what: str, hint: str) -> None:
    """Skip the test unless `is_there`; fail it instead if this run was told that `what` must be there."""
    if is_there:
        return
    message = f"{what} is not available: {hint}"
    if what in REQUIRED:
        pytest.fail(message)
    pytest.skip(message)
