"""What is measured: each target is started on loopback for as long as its context lasts, and described by a `Target`.

Core 0 belongs to the target under measurement where `pinned`; what stands behind it and the load share the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import free_port, running

ROOT = Path(__file__).resolve().parent.parent
LITELLM = "litellm[proxy]==1.106.2"
TOOLS = ["terminal", "file_editor", "task_tracker"]


class Unavailable(Exception):
    """A target that cannot be had on this machine; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`address` is what `load.Job` wants; `pids` are the processes whose cost counts."""

    name: str
    address: dict[str, Any]
    pids: list[int]
    is_native: bool = False
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """An agent-server, real or imitated."""

    url: str
    key: str
    pid: int
    workspace: str
    has_tools: bool = False


def plain_environment(**extra: str) -> dict[str, str]:
    """The least a process needs: no setting of the shell reaches a target."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **extra}


@contextlib.contextmanager
def scripted_llm(directory: Path, *, core: int | None = None) -> Iterator[str]:
    """Yield the base URL of an LLM that costs nothing."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.scripted_llm", str(port)]
    url = f"http://127.0.0.1:{port}/v1"
    with running(argv, env=plain_environment(), directory=directory, name="llm", ready_url=f"{url}/models", core=core):
        yield url


@contextlib.contextmanager
def stub_agent_server(directory: Path, *, core: int | None = None) -> Iterator[Backend]:
    port, key = free_port(), secrets.token_hex(16)
    argv = [sys.executable, "-m", "benchmarks.stub_agent_server", str(port), key]
    url = f"http://127.0.0.1:{port}"
    with running(
        argv, env=plain_environment(), directory=directory, name="stub", ready_url=f"{url}/ready", core=core
    ) as pid:
        yield Backend(url=url, key=key, pid=pid, workspace="/srv/workspaces")


# --- the agent-server -------------------------------------------------------------------------------------------------


def agent_python() -> Path:
    """The interpreter of the agent-server's own environment. Raises Unavailable."""
    named = os.environ.get("GATEWAY_AGENT_PYTHON")
    candidates = [Path(named)] if named else [ROOT / "data/agent-env/bin/python", ROOT / "agent_env/.venv/bin/python"]
    for path in candidates:
        if path.exists():
            return path
    raise Unavailable("no agent-server: run `uv sync --project agent_env --locked`, or set GATEWAY_AGENT_PYTHON")


