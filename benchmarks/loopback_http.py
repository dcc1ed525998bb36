"""A small HTTP/1.1 and WebSocket server, cheap enough that what stands in front of it is what gets measured.

Only for the imitations in this directory: it trusts its clients, reads whole bodies, and knows no TLS.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import cast

_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


class Exchange(asyncio.Protocol):
    """One connection. A subclass answers requests with `reply`, or `open_websocket`, or a chunked stream."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._buffer = b""
        self._is_websocket = False

    # --- for subclasses ---------------------------------------------------------------------------------------------

    def requested(self, method: str, path: str, head: bytes, body: bytes) -> None:
        """A whole request is there. `head` is all of it before the blank line."""
        raise NotImplementedError

    def received(self, text: bytes) -> None:
        """A text message came over the WebSocket."""

    def lost(self) -> None:
        """The connection is over."""

    def reply(self, status: str, body: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (status.encode(), len(body), body)
        )

    def open_websocket(self, head: bytes) -> None:
        key = header(head, b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest())
        self._is_websocket = True
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: " + accept + b"\r\n\r\n"
        )

    def close_websocket(self, code: int) -> None:
        self.transport.write(b"\x88\x02" + code.to_bytes(2, "big"))
        self.transport.close()

    # --- the protocol -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and (self._take_message() if self._is_websocket else self._take_request()):
            pass

    def _take_request(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[:end]
        length = int(header(head, b"content-length") or 0)
        if len(self._buffer) < end + 4 + length:
            return False
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        method, path, _ = head[: head.find(b"\r\n")].decode().split(" ", 2)
        self.requested(method, path, head, body)
        return True

    def _take_message(self) -> bool:
        data = self._buffer
        if len(data) < 6:
            return False
        length, start = data[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start + 4 + length:
            return False
        mask, payload = data[start : start + 4], data[start + 4 : start + 4 + length]
        self._buffer = data[start + 4 + length :]
        payload = _unmasked(payload, mask)
        match data[0] & 0x0F:
            case 0x1 | 0x2:
                self.received(payload)
            case 0x8:
                self.transport.write(frame(payload[:2], opcode=_CLOSE))
                self.transport.close()
            case 0x9:
                self.transport.write(frame(payload, opcode=_PONG))
        return True


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header in `head`, empty if it is not there. `name` in lower case."""
    lowered = head.lower()
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = lowered.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].strip()


def frame(payload: bytes, *, opcode: int = _TEXT) -> bytes:
    """A WebSocket frame as a server sends it."""
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 65536:
        return bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big") + payload


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    length = len(payload)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")


def serve(connection: Callable[[], Exchange], *, port: int) -> None:
    """Serve on loopback until SIGTERM ends the process."""
    import uvloop

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", port, backlog=2048)
        await server.serve_forever()

    uvloop.run(forever())
