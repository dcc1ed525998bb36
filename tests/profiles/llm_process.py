"""The llm process as a real child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class LlmProcess:
    """`start` returns at once; `wait_until_ready` when it says that it listens (about 5 s of CPU later)."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.directory = directory
        self.socket = directory / "run" / "llm.sock"
        self._command = [sys.executable, "manage.py", "llm", *arguments]
        self._environment = self.environment(directory) | environment

    def environment(self, directory: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        return inherited | {
            "GATEWAY_DATA_DIR": str(directory / "data"),
            "GATEWAY_READ_DOTENV": "false",
            "GATEWAY_LLM_SOCKET": str(self.socket),
            # LiteLLM would use it for a call without a key.
            "OPENAI_API_KEY": "sk-of-the-environment",
        }

    def start(self) -> LlmProcess:
        with (self.directory / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        return self

    def wait_until_ready(self) -> LlmProcess:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # the test's own time limit ends a process that says nothing
        assert line.startswith("llm: ready at "), self.stderr()
        return self

    def stop(self) -> int:
        """Ask it to end, as a supervisor does, and return its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()
