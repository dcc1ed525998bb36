"""Ports and host names of this machine."""

from __future__ import annotations

import ipaddress
import random
import socket

# Below what Linux (32768) and macOS (49152) hand to outgoing connections, so that a port is still free when its
# program is started again hours later.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses."""
    for port in random.sample(range(_FIRST_PORT, _LAST_PORT), 200):
        if why_not_free("127.0.0.1", port) is None:
            return port
    raise OSError(f"no port between {_FIRST_PORT} and {_LAST_PORT} is free")


def why_not_free(host: str, port: int) -> str | None:
    """Return why a program could not listen there, or None when it could."""
    if not 0 < port < 65_536:
        return "ports go from 1 to 65535"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # A port whose last connections are still winding down can be listened on, and servers do.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except socket.gaierror:
        return f"{host} is no address of this machine"
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a program that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def reachable_at(host: str) -> str:
    """Return what to write into a URL for a program on this machine that listens there."""
    if is_wildcard(host):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def own_names(host: str) -> list[str]:
    """Return the names others on the network may use for a program that listens on `host`."""
    if is_loopback(host):
        return []
    if not is_wildcard(host):
        return [reachable_at(host)]
    names = [socket.gethostname()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only makes the kernel choose an address (RFC 5737)
            names.append(probe.getsockname()[0])
        except OSError:  # no network
            return names
    return names
