from __future__ import annotations

from pathlib import Path

import pytest

from gateway_project.supervisor import agent_environment
from gateway_project.supervisor.agent_environment import AgentEnvironmentFailed

UV = """#!/bin/sh
echo "$@" >> {directory}/calls
env > {directory}/environment
mkdir -p "$UV_PROJECT_ENVIRONMENT/bin" && touch "$UV_PROJECT_ENVIRONMENT/bin/python"
echo resolving; echo 'error: the network is down' >&2; exit {status}
"""


class Place:
    """A locked project, a directory for its environment, and a program in uv's place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = directory / "project"
        self.target = directory / "agent-env"
        self.announced: list[str] = []
        self.project.mkdir()
        (self.project / "pyproject.toml").write_text("[project]")
        self.lock("one")
        self.uv_ends_with(0)

    def lock(self, text: str) -> None:
        (self.project / "uv.lock").write_text(text)

    def uv_ends_with(self, status: int) -> None:
        (self.directory / "uv").write_text(UV.format(directory=self.directory, status=status))
        (self.directory / "uv").chmod(0o755)

    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()

    async def interpreter(self, given: str = "") -> Path:
        return await agent_environment.interpreter(
            given=given, project=self.project, target=self.target, announce=self.announced.append
        )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.setenv("UV", str(tmp_path / "uv"))
    return made


async def test_the_first_start_announces_the_download_and_builds_the_locked_environment(place: Place) -> None:
    python = await place.interpreter()

    assert python == place.target / "bin" / "python"
    assert place.announced == [f"first start: about 600 MB are downloaded once, into {place.target}"]
    [call] = place.calls()
    assert call.startswith("sync --locked ")
    assert f"--project {place.project}" in call


async def test_an_environment_that_is_up_to_date_is_used_as_it_is(place: Place) -> None:
    await place.interpreter()
    await place.interpreter()

    assert len(place.calls()) == 1
    assert len(place.announced) == 1


async def test_a_changed_lock_file_brings_the_environment_up_to_date(place: Place) -> None:
    await place.interpreter()
    place.lock("two")
    await place.interpreter()

    assert len(place.calls()) == 2
    assert place.announced[1] == f"updating {place.target}"


async def test_a_build_that_fails_is_one_sentence_and_is_tried_again_at_the_next_start(place: Place) -> None:
    place.uv_ends_with(2)
    with pytest.raises(AgentEnvironmentFailed, match="error: the network is down") as failed:
        await place.interpreter()
    place.uv_ends_with(0)
    await place.interpreter()

    assert f"UV_PROJECT_ENVIRONMENT={place.target} uv sync --locked --project {place.project}" in str(failed.value)
    assert len(place.calls()) == 2


async def test_uv_is_given_no_credential_of_ours(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "sk-provider")
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgres://u:p@h/d")
    await place.interpreter()

    seen = (place.directory / "environment").read_text()
    assert "sk-provider" not in seen
    assert "u:p@h" not in seen


async def test_without_uv_the_operator_is_told_two_ways_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV")
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(AgentEnvironmentFailed, match=r"uv was not found.*GATEWAY_AGENT_PYTHON"):
        await place.interpreter()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere/python", r"GATEWAY_AGENT_PYTHON=/nowhere/python cannot be run: No such file or directory\."),
        ("/bin/false", r"GATEWAY_AGENT_PYTHON=/bin/false has no openhands-agent-server"),
    ],
)
async def test_a_named_interpreter_that_cannot_serve_is_refused_by_the_variable_s_name(
    place: Place, given: str, message: str
) -> None:
    with pytest.raises(AgentEnvironmentFailed, match=message):
        await place.interpreter(given)


async def test_a_named_interpreter_takes_the_place_of_the_environment(place: Place) -> None:
    assert await place.interpreter("/bin/true") == Path("/bin/true")
    assert not (place.directory / "calls").exists()
