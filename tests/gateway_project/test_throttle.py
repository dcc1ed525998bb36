"""Guessing the password of an administrator: over two processes, from one address and from others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command
from django.test import Client, RequestFactory
from django.urls import reverse
from pytest_django import Settings

from gateway_project.sign_in.throttle import counted_address
from tests import factories
from tests.faults.processes import GatewayProcess


def token_in(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found is not None
    return found.group(1)


def attempt(url: str, *, username: str = "root", password: str = "wrong", address: str = "203.0.113.9") -> Any:
    """One try in a browser of its own, through the proxy on this machine."""
    with httpx.Client(base_url=url, headers={"X-Forwarded-For": address}, timeout=60) as browser:
        token = token_in(browser.get("/admin/login/").text)
        form = {"username": username, "password": password, "csrfmiddlewaretoken": token}
        return browser.post("/admin/login/", data=form)


@pytest.fixture
def urls(transactional_db: None, tmp_path: Path) -> Iterator[list[str]]:
    """Two gateway processes behind a proxy on this machine."""
    started = [GatewayProcess(data_dir=tmp_path, GATEWAY_TRUSTED_PROXIES="127.0.0.1") for _ in range(2)]
    yield [process.wait_until_ready().url for process in started]
    for process in started:
        process.kill()


def test_five_failures_at_any_process_lock_that_name_out_for_that_address_alone(urls: list[str]) -> None:
    one, two = urls
    factories.person(username="root", is_superuser=True)
    factories.person(username="other", is_superuser=True)

    failed = [attempt(url).status_code for url in (one, two, one, two)]
    last = attempt(one)
    right = [attempt(url, password="x") for url in urls]
    elsewhere = attempt(one, password="x", address="203.0.113.10")
    somebody_else = attempt(two, username="other", password="x")

    assert failed == [200] * 4
    assert [reply.status_code for reply in (last, *right)] == [429] * 3
    assert "for 15 minutes after the last failure" in " ".join(right[0].text.split())
    assert right[0].headers["retry-after"] == "900"
    assert (elsewhere.status_code, somebody_else.status_code) == (302, 302)


def test_the_operator_can_let_them_try_again(urls: list[str]) -> None:
    factories.person(username="root", is_superuser=True)
    [attempt(urls[0]) for _ in range(5)]
    said = StringIO()

    call_command("axes_reset_username", "root", stdout=said)

    assert said.getvalue() == "1 attempts removed.\n"
    assert attempt(urls[1], password="x").status_code == 302


@pytest.mark.django_db
def test_a_sign_in_forgets_the_failures_before_it() -> None:
    factories.person(username="root", is_superuser=True)
    passwords = ["wrong"] * 4 + ["x"] + ["wrong"] * 4 + ["x"]

    statuses = [
        Client().post(reverse("admin:login"), {"username": "root", "password": password}).status_code
        for password in passwords
    ]

    assert statuses == [*[200] * 4, 302] * 2


@pytest.mark.django_db
def test_the_lock_ends_by_itself_even_for_whoever_keeps_trying(settings: Settings) -> None:
    factories.person(username="root", is_superuser=True)

    def post(password: str) -> int:
        return Client().post(reverse("admin:login"), {"username": "root", "password": password}).status_code

    locked = [post("wrong") for _ in range(8)]
    settings.AXES_COOLOFF_TIME *= 0  # what the passing of time does: every failure was longer ago than this

    assert locked == [200] * 4 + [429] * 4
    assert post("x") == 302


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("", None),
    ],
)
def test_an_ipv6_host_is_counted_by_its_network(address: str, counted: str | None) -> None:
    assert counted_address(RequestFactory().get("/", REMOTE_ADDR=address)) == counted
