from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.profiles.llm_process import LlmProcess


@pytest.fixture(autouse=True)
def _no_llm_process(settings: Settings, tmp_path: Path) -> None:
    """Nobody talks to an llm process that happens to run on this machine."""
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "nobody" / "llm.sock")


@pytest.fixture(scope="session")
def started_llm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmProcess]:
    """One for all tests: it takes about 5 s of CPU to start."""
    running = LlmProcess(tmp_path_factory.mktemp("llm")).start().wait_until_ready()
    yield running
    assert running.stop() == 0, running.stderr()
    assert not running.socket.exists()


@pytest.fixture
def llm_process(started_llm_process: LlmProcess, settings: Settings) -> LlmProcess:
    """A running llm process that this test's `llm_client` asks."""
    settings.GATEWAY_LLM_SOCKET = str(started_llm_process.socket)
    return started_llm_process
