from __future__ import annotations

import socket

import pytest

from gateway_project.supervisor import network


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("gateway.example", False),
    ],
)
def test_only_addresses_of_this_machine_alone_count_as_loopback(host: str, answer: bool) -> None:
    assert network.is_loopback(host) is answer


@pytest.mark.parametrize(
    ("host", "url_host"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]")]
)
def test_a_url_for_this_machine(host: str, url_host: str) -> None:
    assert network.reachable_at(host) == url_host


def test_a_taken_port_is_told_from_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = network.why_not_free("127.0.0.1", port)

    assert taken == "Address already in use"
    assert network.why_not_free("127.0.0.1", port) is None


@pytest.mark.parametrize(("host", "port"), [("192.0.2.7", 8000), ("no-such-host.invalid", 8000), ("127.0.0.1", 99999)])
def test_an_impossible_address_is_a_reason_and_not_an_exception(host: str, port: int) -> None:
    assert network.why_not_free(host, port)


def test_a_loopback_address_has_no_name_others_could_use() -> None:
    assert network.own_names("127.0.0.1") == []


def test_listening_everywhere_is_reachable_by_the_machine_s_name() -> None:
    assert socket.gethostname() in network.own_names("0.0.0.0")
