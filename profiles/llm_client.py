"""Questions to the process that has LiteLLM loaded, over its Unix socket, each with a deadline.

Look-ups are synchronous and take milliseconds. An LLM call waits for a provider, so it is awaited: a web process has
many of them under way and no thread for each.

Importing LiteLLM takes about 5 s of CPU and 185 MB, so one process per host does it (`manage.py llm`) and everybody
else asks. When it is not there, saving a profile goes on with a warning.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from profiles.exceptions import LlmCallFailed, LlmProcessDown, UnknownProvider
from profiles.model_facts import Completion, ModelFacts, ModelOffer

LOOKUP_SECONDS = 5.0
# The path is part of a C struct of fixed size: 108 bytes on Linux, 104 on macOS, with a zero at the end.
_LONGEST_PATH_BYTES = 103 if sys.platform == "darwin" else 107
MAXIMUM_MESSAGE_BYTES = 8 * 1024 * 1024


def describe_model(model: str, base_url: str = "", *, timeout_seconds: float = LOOKUP_SECONDS) -> ModelFacts:
    """Return what LiteLLM knows of a model string. Raises UnknownProvider when it cannot tell whom to call."""
    result = _ask("describe_model", {"model": model, "base_url": base_url}, timeout_seconds)
    return ModelFacts(**result)


async def complete(
    *,
    model: str,
    api_key: str,
    base_url: str,
    messages: Sequence[dict[str, str]],
    max_output_tokens: int | None,
    timeout_seconds: float,
    response_format: dict[str, Any] | None = None,
) -> Completion:
    """Make one LLM call, without retries, and return its answer. Costs money. Raises LlmCallFailed.

    Cancelled, it leaves the call to the process, which brings it to its end.
    """
    params = {
        "model": model,
        "api_key": api_key,
        "base_url": base_url,
        "messages": list(messages),
        "max_output_tokens": max_output_tokens,
        "timeout_seconds": timeout_seconds,
        "response_format": response_format,
    }
    path = socket_path()
    private_directory(path.parent)
    try:
        # The process gives up at timeout_seconds and says so; the socket waits a little longer to hear it.
        async with asyncio.timeout(timeout_seconds + 2):
            line = await _exchange(path, _request("complete", params, timeout_seconds + 2))
        return Completion(**_result(json.loads(line), params))
    except TimeoutError:
        raise _silent(timeout_seconds) from None
    except OSError as error:
        raise _absent(error) from None
    except ValueError:
        raise LlmProcessDown(_BROKEN_OFF) from None


def search_models(search: str, *, limit: int = 50, timeout_seconds: float = LOOKUP_SECONDS) -> list[ModelOffer]:
    """Return models of LiteLLM's catalogue whose name contains every word of `search`, the likeliest first."""
    found = _ask("search_models", {"search": search, "limit": limit}, timeout_seconds)
    return [ModelOffer(**offer) for offer in found]


def provider_names(*, timeout_seconds: float = LOOKUP_SECONDS) -> list[str]:
    """Return every provider LiteLLM has, as it is written before the slash of a model string."""
    names: list[str] = _ask("provider_names", {}, timeout_seconds)
    return names


def is_up(*, timeout_seconds: float = 1.0) -> bool:
    """Whether the process answers."""
    try:
        _ask("ping", {}, timeout_seconds)
    except LlmProcessDown:
        return False
    return True


def socket_path() -> Path:
    """Return where the socket is: GATEWAY_LLM_SOCKET, or a short path made from it when it is too long for one.

    Not under TMPDIR: the process that listens and the one that asks may have different ones.
    """
    wanted = Path(settings.GATEWAY_LLM_SOCKET).absolute()
    if len(os.fsencode(wanted)) <= _LONGEST_PATH_BYTES:
        return wanted
    name = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    return Path(f"/tmp/gateway-{os.geteuid()}-{name}") / "llm.sock"  # noqa: S108  private_directory checks its owner


def private_directory(directory: Path) -> None:
    """Raise LlmProcessDown unless nobody else can put a socket there: what is sent over it includes provider keys."""
    try:
        found = directory.lstat()
    except OSError:
        raise LlmProcessDown(f"There is no directory {directory}: the llm process has not run.") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LlmProcessDown(f"{directory} must be a directory of this user, and nobody else may write to it.")


def _ask(method: str, params: dict[str, Any], timeout_seconds: float) -> Any:
    """Send one request on a connection of its own and return its result; connecting costs 50 µs."""
    deadline = time.monotonic() + timeout_seconds
    path = socket_path()
    private_directory(path.parent)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_seconds)
            connection.connect(str(path))
            connection.sendall(_request(method, params, timeout_seconds))
            reply = json.loads(_read_line(connection, deadline))
    except TimeoutError:
        raise _silent(timeout_seconds) from None
    except OSError as error:
        raise _absent(error) from None
    except ValueError:
        raise LlmProcessDown(_BROKEN_OFF) from None
    return _result(reply, params)


_BROKEN_OFF = "The llm process broke off its answer."


def _silent(seconds: float) -> LlmProcessDown:
    return LlmProcessDown(f"The llm process did not answer within {seconds:g} s.")


def _absent(error: OSError) -> LlmProcessDown:
    return LlmProcessDown(f"The llm process is not running: {error.strerror or error}.")


def _request(method: str, params: dict[str, Any], timeout_seconds: float) -> bytes:
    return json.dumps({"method": method, "params": params, "timeout_seconds": timeout_seconds}).encode() + b"\n"


async def _exchange(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path, limit=MAXIMUM_MESSAGE_BYTES)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ValueError("no whole line") from error
    finally:
        writer.close()


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(65_536)
        if not piece or len(received) > MAXIMUM_MESSAGE_BYTES:
            raise ValueError("no whole line")
        received += piece
    return bytes(received)


def _result(reply: dict[str, Any], params: dict[str, Any]) -> Any:
    if "error" not in reply:
        return reply["result"]
    raise _error(reply["error"], params)


def _error(error: dict[str, str], params: dict[str, Any]) -> Exception:
    match error["kind"]:
        case "unknown_provider":
            return UnknownProvider(str(params["model"]))
        case "call_failed":
            return LlmCallFailed(error["message"], kind=error["name"])
        case _:
            return LlmProcessDown(error["message"])
