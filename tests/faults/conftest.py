"""The site of a scenario, and the table of all of them at the end of the run.

`@pytest.mark.scenario("…")` names the row of the table; `docs/explanation/faults.md` has the same rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from profiles.models import Profile
from tests.faults import table
from tests.faults.books import Balance
from tests.faults.site import Site
from tests.live.agent_process import AgentServerProcess, agent_server_process
from tests.live.conftest import register
from tests.live.scripted_llm import ScriptedLlm

BALANCES = pytest.StashKey[list[Balance]]()
IS_FULL = os.environ.get("HYPOTHESIS_PROFILE") == "full"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BALANCES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("full") and not IS_FULL:
            item.add_marker(
                pytest.mark.skip(reason="takes long: HYPOTHESIS_PROFILE=full runs it, as .ci/run full does")
            )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    balances = config.stash[BALANCES]
    if not balances:
        return
    rows = table.rows_of(balances)
    lines = [list(table.HEADS.values()), *rows.values()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    terminalreporter.section("faults")
    for row in lines:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if os.environ.get("FAULTS_TABLE") == "write":
        table.document(rows)


@pytest.fixture
def site(request: pytest.FixtureRequest, transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """Nobody is there yet: the test starts what it needs."""
    marked = request.node.get_closest_marker("scenario")
    assert marked is not None, "a fault test is marked with the scenario it plays"
    made = Site(directory=tmp_path, scenario=marked.args[0], balances=request.config.stash[BALANCES])
    yield made
    made.close()


@pytest.fixture
def real_llm(site: Site) -> Iterator[ScriptedLlm]:
    with ScriptedLlm() as scripted:
        Profile.objects.update(llm_api_key=scripted.key, llm_base_url=scripted.url)
        site.llms.append(scripted)
        yield scripted


@pytest.fixture
def real_agent_server(site: Site) -> Iterator[AgentServerProcess]:
    with agent_server_process(Path(tempfile.mkdtemp(prefix="agent-server-"))) as running:
        register(running)
        yield running


@pytest.fixture
def postgres(transactional_db: None) -> None:
    """For faults of a database that is a server, and for several processes that write at once."""
    if connection.vendor != "postgresql":
        pytest.skip("needs PostgreSQL: run with GATEWAY_DATABASE_URL=postgres://…")


@pytest.fixture
def sqlite(transactional_db: None) -> None:
    """For faults of a database that is a file."""
    if connection.vendor != "sqlite":
        pytest.skip("needs SQLite, the default")
