"""The how-to pages of clients, run from top to bottom as they are printed, each in the client's own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from chatgateway.models import Turn
from tests import factories
from tests.clients.playing import TESTS
from tests.fakes.agent_script import Answer, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway
from tests.laws import pages
from tests.requirements import need

ADA = '{"name": "Ada Lovelace", "age": 27}'


@pytest.fixture
def demo(served: LiveGateway, agent_server: FakeAgentServer) -> LiveGateway:
    """A profile `demo` whose agents repeat what they are asked, run commands first, and know who Ada was."""
    factories.profile(slug="demo")
    agent_server.on_message = lambda _, text: [
        *([Step(command="date")] if "date" in text else []),
        Answer(ADA if "json" in text.lower() else f"Heard: {text}"),
    ]
    return served


def program(page: str, language: str, gateway: LiveGateway) -> str:
    """All snippets of a page in one language, with the address and the key of this gateway."""
    name = f"docs/how-to/{page}.md"
    text = "\n".join(snippet.text for snippet in pages.snippets(language) if snippet.page == name)
    return text.replace("http://127.0.0.1:8000", gateway.url).replace("gw-…", gateway.key)


def run(command: list[str], text: str, directory: Path) -> str:
    """What it prints; it must succeed and complain of nothing."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=150, cwd=directory,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run_python(page: str, gateway: LiveGateway, directory: Path) -> list[str]:
    python = TESTS / "clients_env/.venv/bin/python"
    need(python.exists(), "clients", "run `uv sync --locked --project tests/clients_env`")
    return run([str(python), "-W", "ignore", "-"], program(page, "python", gateway), directory).splitlines()


def matches() -> list[str]:
    return [turn.match for turn in Turn.objects.filter(outcome="answered").order_by("arrival")]


def test_the_page_for_the_openai_sdk_for_python(demo: LiveGateway, tmp_path: Path) -> None:
    printed = run_python("use-openai-python", demo, tmp_path)

    assert printed == [
        "Heard: create a file hello.txt with the text Hello",
        "Heard: read hello.txt",
        "Heard: read notes.txt",
        "Running: date",
        "Heard: run `date`",
        "name='Ada Lovelace' age=27",
        "model_not_found Error code: 404 - Profile 'nobody' not found. Use GET /v1/models.",
    ]
    assert matches() == ["new", "history", "new", "header", "new", "new"]


def test_the_page_for_langchain(demo: LiveGateway, tmp_path: Path) -> None:
    printed = run_python("use-langchain", demo, tmp_path)

    assert printed == [
        "Heard: read hello.txt",
        "Heard: read notes.txt",
        "Heard: run `date`",
        "name='Ada Lovelace' age=27",
    ]
    assert matches() == ["new", "history", "new", "header", "new", "new"]


def test_the_page_for_the_openai_sdk_for_javascript(demo: LiveGateway) -> None:
    is_there = shutil.which("node") is not None and (TESTS / "node/node_modules/openai").is_dir()
    need(is_there, "node", "install Node.js 18 or newer and run `npm ci` in tests/node")

    printed = run(["node", "--input-type=module", "-"], program("use-openai-javascript", "js", demo), TESTS / "node")

    assert printed.splitlines() == [
        "Heard: create a file hello.txt with the text Hello",
        "Heard: read hello.txt",
        "Heard: run `date`",
        "Running: date",
        "Heard: run `date`",
        "{ name: 'Ada Lovelace', age: 27 }",
    ]
    assert matches() == ["new", "history", "new", "header", "new", "new"]


def test_the_page_for_curl(demo: LiveGateway, tmp_path: Path) -> None:
    need(shutil.which("curl") is not None, "curl", "install curl")

    printed = run(["bash", "-e"], program("use-curl", "bash", demo).replace("curl ", "curl -sS --fail "), tmp_path)

    assert '"id":"openhands_demo"' in printed.replace('": "', '":"')
    assert "data: [DONE]" in printed
    assert "Heard: read hello.txt" in printed
    assert matches() == ["new", "new", "header", "new"]
