"""The process that has LiteLLM loaded: answers `llm_client` over a Unix socket that only this user can open.

One request per connection, one line of JSON each way. LiteLLM is synchronous and may hang in a provider's network
code, so each request runs in a daemon thread of its own that nobody waits for beyond its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from profiles import llm, llm_client, process_guard
from profiles.exceptions import LlmCallFailed, LlmProcessDown, UnknownProvider

logger = logging.getLogger(__name__)

# Look-ups take milliseconds of one CPU; calls wait for a provider. More at once are refused, not queued: whoever
# asks is a person at a form, a task that comes again, or a chat UI's title, for which the gateway has another answer.
LOOKUPS_AT_ONCE = 8
CALLS_AT_ONCE = 32
# However long a client is ready to wait.
LONGEST_SECONDS = 600.0


class AlreadyRunning(Exception):
    """Another llm process listens at the same socket."""


class LlmProcess:
    """Answers requests until it is told to stop."""

    def __init__(self) -> None:
        self._lookups = _Room(LOOKUPS_AT_ONCE)
        self._calls = _Room(CALLS_AT_ONCE)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            async with asyncio.timeout(LONGEST_SECONDS + 5):
                try:
                    line = await reader.readline()
                except ValueError:  # longer than MAXIMUM_MESSAGE_BYTES
                    line = b""
                reply = await self._reply(line)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError):
            pass  # the client has gone, or never said anything
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            method, params = request["method"], request["params"]
            seconds = min(float(request["timeout_seconds"]), LONGEST_SECONDS)
            question, room = self._question(method)
        except (ValueError, KeyError, TypeError):
            return _error("bad_request", "The request could not be read.")
        try:
            async with asyncio.timeout(seconds):
                return {"result": await room.run(lambda: question(**params))}
        except UnknownProvider as error:
            return _error("unknown_provider", error.model)
        except LlmCallFailed as error:
            return _error("call_failed", error.message, name=error.kind)
        except LlmProcessDown as error:
            return _error("busy", str(error))
        except TimeoutError:
            return _error("deadline", f"No answer within {seconds:g} s.")
        except Exception:
            # The outer edge of a request: the process goes on, its client is told, the log has the cause.
            logger.exception("a request to the llm process failed")
            return _error("internal", "The llm process failed at this request; its log says why.")

    def _question(self, method: str) -> tuple[Callable[..., Any], _Room]:
        if method == "complete":
            return lambda **params: asdict(llm.complete(**params)), self._calls
        lookups: dict[str, Callable[..., Any]] = {
            "ping": lambda: "pong",
            "describe_model": lambda **params: asdict(llm.describe_model(**params)),
            "search_models": lambda **params: [asdict(offer) for offer in llm.search_models(**params)],
            "provider_names": llm.provider_names,
        }
        return lookups[method], self._lookups


class _Room:
    """Runs functions in daemon threads, so many at once. A thread that outlives its request still takes its place."""

    def __init__(self, places: int) -> None:
        self._free = places

    async def run(self, work: Callable[[], Any]) -> Any:
        if self._free <= 0:
            raise LlmProcessDown("The llm process has too much to do. Try again in a moment.")
        self._free -= 1
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def finish(result: Any, error: Exception | None) -> None:
            self._free += 1
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        def run() -> None:
            outcome: tuple[Any, Exception | None]
            try:
                outcome = (work(), None)
            except Exception as error:  # handed on to whoever waits  # noqa: BLE001
                outcome = (None, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                loop.call_soon_threadsafe(finish, *outcome)

        threading.Thread(target=run, daemon=True).start()
        return await done


def serve(*, exits_with_parent: bool, on_ready: Callable[[Path], None]) -> None:
    """Listen until SIGTERM or SIGINT, or until the parent is gone. Raises AlreadyRunning, LlmProcessDown.

    The socket appears when LiteLLM is loaded, so a client that can connect will be answered.
    """
    parent = os.getppid() if exits_with_parent else None
    process_guard.hide_from_same_user()
    path = llm_client.socket_path()
    with _exclusive(path):
        path.unlink(missing_ok=True)  # a leftover: nobody else can be listening while we hold the lock
        try:
            asyncio.run(_serve(path, parent=parent, on_ready=on_ready))
        finally:
            path.unlink(missing_ok=True)


async def _serve(path: Path, *, parent: int | None, on_ready: Callable[[Path], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    ends: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
    if parent is not None:
        ends.append(asyncio.create_task(process_guard.until_orphaned(parent)))
    loading = asyncio.create_task(_in_daemon_thread(llm.load))
    await asyncio.wait([*ends, loading], return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()
        server = await _listen(path)
        on_ready(path)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        server.close()
    for task in (*ends, loading):
        task.cancel()
    await asyncio.gather(*ends, loading, return_exceptions=True)


async def _listen(path: Path) -> asyncio.Server:
    before = os.umask(0o177)  # the socket is made with mode 0600, not changed to it afterwards
    try:
        return await asyncio.start_unix_server(LlmProcess().answer, path=path, limit=llm_client.MAXIMUM_MESSAGE_BYTES)
    finally:
        os.umask(before)


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    await _Room(1).run(work)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock beside the socket, in a directory of our own. The lock ends with the process, however it ends."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    llm_client.private_directory(path.parent)
    with path.with_name(path.name + ".lock").open("a") as lock:
        _lock(lock, path)
        yield


def _lock(lock: TextIO, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(f"Another llm process listens at {path}.") from None


def _error(kind: str, message: str, *, name: str = "") -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "name": name}}
