"""An index that a migration adds while turns go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader
from django.db.transaction import TransactionManagementError, atomic

from chatgateway.concurrent_index import AddIndexWhileInUse
from chatgateway.models import Turn

NAME = "turn_of_a_test"
TABLE = Turn._meta.db_table


@pytest.fixture
def operation() -> AddIndexWhileInUse:
    return AddIndexWhileInUse("turn", models.Index(fields=["error_code"], name=NAME))


@pytest.fixture(autouse=True)
def _without_it(transactional_db: None) -> Iterator[None]:
    yield
    with connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX IF EXISTS {NAME}")


def run(operation: AddIndexWhileInUse, direction: str = "database_forwards") -> None:
    before = MigrationLoader(None).project_state(at_end=True)
    after = before.clone()
    operation.state_forwards("chatgateway", after)
    states = (before, after) if direction == "database_forwards" else (after, before)
    with connection.schema_editor(atomic=False) as editor:
        getattr(operation, direction)("chatgateway", editor, *states)


def indexes() -> dict[str, Any]:
    with connection.cursor() as cursor:
        return connection.introspection.get_constraints(cursor, TABLE)


def test_the_index_is_there_and_can_be_taken_back(operation: AddIndexWhileInUse) -> None:
    run(operation)
    assert indexes()[NAME]["columns"] == ["error_code"]

    run(operation, "database_backwards")
    assert NAME not in indexes()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer and builds indexes at once")
def test_what_an_interrupted_run_left_is_replaced(operation: AddIndexWhileInUse) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE INDEX {NAME} ON {TABLE} (outcome)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(%s)", [NAME])

    run(operation)

    with connection.cursor() as cursor:
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [NAME])
        assert cursor.fetchone() == (True,)
    assert indexes()[NAME]["columns"] == ["error_code"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer and builds indexes at once")
def test_it_says_what_its_migration_lacks(operation: AddIndexWhileInUse) -> None:
    with atomic(), pytest.raises(TransactionManagementError, match="atomic = False"):
        run(operation)
