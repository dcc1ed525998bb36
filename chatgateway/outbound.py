"""One POST to a URL an operator has set, such that the name behind it cannot be turned against the gateway's network.

The name is resolved once, every address is checked, and the connection goes to the address that was checked.
Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0
_READ_BYTES = 4096


class OutboundError(Exception):
    """The request was not sent, or was not answered with a 2xx. The message is for operators."""


def post(url: str, *, body: bytes, signed: dict[str, str], allows_private: bool) -> None:
    """Send `body`, which is JSON, with the headers `signed`; return when the answer is a 2xx. Raises OutboundError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    if parts.scheme not in {"http", "https"} or not host:
        raise OutboundError("The URL must be http:// or https:// with a host.")
    port = parts.port or (443 if is_tls else 80)
    address = _address_of(host, port, allows_private=allows_private)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _Connection(host, port, address=address, is_tls=is_tls)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"} | signed)
        answer = connection.getresponse()
        answer.read(_READ_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise OutboundError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise OutboundError(f"It answered {answer.status} {answer.reason}.")


def _address_of(host: str, port: int, *, allows_private: bool) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OutboundError(f"The host {host} was not found: {error}.") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not allows_private and not _is_public(address):
            raise OutboundError(
                f"{host} is the address {address}, which is not public. GATEWAY_WEBHOOK_ALLOW_PRIVATE=true permits it."
            )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_global and not parsed.is_multicast


class _Connection(http.client.HTTPConnection):
    """To an address that was checked, under the host's own name."""

    def __init__(self, host: str, port: int, *, address: str, is_tls: bool) -> None:
        super().__init__(host, port, timeout=TIMEOUT_SECONDS)
        self._address = address
        self._tls = ssl.create_default_context() if is_tls else None
        self.default_port = 443 if is_tls else 80  # what is left out of the Host header

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host) if self._tls else plain
