"""Clients of other people, each in a process and an environment of its own: a script is played, what it printed is read.

The scripts stand in `tests/clients_env` (Python) and `tests/node`: one JSON argument, one JSON line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.gateway_process import LiveGateway
from tests.requirements import need

TESTS = Path(__file__).parents[1]
MODEL = "openhands_chat"


def play_python(script: str, served: LiveGateway, *, environment: str = "clients_env", **asked: Any) -> dict[str, Any]:
    """What a script of `tests/clients_env` prints."""
    return _played([python_of(environment), "-W", "ignore", str(TESTS / "clients_env" / script)], served, asked)


def play_node(script: str, served: LiveGateway, **asked: Any) -> dict[str, Any]:
    """What a script of `tests/node` prints."""
    return _played([node(), str(TESTS / "node" / script)], served, asked)


def python_of(environment: str) -> str:
    """The interpreter of an environment of clients."""
    python = TESTS / environment / ".venv/bin/python"
    need(python.exists(), "clients", f"run `uv sync --locked --project tests/{environment}`")
    return str(python)


def node() -> str:
    """Node.js, with the packages of `tests/node`."""
    program = shutil.which("node")
    is_there = program is not None and (TESTS / "node/node_modules/ai").is_dir()
    need(is_there, "node", "install Node.js 18 or newer and run `npm ci` in tests/node")
    return str(program)


def output_of(command: list[str]) -> str:
    """What a program prints that ends well. It finds packages for Node, and nothing of this process's own: a client
    must come by nothing but what it was given."""
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment, cwd=TESTS / "node"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _played(command: list[str], served: LiveGateway, asked: dict[str, Any]) -> dict[str, Any]:
    given = {"baseURL": f"{served.url}/v1", "apiKey": served.key, "model": MODEL} | asked
    printed = output_of([*command, json.dumps(given)])
    return dict(json.loads(printed.splitlines()[-1]))  # LiteLLM prints advice to whoever gets an error
