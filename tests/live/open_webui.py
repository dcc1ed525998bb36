"""Open WebUI as a child process, from an environment of its own, and the requests it was recorded to make."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from gateway_project.supervisor.network import free_port
from tests.live.recording_proxy import Exchange
from tests.requirements import need

VERSION = "0.12.4"
ENVIRONMENT = Path(__file__).parents[1] / "open_webui_env"
RECORDING = Path(__file__).parents[1] / "recordings" / "clients" / f"open_webui_{VERSION.replace('.', '_')}.json"
# It runs the migrations of its database, and imports a hundred packages.
START_SECONDS = 300


@contextlib.contextmanager
def open_webui(directory: Path, *, base_url: str, key: str) -> Iterator[str]:
    """Its address, once it answers. It has one connection, asks nobody to sign in, and reaches no other host."""
    program = ENVIRONMENT / ".venv/bin/open-webui"
    need(program.exists(), "open-webui", "run `uv sync --locked --project tests/open_webui_env`, 1.3 GB")
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "DATA_DIR": str(directory / "data"),
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "of-a-test",
        "ENABLE_PERSISTENT_CONFIG": "false",
        "OPENAI_API_BASE_URL": base_url,
        "OPENAI_API_KEY": key,
        "DEFAULT_MODELS": "openhands_chat",
        "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
        "ENABLE_OLLAMA_API": "false",
        "RAG_EMBEDDING_ENGINE": "openai",
        "AUDIO_STT_ENGINE": "openai",
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "ENABLE_VERSION_UPDATE_CHECK": "false",
        "ANONYMIZED_TELEMETRY": "false",
    }
    (directory / "data").mkdir()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=environment, cwd=directory, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, directory / "log")
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(log.read_text()[-3000:])


def write_recording(exchanges: list[Exchange]) -> None:
    """Keep the requests of a chat. The list of tools, the same in each and long, is kept once."""
    tools: list[Any] = []
    requests = []
    for exchange in exchanges:
        body = dict(exchange.body) if exchange.body else None
        if body and body.get("tools"):
            tools, body["tools"] = body["tools"], "as above"
        requests.append(
            {
                "method": exchange.method,
                "path": exchange.path,
                "headers": exchange.headers,
                "body": body,
                "was_left": exchange.was_left and exchange.is_streamed,
            }
        )
    RECORDING.parent.mkdir(parents=True, exist_ok=True)
    told = {"client": f"Open WebUI {VERSION}", "tools": tools, "requests": requests}
    RECORDING.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
