"""The interpreter that runs the agent-server: its own locked environment in the data directory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from gateway_project.hardening import is_secret

# The download is about 600 MB; on a slow line that takes long, but not for ever.
_SYNC_SECONDS = 3600.0
_CHECK_SECONDS = 30.0
_STAMP = ".gateway-stamp"
# uv's own index and its credentials, and the proxy on the way there.
_INDEX_VARIABLES = ("UV_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class AgentEnvironmentFailed(Exception):
    """There is no interpreter for the agent-server. The message is one sentence for an operator."""


async def interpreter(*, given: str, project: Path, target: Path, announce: Callable[[str], None]) -> Path:
    """Return a Python that has the agent-server: `given` (GATEWAY_AGENT_PYTHON), or that of the locked environment
    in `target`, built from `project` with uv when it is missing or out of date. Raises AgentEnvironmentFailed."""
    if given:
        return await _checked(Path(given))
    python = target / "bin" / "python"
    stamp = _stamp_of(project)
    with contextlib.suppress(OSError):
        if (target / _STAMP).read_text() == stamp and python.exists():
            return python
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv:
        raise AgentEnvironmentFailed(
            "uv was not found, which builds the agent-server's environment: install it "
            "(https://docs.astral.sh/uv/), or name a Python that has openhands-agent-server in GATEWAY_AGENT_PYTHON."
        )
    announce(
        f"updating {target}" if python.exists() else f"first start: about 600 MB are downloaded once, into {target}"
    )
    await _sync(uv, project, target)
    (target / _STAMP).write_text(stamp)
    return python


def _stamp_of(project: Path) -> str:
    """What the environment was built from; another lock file or Python needs another one."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "uv.lock"):
        digest.update((project / name).read_bytes())
    digest.update(f"{sys.version} {sys.base_prefix}".encode())
    return digest.hexdigest()


async def _sync(uv: str, project: Path, target: Path) -> None:
    # uv talks to the package index alone.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "VIRTUAL_ENV" and (not is_secret(name, value) or name.startswith(_INDEX_VARIABLES))
    }
    environment["UV_PROJECT_ENVIRONMENT"] = str(target)
    command = [uv, "sync", "--locked", "--no-progress", "--project", str(project), "--python", sys.executable]
    if sys.stderr.isatty():
        command.remove("--no-progress")
    status, output = await _run(command, environment, _SYNC_SECONDS, shows_progress=sys.stderr.isatty())
    if status != 0:
        reason = output.strip().splitlines()[-1] if output.strip() else f"uv ended with status {status}"
        raise AgentEnvironmentFailed(
            f"The agent-server's environment could not be built ({reason.strip()}); to see all of it run: "
            f"UV_PROJECT_ENVIRONMENT={target} uv sync --locked --project {project}"
        )


async def _checked(python: Path) -> Path:
    code = "import importlib.metadata as m; print(m.version('openhands-agent-server'))"
    try:
        status, _ = await _run([str(python), "-c", code], dict(os.environ), _CHECK_SECONDS, shows_progress=False)
    except OSError as error:
        raise AgentEnvironmentFailed(f"GATEWAY_AGENT_PYTHON={python} cannot be run: {error.strerror}.") from error
    if status != 0:
        raise AgentEnvironmentFailed(
            f"GATEWAY_AGENT_PYTHON={python} has no openhands-agent-server; install it there, or unset the variable."
        )
    return python


async def _run(
    command: list[str], environment: dict[str, str], within_seconds: float, *, shows_progress: bool
) -> tuple[int, str]:
    """Run to the end and return status and output; ended with us or at the deadline."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=None if shows_progress else asyncio.subprocess.PIPE,
        stderr=None if shows_progress else asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(within_seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        return 1, f"no result after {within_seconds:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, (output or b"").decode(errors="replace")
