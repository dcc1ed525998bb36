"""`manage.py up` as a whole: a real agent-server, the demo LLM, the worker, the gateway; and nothing left of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from gateway_project.supervisor import process_tree
from gateway_project.supervisor.data_dir import locked
from gateway_project.supervisor.network import free_port
from tests.gateway_project.supervisor.tiny_programs import living
from tests.live.agent_process import agent_python
from tests.requirements import need

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 150  # on a machine with nothing else to do it is about 15
SECRETS = {
    "GATEWAY_SECRET_KEY": "django-secret-that-nobody-else-may-see-000000000000000",
    "GATEWAY_ENCRYPTION_KEYS": "encryption-secret-that-nobody-else-may-see",
    "GATEWAY_API_KEY_PEPPER": "pepper-secret-that-nobody-else-may-see",
    "OPENAI_API_KEY": "sk-provider-secret-that-nobody-else-may-see",
}


class Up:
    """A started `up` on a data directory and port of its own."""

    def __init__(self, directory: Path, python: Path) -> None:
        self.data_dir = directory / "data"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        own = {
            "HOME": str(directory),
            "GATEWAY_DATA_DIR": str(self.data_dir),
            "GATEWAY_AGENT_PYTHON": str(python),
            "GATEWAY_READ_DOTENV": "false",
        }
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(port)],
            cwd=ROOT,
            env=inherited | own | SECRETS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._has_news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> Up:
        with self._has_news:
            is_ready = self._has_news.wait_for(lambda: self.has_ended() or "Ctrl-C" in self.output(), READY_SECONDS)
        assert is_ready, self.output()
        assert not self.has_ended(), self.output()
        self.processes = {self.process.pid} | process_tree.descendants(self.process.pid)
        return self

    def output(self) -> str:
        return "".join(self.lines)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def key(self) -> str:
        [key] = re.findall(r"API key +(gw-\S+)", (self.data_dir / "first-login.txt").read_text())
        return str(key)

    def ask(self, question: str) -> str:
        with OpenAI(base_url=f"{self.url}/v1", api_key=self.key(), timeout=60, max_retries=0) as client:
            reply = client.chat.completions.create(
                model="openhands_demo", messages=[{"role": "user", "content": question}]
            )
        return reply.choices[0].message.content or ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        with locked(self.data_dir, url=""):  # waits for the guards to have ended everything
            pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                with self._has_news:
                    self.lines.append(line)
                    self._has_news.notify_all()
        self.process.wait()
        with self._has_news:
            self._has_news.notify_all()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not pytest's own: the paths of Unix sockets are limited to about a hundred characters."""
    made = Path(tempfile.mkdtemp(prefix="up-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def up(directory: Path) -> Iterator[Up]:
    python = agent_python()
    need(python is not None, "agent-server", "run `uv sync --project agent_env` or set GATEWAY_AGENT_PYTHON")
    assert python is not None
    started = Up(directory, python)
    try:
        yield started.wait_until_ready()
    finally:
        started.kill()


# Prints the environment of the shell and of whatever started it, as far as they can be read.
READ_ANCESTORS = (
    "p=$$; while [ $p -gt 1 ]; do echo at $p; tr '\\0' '\\n' < /proc/$p/environ 2>&1; "
    "p=$(sed -n 's/^PPid:.//p' /proc/$p/status); done"
)


def _environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:  # refused, or gone: either way nothing is seen
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_up_serves_an_agent_that_sees_none_of_the_gateway_s_secrets(up: Up) -> None:
    answer = up.ask("run `env`")

    assert "ended with exit code 0" in answer
    assert "OH_CONVERSATIONS_PATH=" in answer  # it is the agent-server's environment that was printed
    ancestors = up.ask(f"run `{READ_ANCESTORS}`")
    assert f"at {up.process.pid}" in ancestors  # it came as far as the process that has them all
    shown = [answer, ancestors, *map(_environment_of, up.processes)]
    assert [value for value in SECRETS.values() if any(value in text for text in shown)] == []
    assert stat.S_IMODE((up.data_dir / "first-login.txt").stat().st_mode) == 0o600
    assert up.key() in up.output()


@pytest.mark.skipif(sys.platform != "linux", reason="what an agent leaves behind is found on Linux only")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_everything_that_was_started_is_gone_within_ten_seconds(up: Up, number: signal.Signals, status: int) -> None:
    up.ask("run `nohup setsid sleep 987 > /dev/null & echo $!`")
    everything = up.processes | process_tree.descendants(up.process.pid)
    began = time.monotonic()

    up.process.send_signal(number)
    up.process.wait(15)
    with locked(up.data_dir, url=""):  # free when the last guard has ended
        took = time.monotonic() - began

    assert up.process.returncode == status, up.output()
    assert len(everything) > 10
    assert living(sorted(everything)) == []
    assert took < 10