@contextlib.contextmanager
def agent_server(directory: Path, llm_url: str, *, has_tools: bool, max_runs: int = 100) -> Iterator[Backend]:
    """The real one, its built-in gateway set up for the same agent as everybody else's: one profile, `bench`."""
    port, key = free_port(), secrets.token_hex(16)
    home = directory / "agent-server"
    (home / "home").mkdir(parents=True)
    env = plain_environment(
        HOME=str(home / "home"),
        OH_CONVERSATIONS_PATH=str(home / "conversations"),
        OH_WORKSPACE_PATH=str(home / "workspaces"),
        OH_BASH_EVENTS_DIR=str(home / "bash"),
        OH_SECRET_KEY=secrets.token_hex(16),
        OH_SESSION_API_KEYS_0=key,
        OH_ENABLE_VSCODE="0",
        OH_PRELOAD_TOOLS="0",
        OH_WEBHOOKS="[]",
        OH_MAX_CONCURRENT_RUNS=str(max_runs),
        LOG_JSON="1",
        LOG_LEVEL="WARNING",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(name, None)
    url = f"http://127.0.0.1:{port}"
    argv = [str(agent_python()), "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(port)]
    with running(argv, env=env, directory=home, name="agent-server", ready_url=f"{url}/ready", start_seconds=90) as pid:
        backend = Backend(url=url, key=key, pid=pid, workspace=str(home / "workspaces"), has_tools=has_tools)
        _set_up_built_in(backend, llm_url)
        yield backend


def native_agent(llm_url: str, *, has_tools: bool) -> dict[str, Any]:
    """The `agent` of `POST /api/conversations`, the same that the gateway sends."""
    return {
        "kind": "Agent",
        "llm": {**_llm(llm_url), "usage_id": "agent"},
        "tools": [{"name": name} for name in TOOLS] if has_tools else [],
        "include_default_tools": [],
        "condenser": None,
        "agent_context": {"system_message_suffix": None, "current_datetime": None},
    }


def _llm(llm_url: str) -> dict[str, Any]:
    return {
        "model": "openai/scripted",
        "api_key": "sk-bench",
        "base_url": llm_url,
        "stream": True,
        "num_retries": 1,
        "timeout": 600,
        "reasoning_effort": None,
    }


def _set_up_built_in(backend: Backend, llm_url: str) -> None:
    _api(backend, "POST", "/api/profiles/bench", {"llm": _llm(llm_url), "include_secrets": True})
    profile = {
        "agent_kind": "openhands",
        "name": "bench",
        "llm_profile_ref": "bench",
        "tools": [{"name": name} for name in TOOLS] if backend.has_tools else [],
        "public_skills": [],
    }
    _api(backend, "POST", "/api/agent-profiles/bench", profile)
    profiles = _api(backend, "GET", "/api/agent-profiles")["profiles"]
    made = next(row["id"] for row in profiles if row["name"] == "bench")
    _api(backend, "POST", f"/api/agent-profiles/{made}/activate")


def _api(backend: Backend, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(
        backend.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Session-API-Key": backend.key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def built_in(backend: Backend) -> Target:
    """The agent-server's own OpenAI routes."""
    address = {"base_url": f"{backend.url}/v1", "key": backend.key, "model": "openhands_bench"}
    return Target(name="built-in gateway", address=address, pids=[backend.pid])


def native(backend: Backend, llm_url: str, *, posts_message: bool = False) -> Target:
    """The agent-server's own API, as the floor. `posts_message`: by REST, instead of as a frame of the socket."""
    address = {
        "base_url": backend.url,
        "key": backend.key,
        "agent": native_agent(llm_url, has_tools=backend.has_tools),
        "workspace": backend.workspace,
        "posts_message": posts_message,
    }
    name = "native API, message by POST" if posts_message else "native API"
    return Target(name=name, address=address, pids=[backend.pid], is_native=True)


# --- this gateway -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def gateway(
    directory: Path,
    *backends: Backend,
    database_url: str,
    name: str,
    llm_url: str = "http://127.0.0.1:9/v1",
    core: int | None = None,
    capacity: int = 5000,
    queue_limit: int | None = None,
    serve: tuple[str, ...] = ("manage.py", "serve"),
) -> Iterator[Target]:
    """This gateway as `manage.py serve` runs it, authentication and rows included; the database is there and empty.

    `capacity`: the slots of each agent-server. `queue_limit`: how many turns may wait for one (the gateway's default).
    """
    home = directory / name.replace(" ", "-")
    home.mkdir()
    port = free_port()
    env = gateway_environment(home, database_url)
    if queue_limit is not None:
        env["GATEWAY_QUEUE_LIMIT"] = str(queue_limit)
    command(["manage.py", "migrate", "--verbosity", "0"], env=env)
    seed = {
        "agent_servers": [
            {"url": backend.url, "session_api_key": backend.key, "workspace_root": backend.workspace}
            for backend in backends
        ],
        "capacity": capacity,
        "llm_url": llm_url,
        "tools": TOOLS if all(backend.has_tools for backend in backends) else [],
    }
    key = command(["-m", "benchmarks.seed"], env=env, stdin=json.dumps(seed))
    argv = [sys.executable, *serve, "--port", str(port)]
    argv = [str(ROOT / part) if part == "manage.py" else part for part in argv]
    url = f"http://127.0.0.1:{port}"
    with running(argv, env=env, directory=home, name="gateway", ready_url=f"{url}/ready", core=core) as pid:
        yield Target(name=name, address={"base_url": f"{url}/v1", "key": key, "model": "openhands_bench"}, pids=[pid])


def gateway_environment(home: Path, database_url: str) -> dict[str, str]:
    return plain_environment(
        GATEWAY_DATA_DIR=str(home / "data"), GATEWAY_DATABASE_URL=database_url, GATEWAY_READ_DOTENV="false"
    )


def command(argv: list[str], *, env: dict[str, str], stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip()


def sqlite(directory: Path, name: str) -> str:
    return f"sqlite:///{directory / name}.sqlite3"


@contextlib.contextmanager
def postgres_database(admin_url: str) -> Iterator[str]:
    """A new database on the server at `admin_url`, dropped at the end. Raises Unavailable."""
    try:
        import psycopg
        from psycopg import sql
    except ImportError:
        raise Unavailable("psycopg is not installed") from None
    name = f"bench_{secrets.token_hex(4)}"

    def administer(statement: str) -> None:
        with psycopg.connect(admin_url, autocommit=True, connect_timeout=3) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    try:
        administer("CREATE DATABASE {}")
    except psycopg.OperationalError as error:
        raise Unavailable(f"no PostgreSQL at {admin_url}: {error}") from None
    try:
        yield f"{admin_url.rpartition('/')[0]}/{name}"
    finally:
        administer("DROP DATABASE {} WITH (FORCE)")


# --- LiteLLM ----------------------------------------------------------------------------------------------------------


def litellm_python(cache: Path) -> Path:
    """The interpreter of LiteLLM's own environment, made on first use with uv. Raises Unavailable."""
    python = cache / "litellm-env/bin/python"
    if python.exists():
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise Unavailable("uv is not installed, so there is no LiteLLM to compare with")
    for argv in (
        [uv, "venv", "--no-project", "--python", sys.executable, str(cache / "litellm-env")],
        [uv, "pip", "install", "--no-config", "--python", str(python), LITELLM],
    ):
        done = subprocess.run(argv, cwd=cache, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            raise Unavailable(f"LiteLLM could not be installed: {done.stderr[-500:]}")
    return python


@contextlib.contextmanager
def litellm(directory: Path, cache: Path, llm_url: str, *, core: int | None = None) -> Iterator[Target]:
    """LiteLLM's proxy in front of the scripted LLM: one worker, a master key, no database, no log."""
    home = directory / "litellm"
    home.mkdir()
    key = f"sk-{secrets.token_hex(16)}"
    config = {
        "model_list": [
            {
                "model_name": "bench",
                "litellm_params": {"model": "openai/scripted", "api_base": llm_url, "api_key": "sk-bench"},
            }
        ],
        "general_settings": {"master_key": key},
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }
    (home / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    python = litellm_python(cache)
    argv = [str(python.with_name("litellm")), "--config", "config.yaml", "--port", str(port), "--host", "127.0.0.1"]
    env = plain_environment(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="ERROR", HOME=str(home))
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(name, None)
    url = f"http://127.0.0.1:{port}"
    with running(
        [*argv, "--num_workers", "1"],
        env=env,
        directory=home,
        name="litellm",
        ready_url=f"{url}/health/liveliness",
        start_seconds=120,
        core=core,
    ) as pid:
        yield Target(name="LiteLLM proxy", address={"base_url": f"{url}/v1", "key": key, "model": "bench"}, pids=[pid])
