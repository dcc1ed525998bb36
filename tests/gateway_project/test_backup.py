"""A backup taken while the gateway works brings back its callers, conversations and secrets; keys can be exchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from tests import factories
from tests.fakes.agent_script import Answer, Gate
from tests.fakes.agent_server import FakeAgentServer
from tests.faults.processes import ROOT, GatewayProcess, database_url, environment
from tests.waiting import eventually
from tests.wire.chatting import CHAT, CONVERSATION, ChatClient, user

NEW_KEY = "Zc4-new-encryption-key-Qv7mT1xB9kL2pR8s"
# As after a start that made its own: in the data directory and not in the environment.
FROM_FILES = dict.fromkeys(("GATEWAY_SECRET_KEY", "GATEWAY_ENCRYPTION_KEYS", "GATEWAY_API_KEY_PEPPER"), "")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """That of the gateway which is backed up, with its secrets in it."""
    secrets = tmp_path / "first" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "django").write_text(settings.SECRET_KEY)
    (secrets / "encryption").write_text(",".join(settings.GATEWAY_ENCRYPTION_KEYS))
    (secrets / "pepper").write_text(settings.GATEWAY_API_KEY_PEPPER)
    return tmp_path / "first"


@pytest.fixture
def headers(transactional_db: None, agent_server: FakeAgentServer) -> dict[str, str]:
    """Of a caller; the agent-server's own key is stored encrypted, and it answers to no other."""
    factories.agent_server(url=agent_server.url, session_api_key=agent_server.session_api_key)
    factories.profile(slug="chat")
    return {"Authorization": f"Bearer {factories.api_key().text}"}


@pytest.fixture
def started() -> Iterator[list[GatewayProcess]]:
    processes: list[GatewayProcess] = []
    yield processes
    for process in processes:
        process.kill()


@pytest.fixture
def restored_url(tmp_path: Path) -> Iterator[str]:
    """Where the backup goes: another file, or another database of the same server."""
    if connection.vendor == "sqlite":
        yield f"sqlite:///{tmp_path / 'second' / 'gateway.sqlite3'}"
        return
    name = f"restored_{os.getpid()}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield database_url().rpartition("/")[0] + f"/{name}"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def manage(*arguments: str, data_dir: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=environment(data_dir) | variables, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    return done.stdout


def back_up_and_restore(data_dir: Path, second: Path, restored_url: str) -> None:
    """As the page on backups has it, for either database."""
    shutil.copytree(data_dir / "secrets", second / "secrets")
    if connection.vendor == "sqlite":
        copy = data_dir / "backup.sqlite3"
        manage("backup", str(copy), data_dir=data_dir)
        copy.rename(restored_url.removeprefix("sqlite:///"))
        return
    dump = data_dir / "gateway.dump"
    for command in (
        ["pg_dump", "--format=custom", f"--file={dump}", database_url()],
        ["pg_restore", "--exit-on-error", "--no-owner", f"--dbname={restored_url}", str(dump)],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=100)


def test_a_backup_of_a_working_gateway_brings_everything_back(
    agent_server: FakeAgentServer,
    headers: dict[str, str],
    data_dir: Path,
    tmp_path: Path,
    restored_url: str,
    started: list[GatewayProcess],
) -> None:
    gate = Gate()
    first = GatewayProcess(data_dir=data_dir, **FROM_FILES).wait_until_ready()
    started.append(first)
    with httpx.Client(base_url=first.url, headers=headers, timeout=60) as http:
        talk = ChatClient(http=http)
        agent_server.script(Answer("The first answer."))
        before = talk.say("Hello")
        agent_server.script(Answer("Cut in two.", gate=gate, hold_after=1))
        reply_id = before.turn.reply_id
        asked = {"model": "openhands_chat", "messages": [user("A long one")], "stream": True}
        with http.stream("POST", CHAT, json=asked) as response:
            gate.wait_until_reached()
            lines = response.iter_lines()  # kept: when it goes, so does the connection
            first_chunk = next(filter(lambda line: line.startswith("data: "), lines))
            open_id = json.loads(first_chunk.removeprefix("data: "))["id"]
            back_up_and_restore(data_dir, tmp_path / "second", restored_url)
            first.kill()
    gate.open()

    second = GatewayProcess(data_dir=tmp_path / "second", GATEWAY_DATABASE_URL=restored_url, **FROM_FILES)
    started.append(second.wait_until_ready())
    with httpx.Client(base_url=second.url, headers=headers, timeout=60) as http:
        stored = http.get(f"{CHAT}/{reply_id}").json()
        after = http.post(
            CHAT,
            json={"model": "openhands_chat", "messages": [user("And then?")]},
            headers={CONVERSATION: before.conversation_id},
        )

        def was_taken_over() -> Any:
            found = http.get(f"{CHAT}/{open_id}")
            return found.status_code == 200 and found.json()["choices"][0]["message"]["content"] == "Cut in two."

        eventually(was_taken_over, timeout_seconds=90)

    assert stored["choices"][0]["message"]["content"] == "The first answer."
    assert after.status_code == 200, after.text
    assert after.headers[CONVERSATION] == before.conversation_id
    manage("migrate", "--check", data_dir=tmp_path / "second", GATEWAY_DATABASE_URL=restored_url, **FROM_FILES)


def test_encryption_keys_are_exchanged_without_losing_a_secret(
    headers: dict[str, str], data_dir: Path, started: list[GatewayProcess]
) -> None:
    old = ",".join(settings.GATEWAY_ENCRYPTION_KEYS)
    question = {"model": "openhands_chat", "messages": [user("Hello")]}

    def ask(keys: str) -> int:
        process = GatewayProcess(data_dir=data_dir, GATEWAY_ENCRYPTION_KEYS=keys).wait_until_ready()
        started.append(process)
        try:
            return httpx.post(f"{process.url}{CHAT}", json=question, headers=headers, timeout=60).status_code
        finally:
            process.kill()

    too_early = ask(NEW_KEY)
    both = ask(f"{NEW_KEY},{old}")
    said = manage("rotate_secrets", data_dir=data_dir, GATEWAY_ENCRYPTION_KEYS=f"{NEW_KEY},{old}")
    new_alone = ask(NEW_KEY)

    assert too_early >= 500
    assert (both, new_alone) == (200, 200)
    assert "chatgateway.AgentServer.session_api_key: 1 encrypted anew" in said
    assert "Every key but the first can now be removed" in said


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has pg_dump")
def test_a_backup_replaces_nothing_and_is_for_its_owner_alone(transactional_db: None, tmp_path: Path) -> None:
    target = tmp_path / "copy.sqlite3"
    said = StringIO()

    call_command("backup", str(target), stdout=said)

    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]
    assert "Back up the secrets too" in said.getvalue()
    with pytest.raises(CommandError, match="exists already"):
        call_command("backup", str(target))
    with pytest.raises(CommandError, match="could not be written"):
        call_command("backup", str(tmp_path / "missing" / "copy.sqlite3"))


@pytest.mark.skipif(connection.vendor == "sqlite", reason="there it makes the backup")
def test_on_postgresql_the_command_says_what_to_use(transactional_db: None, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="pg_dump --format=custom"):
        call_command("backup", str(tmp_path / "copy"))
