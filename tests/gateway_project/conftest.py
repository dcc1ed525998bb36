from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings


@pytest.fixture
def data_dir(settings: Settings, tmp_path: Path) -> Path:
    """A data directory of the test's own, with nobody at the llm process's socket, and no LLM configured."""
    settings.DATA_DIR = tmp_path
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "run" / "llm.sock")
    settings.GATEWAY_BOOTSTRAP_API_KEY_NAME = settings.GATEWAY_BOOTSTRAP_API_KEY = ""
    settings.LLM_MODEL = settings.LLM_API_KEY = settings.LLM_BASE_URL = ""
    return tmp_path


class ScriptedLlmProcess:
    """Stands where the llm process listens, answers each method as told, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, dict[str, Any]] = {
            "describe_model": {"result": {"provider": "openai", "is_known": False}},
        }
        self.asked: list[dict[str, Any]] = []
        path.parent.mkdir(mode=0o700, exist_ok=True)
        scripted = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                request = json.loads(self.rfile.readline())
                scripted.asked.append(request)
                self.wfile.write(json.dumps(scripted.answers[request["method"]]).encode() + b"\n")

        self.server = socketserver.UnixStreamServer(str(path), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def llm_answers(data_dir: Path) -> Iterator[ScriptedLlmProcess]:
    scripted = ScriptedLlmProcess(data_dir / "run" / "llm.sock")
    yield scripted
    scripted.close()
