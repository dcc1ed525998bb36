"""Fixtures of the whole suite. Their names are the glossary's."""

from __future__ import annotations

import functools
import inspect
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management.color import no_style
from django.db import connection
from django.test import TransactionTestCase
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from openai import OpenAI

from chatgateway.models.texts import SQLITE_INDEX
from tests import factories
from tests.fakes.agent_server import FakeAgentServer
from tests.gateway_process import LiveGateway

# How fast examples are made says how busy the machine is, not whether the code is right.
hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")

# Every HTTP client reads the certificate authorities' file, which took a third of the suite's time. The file does not
# change, and no test changes a context.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]

# What the migrations left is needed by all tests and changed by none.
_KEPT_TABLES = ("django_content_type", "auth_permission")


def _empty_tables(case: Any) -> None:
    """Empty the tables after a test with transactions of its own, as Django does, but keep the permissions: making them
    again after each such test took a quarter of the suite's time."""
    kept = {"django_migrations", *_KEPT_TABLES}
    every = connection.introspection.table_names()
    # SQLite's index of texts, and the tables it is made of, are emptied by triggers.
    tables = [name for name in every if name not in kept and not name.startswith(SQLITE_INDEX)]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables))


TransactionTestCase._fixture_teardown = _empty_tables  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests on asgiref's loop, so that `sync_to_async` comes back to the test's own thread and its
    database connection: with another event loop the ORM would meet a locked database or leak rows."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    async_to_sync(pyfuncitem.obj)(**arguments)
    return True


@pytest.fixture(autouse=True)
def _fresh_process_state() -> Iterator[None]:
    """What a process remembers between requests must not reach the next test's database."""
    from chatgateway import servers
    from profiles import access, authentication, bookkeeping

    def forget() -> None:
        access.forget_all()
        authentication.attempts.forget_all()
        bookkeeping.discard()
        servers.forget()

    forget()
    yield
    forget()


@pytest.fixture
def agent_server() -> Iterator[FakeAgentServer]:
    """A fake agent-server on a loopback port, known to the gateway by nobody yet."""
    fake = FakeAgentServer()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def gateway(transactional_db: None) -> Iterator[LiveGateway]:
    """The gateway behind a real socket, in this process: uvicorn, the dispatcher, the drivers, the writer."""
    running = LiveGateway()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def served(gateway: LiveGateway, agent_server: FakeAgentServer) -> LiveGateway:
    """A gateway with one agent-server, one profile without tools (`chat`) and one key."""
    factories.agent_server(url=agent_server.url, session_api_key=agent_server.session_api_key)
    factories.profile(slug="chat")
    gateway.key = factories.api_key().text
    return gateway


@pytest.fixture
def client(served: LiveGateway) -> Iterator[OpenAI]:
    """The stock OpenAI client, with its retries off so that each test sees what it asked for."""
    with OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=100) as stock:
        yield stock


@pytest.fixture
def client_with(served: LiveGateway) -> Iterator[Callable[..., OpenAI]]:
    """Makes stock clients with options of the test's own."""
    made: list[OpenAI] = []

    def make(**options: Any) -> OpenAI:
        given = {"base_url": f"{served.url}/v1", "api_key": served.key, "max_retries": 0, "timeout": 20} | options
        made.append(OpenAI(**given))
        return made[-1]

    yield make
    for stock in made:
        stock.close()
