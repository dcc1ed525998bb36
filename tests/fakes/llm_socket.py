"""What answers `llm_client` in place of the llm process: its Unix socket, without LiteLLM behind it.

with FakeLlmSocket(tmp_path) as llm:
    settings.GATEWAY_LLM_SOCKET = str(llm.path)
    llm.answer("Paris in spring", input_tokens=30, output_tokens=4)
    ...
    assert llm.calls[0]["model"] == "openai/scripted"
"""

from __future__ import annotations

import json
import socketserver
import threading
from pathlib import Path
from typing import Any, Self


class FakeLlmSocket:
    """Answers LLM calls one after the other as it was told to; `calls` are the parameters of those that came."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "run" / "llm.sock"
        self.calls: list[dict[str, Any]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._replies: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self.path.parent.mkdir(mode=0o700)
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                fake.calls.append(json.loads(self.rfile.readline())["params"])
                reply = fake._replies.pop(0)
                fake.go_on.wait(60)
                self.wfile.write(json.dumps(reply).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that did not wait."""

        self._server = Server(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, text: str, **more: Any) -> None:
        spent = {"finish_reason": "stop", "input_tokens": 100, "output_tokens": 10, "seconds": 0.1}
        self._replies.append({"result": {"text": text} | spent | more})

    def fail(self, kind: str, message: str, *, name: str = "") -> None:
        self._replies.append({"error": {"kind": kind, "message": message, "name": name}})

    def hang(self) -> None:
        """The next call gets its answer when the test sets `go_on`."""
        self.go_on.clear()
        self.answer("too late")
