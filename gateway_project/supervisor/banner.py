"""What `up` says when everything runs: where it is, how to get in, a call to try, and what is exposed."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway_project.bootstrap import TENANT, Access
from gateway_project.supervisor.terminal import Terminal
from profiles.models import Profile

AGENT_USER_PAGE = "docs/explanation/what-an-agent-can-read.md"
EXPOSURE_PAGE = "docs/how-to/serve-a-network.md"
_RUN = "uv run python manage.py"
_NEW_PASSWORD = f"{_RUN} reset_admin_password"
_NEW_KEY = f"{_RUN} mint_key --tenant {TENANT} --name laptop"
_KEY_VARIABLE = "GATEWAY_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What there is to say. `profile` is None when none can be used."""

    seconds: float
    public_url: str
    access: Access
    given_key_variable: str
    first_login_path: Path
    profile: Profile | None
    runs_agents_here: bool
    is_loopback: bool
    host: str
    port: int
    own_names: Sequence[str]
    logs: Path


def show(terminal: Terminal, ready: Ready) -> None:
    terminal.say()
    terminal.title(f"OpenHands Gateway is ready ({ready.seconds:.1f} s)")
    terminal.say()
    for name, value in _rows(terminal, ready):
        terminal.say(f"  {name:<10} {value}")
    terminal.say()
    if ready.profile is not None:
        terminal.say(_curl(ready, ready.profile))
        terminal.say()
    if ready.runs_agents_here:
        terminal.say(
            f"  Agents run as {_user()!r} on this machine: they can read what that user can, the data directory "
            f"with every stored key included. To run them apart: {AGENT_USER_PAGE}"
        )
    if not ready.is_loopback:
        terminal.warn(
            f"Listening on {ready.host}: everybody who reaches port {ready.port} sees the admin's login page and the "
            f"API, unencrypted; it answers to {', '.join(ready.own_names) or ready.host} "
            f"(GATEWAY_ALLOWED_HOSTS). {EXPOSURE_PAGE}"
        )
    terminal.say(terminal.dim(f"  Logs: {ready.logs}   Stop: Ctrl-C"))
    terminal.say()


def _rows(terminal: Terminal, ready: Ready) -> list[tuple[str, str]]:
    access = ready.access
    in_file = f"in {ready.first_login_path}, or " if ready.first_login_path.exists() else ""
    if access.password:
        login = f"{access.username}  {terminal.strong(access.password)}"
    else:
        login = f"{access.username}, password {in_file}anew: {_NEW_PASSWORD}"
    if access.key:
        key = terminal.strong(access.key)
    elif ready.given_key_variable:
        key = f"as in {ready.given_key_variable}"
    else:
        key = f"{in_file}anew: {_NEW_KEY}"
    rows = [
        ("Admin", f"{ready.public_url}/admin/"),
        ("Login", login),
        ("API base", f"{ready.public_url}/v1"),
        ("API key", key),
    ]
    if access.password or access.key:
        rows += [
            ("", terminal.dim(f"also in {ready.first_login_path} until the first login; anew:")),
            ("", terminal.dim(f"{_NEW_PASSWORD}, or {_NEW_KEY}")),
        ]
    rows.append(("Model", _model(terminal, ready.profile)))
    return rows


def _model(terminal: Terminal, profile: Profile | None) -> str:
    if profile is None:
        return "none can be used yet: make or enable a profile in the admin"
    note = f"{profile.description}: set LLM_MODEL and LLM_API_KEY_FILE to use yours" if profile.is_demo else ""
    return f"{profile.model_id}  {terminal.dim(note or profile.llm_model)}"


def _curl(ready: Ready, profile: Profile) -> str:
    question = "run `uname -a`" if profile.is_demo else "What can you do here?"
    body = json.dumps(
        {"model": profile.model_id, "stream": True, "messages": [{"role": "user", "content": question}]},
        separators=(",", ":"),
    )
    key = ready.access.key or f"${ready.given_key_variable or _KEY_VARIABLE}"
    return (
        f"  curl -N {ready.public_url}/v1/chat/completions \\\n"
        f'    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\\n'
        f"    -d '{body}'"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"user {os.getuid()}"
