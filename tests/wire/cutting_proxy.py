"""A proxy that breaks a connection in the middle of a reply."""

from __future__ import annotations

import socket
import threading
from typing import Self


class CuttingProxy:
    """Passes bytes between clients and a port of this machine. The first reply ends after `cut_after` bytes."""

    def __init__(self, target_port: int, *, cut_after: int) -> None:
        self.cuts = 0
        self._cut_after = cut_after
        self._target = ("127.0.0.1", target_port)
        self._sockets: list[socket.socket] = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._sockets[0].getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            _end(one)
        for thread in self._threads:
            thread.join(5)
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sockets[0].accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            limit = None if self.cuts else self._cut_after
            self.cuts += limit is not None
            for source, sink, most in ((client, server, None), (server, client, limit)):
                self._threads.append(threading.Thread(target=_pass_on, args=(source, sink, most), daemon=True))
                self._threads[-1].start()


def _pass_on(source: socket.socket, sink: socket.socket, most: int | None) -> None:
    """Until one side ends, or once at most so many bytes."""
    try:
        while data := source.recv(65536):
            sink.sendall(data[:most])
            if most is not None:
                break
    except OSError:
        pass  # the other thread of the connection has ended it
    _end(source)
    _end(sink)


def _end(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was over already
