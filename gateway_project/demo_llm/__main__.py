"""`python -m gateway_project.demo_llm --port N [--key-file PATH]`: serve the demo LLM on 127.0.0.1 until stopped.

The key comes from the file or from GATEWAY_DEMO_LLM_KEY. Nothing is printed but errors, on stderr.
Exit codes: 0 stopped, 1 the port cannot be had, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aiohttp import web

from gateway_project.demo_llm.server import application
from gateway_project.hardening import protect_process

_KEY_VARIABLE = "GATEWAY_DEMO_LLM_KEY"

# Streams that are under way when the server is stopped get this long to end.
_SHUTDOWN_SECONDS = 1.0


def main() -> int:
    # Before anything is read: an agent, which runs as the same user, shall not find the key in this environment.
    protect_process()
    parser = argparse.ArgumentParser(prog="python -m gateway_project.demo_llm", description="An offline demo LLM.")
    parser.add_argument("--port", type=_port, required=True, help="the port on 127.0.0.1")
    parser.add_argument("--key-file", type=Path, help=f"file with the key that callers send; or set {_KEY_VARIABLE}")
    arguments = parser.parse_args()
    app = application(key=_key(arguments.key_file, parser))
    try:
        web.run_app(
            app,
            host="127.0.0.1",
            port=arguments.port,
            print=None,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            handler_cancellation=True,
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        sys.stderr.write(f"The demo LLM cannot listen on 127.0.0.1:{arguments.port}: {reason}.\n")
        return 1
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1 and 65535")
    return int(text)


def _key(path: Path | None, parser: argparse.ArgumentParser) -> str:
    from_environment = os.environ.get(_KEY_VARIABLE, "")
    if path and from_environment:
        parser.error(f"give --key-file or {_KEY_VARIABLE}, not both")
    try:
        key = path.read_text().strip() if path else from_environment.strip()
    except OSError as error:
        parser.error(f"--key-file {path}: {error.strerror}")
    except UnicodeDecodeError:
        parser.error(f"--key-file {path} is not text")
    if not key.isprintable() or not key.isascii() or not key or " " in key:
        parser.error(f"give a key of printable ASCII characters with --key-file or {_KEY_VARIABLE}")
    return key


if __name__ == "__main__":
    sys.exit(main())
