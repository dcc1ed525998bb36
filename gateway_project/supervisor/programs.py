"""The programs that `up` keeps running: how each is started, and when it can be used."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway_project.supervisor import environments, readiness
from gateway_project.supervisor.child import ChildSpec
from gateway_project.supervisor.readiness import Probe

CODE_DIR = Path(__file__).resolve().parents[2]
# All of it is gone within 10 s of Ctrl-C: first the gateway, whose streams get 4 s and its records 2, then the rest.
STREAMS_GRACE_SECONDS = 4.0
_GATEWAY_GRACE_SECONDS = 6.0
_REST_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Makes the specifications. `gateway_environment` is that of our own Django processes."""

    data_dir: Path
    gateway_environment: Mapping[str, str]

    def agent_server(self, *, python: Path, port: int, session_api_key: str, secret_key: str) -> ChildSpec:
        directory = agent_server_directory(self.data_dir)
        (directory / "home").mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._spec(
            name="agent-server",
            command=(str(python), "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(port)),
            environment=environments.agent_server(
                os.environ, directory=directory, secret_key=secret_key, session_api_key=session_api_key
            ),
            directory=directory,
            is_ready=readiness.http_says_ok(host="127.0.0.1", port=port, path="/ready"),
            ready_within_seconds=90.0,
        )

    def demo_llm(self, *, port: int, key: str) -> ChildSpec:
        return self._spec(
            name="demo LLM",
            command=(sys.executable, "-m", "gateway_project.demo_llm", "--port", str(port)),
            environment=environments.demo_llm(os.environ, key=key),
            is_ready=readiness.port_listens(host="127.0.0.1", port=port),
        )

    def llm(self, *, is_ready: Probe) -> ChildSpec:
        return self._spec(
            name="llm",
            command=(sys.executable, "manage.py", "llm", "--exit-with-parent"),
            environment=self.gateway_environment,
            is_ready=is_ready,
        )

    def worker(self) -> ChildSpec:
        run = self.data_dir / "run"
        run.mkdir(exist_ok=True, mode=0o700)
        ready_file = run / "worker-ready"
        ready_file.unlink(missing_ok=True)
        options = ("--pool", "threads", "--concurrency", "4", "--loglevel", "WARNING", "--without-gossip")
        return self._spec(
            name="worker",
            command=(
                *(sys.executable, "-m", "celery", "-A", "gateway_project.celery", "--quiet", "worker", "--beat"),
                *("--schedule", str(run / "beat-schedule"), *options, "--without-mingle", "--without-heartbeat"),
            ),
            environment={**self.gateway_environment, "GATEWAY_WORKER_READY_FILE": str(ready_file)},
            is_ready=readiness.file_appears(ready_file),
        )

    def gateway(self, *, host: str, port: int) -> ChildSpec:
        return self._spec(
            name="gateway",
            command=(sys.executable, "manage.py", "serve", "--host", host, "--port", str(port)),
            environment=self.gateway_environment,
            is_ready=readiness.http_says_ok(host=_asked_at(host), port=port, path="/health"),
            grace_seconds=_GATEWAY_GRACE_SECONDS,
            is_echoed=True,
        )

    def _spec(
        self,
        *,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        is_ready: Probe,
        directory: Path = CODE_DIR,
        ready_within_seconds: float = 60.0,
        grace_seconds: float = _REST_GRACE_SECONDS,
        is_echoed: bool = False,
    ) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=command,
            environment=environment,
            directory=directory,
            log_path=logs_directory(self.data_dir) / f"{name.replace(' ', '-').lower()}.log",
            is_ready=is_ready,
            ready_within_seconds=ready_within_seconds,
            grace_seconds=grace_seconds,
            is_echoed=is_echoed,
        )


def agent_server_directory(data_dir: Path) -> Path:
    return data_dir / "agent-server"


def workspaces_directory(data_dir: Path) -> Path:
    return agent_server_directory(data_dir) / "workspaces"


def logs_directory(data_dir: Path) -> Path:
    return data_dir / "logs"


def _asked_at(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here
