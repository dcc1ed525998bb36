"""One request to an agent-server: sent within a deadline, answered with JSON or with a class of `exceptions`.

No text of an error holds the session API key or anything secret of what was sent.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson

from chatgateway.agentserver.exceptions import (
    AgentServerError,
    CapacityReached,
    Rejected,
    Unauthorized,
    Unreachable,
)
from chatgateway.agentserver.schemas import Json

# uvicorn closes a connection after 5 s without a request (the agent-server keeps that default). Letting go earlier
# spares us the race between its closing and our next request.
KEEP_ALIVE_SECONDS = 4.0

_DETAIL_CHARS = 500


class Dropped(Unreachable):
    """The connection broke, or time ran out, after the request had gone out, or may have."""


class ServerFailed(Unreachable):
    """The server answered with a 5xx."""


class Budget:
    """The time that a call made of several requests has left."""

    def __init__(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + seconds

    @property
    def left(self) -> float:
        """Seconds, never 0: aiohttp takes that for no limit."""
        return max(0.001, self._until - self._clock())


def new_http_session() -> aiohttp.ClientSession:
    """The one HTTP session of a process, for all agent-servers; its owner closes it.

    No limit on connections: admission is by slots, and every running turn holds a socket. No cookies: the servers set
    some for browsers. No proxy from the environment, no total time-out: every call brings its own.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"User-Agent": "openhands-gateway", "Accept-Encoding": "identity"},
        trust_env=False,
    )


class Rest:
    """Requests to one server with one key."""

    def __init__(self, *, base_url: str, session_api_key: str, http: aiohttp.ClientSession) -> None:
        self._base_url = base_url
        self._session_api_key = session_api_key
        self._http = http

    async def call_twice(self, method: str, path: str, *, timeout_seconds: float, **request: Any) -> tuple[int, Any]:
        """`call`, once more if the connection breaks off: for requests whose repetition changes nothing."""
        budget = Budget(timeout_seconds)
        try:
            return await self.call(method, path, timeout_seconds=budget.left, **request)
        except Dropped:
            return await self.call(method, path, timeout_seconds=budget.left, **request)

    async def call(
        self,
        method: str,
        path: str,
        *,
        timeout_seconds: float,
        json: Json | None = None,
        missing: type[AgentServerError] | None = None,
        hide: tuple[str, ...] = (),
    ) -> tuple[int, Any]:
        """Status and parsed body of a 2xx answer; anything else is raised. `missing` is what a 404 means."""
        what = f"{method} {path.partition('?')[0]}"
        try:
            data = None if json is None else orjson.dumps(json)
        except orjson.JSONEncodeError as error:  # half of a surrogate pair, or an integer beyond 64 bits
            raise Rejected(422, f"{what}: what was to be sent is not valid JSON: {error}") from error
        try:
            async with self._http.request(
                method,
                self._base_url + path,
                data=data,
                headers={"X-Session-API-Key": self._session_api_key, "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
                allow_redirects=False,
            ) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise Unreachable(f"{what}: no connection: {type(error).__name__}") from error
        except TimeoutError as error:
            raise Dropped(f"{what}: no answer within {timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped(f"{what}: the connection broke off: {type(error).__name__}") from error
        except ValueError as error:  # a line break in a header
            raise Unauthorized("the session API key holds characters that cannot be sent") from error
        if 200 <= status < 300:
            return status, _parsed(body, what)
        said = _without((self._session_api_key, *hide), _detail(body))
        detail = f"{what}: {said[:_DETAIL_CHARS]}"
        raise _failure(status, detail, missing)


def _failure(status: int, detail: str, missing: type[AgentServerError] | None) -> AgentServerError:
    match status:
        case 401:
            return Unauthorized("the agent-server refused the session API key")
        case 404 if missing is not None:
            return missing(detail)
        case 429:
            return CapacityReached(detail)
        case _ if status >= 500:
            return ServerFailed(f"{status}: {detail}")
        case _:
            return Rejected(status, detail)


def _detail(body: bytes) -> str:
    """What the server says went wrong. Of a validation error only place and rule: the input may hold a secret."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[: 4 * _DETAIL_CHARS].decode(errors="replace")
    detail = parsed.get("detail") if isinstance(parsed, dict) else None
    if isinstance(detail, list):
        return "; ".join(_problem(problem) for problem in detail if isinstance(problem, dict))
    exception = parsed.get("exception") if isinstance(parsed, dict) else None
    return " ".join(str(part) for part in (detail, exception) if part)


def _problem(problem: Json) -> str:
    place = problem.get("loc")
    return f"{'.'.join(map(str, place)) if isinstance(place, list) else place}: {problem.get('msg')}"


def _without(secrets: tuple[str, ...], text: str) -> str:
    for secret in secrets:
        if len(secret) >= 4:  # shorter ones would blot out ordinary words
            text = text.replace(secret, "***")
    return text


def _parsed(body: bytes, what: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreachable(f"{what}: the answer is not JSON; is this an agent-server?") from error
