"""The real agent-server as a child process, from its own environment."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gateway_project.supervisor.network import free_port
from tests.requirements import need

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120


def agent_python() -> Path | None:
    """The interpreter of the agent-server's own environment, if it was built."""
    named = os.environ.get("GATEWAY_AGENT_PYTHON")
    candidates = [Path(named)] if named else [ROOT / "data/agent-env/bin/python", ROOT / "agent_env/.venv/bin/python"]
    return next((path for path in candidates if path.exists()), None)


class AgentServerProcess:
    """Started on a port and a directory of its own, which it keeps when it is killed and started again."""

    def __init__(self, directory: Path) -> None:
        python = agent_python()
        need(python is not None, "agent-server", "run `uv sync --project agent_env` or set GATEWAY_AGENT_PYTHON")
        self.directory = directory
        self.session_api_key = secrets.token_hex(16)
        self._python = python
        self._port = free_port()
        self._secret_key = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "home").mkdir()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Return when it is ready."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory / "home"),
            "OH_CONVERSATIONS_PATH": str(self.directory / "conversations"),
            "OH_WORKSPACE_PATH": str(self.directory / "workspaces"),
            "OH_BASH_EVENTS_DIR": str(self.directory / "bash"),
            "OH_SECRET_KEY": self._secret_key,
            "OH_SESSION_API_KEYS_0": self.session_api_key,
            "OH_ENABLE_VSCODE": "0",
            "OH_PRELOAD_TOOLS": "0",
            "OH_WEBHOOKS": "[]",
            "OH_MAX_CONCURRENT_RUNS": "10",
            "LOG_JSON": "1",
            "LOG_LEVEL": "WARNING",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._python), "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(self._port)],
                env=environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_ready(self._process)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal to it and to all that it started; `SIGKILL` is what a crash looks like."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError((self.directory / "log").read_text()[-3000:])


@contextlib.contextmanager
def agent_server_process(directory: Path) -> Iterator[AgentServerProcess]:
    """A running one; nothing of it is left afterwards."""
    process = AgentServerProcess(directory)
    try:
        process.start()
        yield process
    finally:
        process.end()
        shutil.rmtree(directory, ignore_errors=True)
