"""A chat by the command `llm`, which keeps its conversations in a database of its own and goes on with the last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from talking import Person, Talk, play


class CommandFailed(Exception):
    """What the command wrote to standard error."""


class LlmTalk(Talk):
    errors = (CommandFailed,)

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.directory = tempfile.TemporaryDirectory()
        settings = Path(self.directory.name, "extra-openai-models.yaml")
        settings.write_text(
            "- model_id: agent\n"
            f"  model_name: {given['model']}\n"
            f"  api_base: {given['baseURL']}\n"
            "  api_key_name: gateway\n"
            "  supports_schema: true\n"
        )
        self._ran("keys", "set", "gateway", "--value", given["apiKey"])
        self.goes_on: tuple[str, ...] = ()

    def say(self, text: str) -> str:
        return self._asked("--no-stream", text)

    def stream(self, text: str) -> str:
        return self._asked(text)

    def parse(self, text: str) -> dict[str, Any]:
        return dict(json.loads(self._asked("--schema", json.dumps(Person.model_json_schema()), text)))

    def _asked(self, *arguments: str) -> str:
        written = self._ran("prompt", "-m", "agent", *self.goes_on, *arguments)
        self.goes_on = ("-c",)
        return written.removesuffix("\n")

    def _ran(self, *arguments: str) -> str:
        command = Path(sys.executable).parent / "llm"
        done = subprocess.run(
            [str(command), *arguments],
            env=os.environ | {"LLM_USER_PATH": self.directory.name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(done.stderr)
        return done.stdout


play(LlmTalk)
