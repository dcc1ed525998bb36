"""A small production: imitations of agent-servers, gateway processes on one database, and a worker.

What `soak` and `simulation` put under load.
"""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import free_port, running
from benchmarks.targets import ROOT, Backend, command, gateway_environment, stub_agent_server

SEED = """
import json, sys
from chatgateway.models import AgentServer
from profiles import issuing
from profiles.models import Profile, Tenant

asked = json.load(sys.stdin)
Profile.objects.create(
    slug="bench", llm_model="openai/scripted", llm_api_key="sk-bench", llm_base_url="http://127.0.0.1:9/v1",
    input_price="1", output_price="2", **asked["profile"],
)
for number, server in enumerate(asked["agent_servers"], 1):
    AgentServer.objects.create(name=f"bench-{number}", capacity=asked["slots"], **server)
tenant = Tenant.objects.create(name="bench")
texts = {}
for name, ceilings in asked["keys"].items():
    _, texts[name] = issuing.create_key(tenant=tenant, name=name, **ceilings)
sys.stdout.write(json.dumps(texts))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`keys` are the callers' keys by name. `pids` are those of the gateway processes, in the order of `urls`."""

    urls: list[str]
    pids: list[int]
    worker_pid: int | None
    agent_servers: list[Backend]
    keys: dict[str, str]
    database_url: str

    def books(self) -> dict[str, int]:
        """The sums of what the imitations have on their books."""
        total: dict[str, int] = {}
        for backend in self.agent_servers:
            with urllib.request.urlopen(f"{backend.url}/books", timeout=10) as response:
                for name, number in json.load(response).items():
                    total[name] = total.get(name, 0) + number
        return total


@contextlib.contextmanager
def site(
    directory: Path,
    *,
    database_url: str,
    keys: Mapping[str, dict[str, Any]],
    agent_servers: int = 3,
    gateways: int = 2,
    slots: int = 50,
    with_worker: bool = False,
    profile: Mapping[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """Everything started, seeded and ready. `keys`: names, and the fields of each key that differ from the default's.

    `profile` and `settings` are fields of the profile and environment variables.
    """
    with contextlib.ExitStack() as stack:
        backends = [
            stack.enter_context(stub_agent_server(_made(directory / f"agent-server-{number}")))
            for number in range(1, agent_servers + 1)
        ]
        env = gateway_environment(_made(directory / "gateway"), database_url) | dict(settings or {})
        command(["manage.py", "migrate", "--verbosity", "0"], env=env)
        servers = [{"url": b.url, "session_api_key": b.key, "workspace_root": b.workspace} for b in backends]
        asked = {"agent_servers": servers, "slots": slots, "keys": dict(keys), "profile": dict(profile or {})}
        texts = json.loads(
            command(["manage.py", "shell", "--no-imports", "-c", SEED], env=env, stdin=json.dumps(asked))
        )
        urls, pids = [], []
        for number in range(1, gateways + 1):
            url, pid = stack.enter_context(_gateway(directory, f"gateway-{number}", env, database_url))
            urls.append(url)
            pids.append(pid)
        worker = stack.enter_context(_worker(directory, env, database_url)) if with_worker else None
        yield Site(
            urls=urls,
            pids=pids,
            worker_pid=worker,
            agent_servers=backends,
            keys=texts,
            database_url=database_url,
        )


@contextlib.contextmanager
def _gateway(directory: Path, name: str, env: Mapping[str, str], database_url: str) -> Iterator[tuple[str, int]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, str(ROOT / "manage.py"), "serve", "--port", str(port)]
    own = {**env, "GATEWAY_DATABASE_URL": named(database_url, name)}
    with running(argv, env=own, directory=directory, name=name, ready_url=f"{url}/ready") as pid:
        yield url, pid


@contextlib.contextmanager
def _worker(directory: Path, env: Mapping[str, str], database_url: str) -> Iterator[int]:
    options = ["--beat", "--schedule", str(directory / "beat"), "--pool", "threads", "--concurrency", "4"]
    argv = [sys.executable, "-m", "celery", "-A", "gateway_project.celery", "--quiet", "worker", *options]
    own = {**env, "GATEWAY_DATABASE_URL": named(database_url, "worker")}
    with running(argv, env=own, directory=directory, name="worker", ready_url=None) as pid:
        yield pid


def named(database_url: str, name: str) -> str:
    """The URL with the name under which PostgreSQL lists the connections of whoever uses it."""
    return f"{database_url}?application_name={name}" if database_url.startswith("postgres") else database_url


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
