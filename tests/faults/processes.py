"""Gateways and Celery workers as processes of their own, to be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from django.conf import settings
from django.db import connection

from gateway_project.supervisor.network import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
# What PostgreSQL lists the connections of these processes under; the test's own have another name.
DATABASE_CLIENT = "gateway-under-test"


def environment(data_dir: Path) -> dict[str, str]:
    """What a gateway needs to serve the rows that the test makes: its database and its secrets, and nothing else."""
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return inherited | {
        "HOME": str(data_dir),
        "PGAPPNAME": DATABASE_CLIENT,
        "GATEWAY_READ_DOTENV": "false",
        "GATEWAY_DATA_DIR": str(data_dir),
        "GATEWAY_DATABASE_URL": database_url(),
        "GATEWAY_SECRET_KEY": settings.SECRET_KEY,
        "GATEWAY_ENCRYPTION_KEYS": ",".join(settings.GATEWAY_ENCRYPTION_KEYS),
        "GATEWAY_API_KEY_PEPPER": settings.GATEWAY_API_KEY_PEPPER,
        "GATEWAY_LOG_FORMAT": "text",
        "GATEWAY_SHUTDOWN_GRACE_SECONDS": "4",
    }


def database_url() -> str:
    """The test's own database, as the processes are told of it."""
    known = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{known['NAME']}"
    user, password = known["USER"], known["PASSWORD"]
    return f"postgres://{user}{f':{password}' if password else ''}@{known['HOST']}:{known['PORT']}/{known['NAME']}"


class OwnProcess:
    """A program in a session of its own. `kill` and `end` are harmless when it has ended."""

    def __init__(self, *arguments: str, env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """As by `kill -9`: nothing of it gets a chance to clean up."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def end(self, *, within_seconds: float = 60.0) -> int:
        """Ask it to end and return its status; an error if it takes longer."""
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
        return self.process.wait(within_seconds)

    def output(self) -> str:
        return self._log.read_text(errors="replace")


class GatewayProcess(OwnProcess):
    """`manage.py serve` on a loopback port."""

    def __init__(self, *, data_dir: Path, port: int | None = None, **variables: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            *("manage.py", "serve", "--port", str(self.port)),
            env=environment(data_dir) | variables,
            log=data_dir / f"gateway-{self.port}.log",
        )

    def wait_until_ready(self) -> GatewayProcess:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise RuntimeError(f"the gateway did not start: {self.output()[-3000:]}")


class WorkerProcess(OwnProcess):
    """A Celery worker, with beat as `up` starts it or without; `name` tells several apart."""

    def __init__(self, *, data_dir: Path, name: str = "worker", has_beat: bool = True, **variables: str) -> None:
        self._ready = data_dir / f"{name}-ready"
        self._ready.unlink(missing_ok=True)
        self._env = environment(data_dir) | {"GATEWAY_WORKER_READY_FILE": str(self._ready)} | variables
        beat = ("--beat", "--schedule", str(data_dir / "beat")) if has_beat else ()
        super().__init__(
            *("-m", "celery", "-A", "gateway_project.celery", "--quiet", "worker", "--hostname", f"{name}@%h"),
            *("--pool", "threads", "--concurrency", "2", "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", *beat),
            env=self._env,
            log=data_dir / f"{name}.log",
        )

    def run(self, task: str) -> None:
        """Have the worker run a task now, that beat would have it run in a while."""
        command = [sys.executable, "-m", "celery", "-A", "gateway_project.celery", "call", task]
        subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, check=True, timeout=100)

    def wait_until_ready(self) -> WorkerProcess:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._ready.exists():
                return self
            time.sleep(0.05)
        raise RuntimeError(f"the worker did not start: {self.output()[-3000:]}")


class BeatProcess(OwnProcess):
    """Celery's beat alone, for workers without."""

    def __init__(self, *, data_dir: Path, **variables: str) -> None:
        super().__init__(
            *("-m", "celery", "-A", "gateway_project.celery", "--quiet", "beat", "--loglevel", "WARNING"),
            *("--schedule", str(data_dir / "beat"), "--pidfile", ""),
            env=environment(data_dir) | variables,
            log=data_dir / "beat.log",
        )
