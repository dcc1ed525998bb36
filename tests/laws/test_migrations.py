"""Old and new code run side by side during an upgrade: the new schema must be one that the old code can live with.

`docs/explanation/migrations.md` has the rules and what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from django.apps import apps
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models.fields import NOT_PROVIDED

from chatgateway.concurrent_index import AddIndexWhileInUse

APPS = ("profiles", "chatgateway")
# Millions of rows in use: nothing may lock them for longer than a moment.
LARGE = {"turn", "event", "frame", "message", "attempt", "ledgerentry", "conversation"}
# Nobody has run a release from before these. After 0.1.0 nothing is added here.
BEFORE_THE_FIRST_RELEASE = {
    ("chatgateway", "0002_turns_that_survive"),
    ("chatgateway", "0003_continuing_by_history"),
    ("chatgateway", "0004_ceilings"),
    ("chatgateway", "0005_structured_output"),
    ("chatgateway", "0006_housekeeping_and_elided_histories"),
    ("chatgateway", "0007_governance"),
    ("chatgateway", "0009_responses"),
    ("profiles", "0002_turns_that_survive"),
    ("profiles", "0003_continuing_by_history"),
    ("profiles", "0005_strict_keys"),
    ("profiles", "0006_housekeeping_and_context_window"),
}
# (app, migration, operation): why it is safe all the same. A removal needs a release in between that no longer uses
# the column; name that release.
ALLOWED: dict[tuple[str, str, str], str] = {}

Shown = tuple[str, str]


class Breach(NamedTuple):
    migration: Shown
    what: str


def breaches(operation: Operation, state: ProjectState, *, app: str, created: set[str]) -> Iterator[str]:
    """What the old code, or whoever writes meanwhile, would not survive."""
    model = getattr(operation, "model_name", getattr(operation, "name", "")).lower()
    if model in created:
        return
    match operation:
        case migrations.AddField(field=field) if not _can_be_left_out(field):
            yield f"adds {model}.{operation.name}, which the old code does not write: null=True or db_default"
        case migrations.AlterField(field=field):
            before = state.models[app, model].fields[operation.name]
            yield from (f"{problem} of {model}.{operation.name}" for problem in _narrowed(before, field))
        case migrations.RemoveField() | migrations.DeleteModel():
            yield f"removes {model}.{getattr(operation, 'name', '')}, which the old code reads"
        case migrations.RenameField() | migrations.RenameModel() | migrations.AlterModelTable():
            yield f"renames within {model or app}, which the old code knows by its old name"
        case AddIndexWhileInUse():
            return
        case migrations.AddIndex() if model in LARGE:
            yield f"locks {model} while it builds an index: AddIndexWhileInUse"
        case migrations.AddConstraint() if model in LARGE:
            yield f"locks {model} while it looks at every row"
        case migrations.AlterUniqueTogether() | migrations.RunSQL():
            yield f"{type(operation).__name__}: nobody can tell what it does to the old code"
        case migrations.RunPython(reversible=False):
            yield "cannot be taken back"


def _can_be_left_out(field: models.Field[Any, Any]) -> bool:
    return field.null or field.many_to_many or field.db_default is not NOT_PROVIDED


def _narrowed(before: models.Field[Any, Any], after: models.Field[Any, Any]) -> Iterator[str]:
    if before.null and not after.null and after.db_default is NOT_PROVIDED:
        yield "forbids the empty value"
    if before.max_length and after.max_length and after.max_length < before.max_length:
        yield "shortens the values"
    if before.get_internal_type() != after.get_internal_type():
        yield "changes the type"


def found() -> list[Breach]:
    loader = MigrationLoader(None)
    result = []
    for key in sorted(key for key in loader.disk_migrations if key[0] in APPS):
        migration = loader.disk_migrations[key]
        state = loader.project_state(key, at_end=False)
        created: set[str] = set()
        for operation in migration.operations:
            if isinstance(operation, migrations.CreateModel):
                created.add(operation.name.lower())
            result += [
                Breach(key, what) for what in breaches(operation, state, app=key[0], created=created)
            ]  # fmt: skip
            operation.state_forwards(key[0], state)
    return result


FOUND = found()


def test_no_migration_breaks_what_runs_meanwhile() -> None:
    wrong = [
        breach
        for breach in FOUND
        if breach.migration not in BEFORE_THE_FIRST_RELEASE and (*breach.migration, breach.what) not in ALLOWED
    ]

    assert wrong == [], "see docs/explanation/migrations.md; before 0.1.0 is out, BEFORE_THE_FIRST_RELEASE takes it too"


def test_every_exception_is_needed() -> None:
    assert {breach.migration for breach in FOUND} >= BEFORE_THE_FIRST_RELEASE
    assert {(*breach.migration, breach.what) for breach in FOUND} >= set(ALLOWED)


def test_large_tables_are_there() -> None:
    assert {model._meta.model_name for model in apps.get_app_config("chatgateway").get_models()} >= LARGE


# --- the rules themselves -----------------------------------------------------------------------------------------

TEXT = models.CharField(max_length=20)
INDEX = models.Index(fields=["outcome"], name="x")
CHECK = models.CheckConstraint(condition=models.Q(pk__gt=0), name="x")


@pytest.fixture(scope="module")
def state() -> ProjectState:
    return MigrationLoader(None).project_state(at_end=True)


def said(operation: Operation, state: ProjectState, created: set[str] | None = None) -> bool:
    return bool(list(breaches(operation, state, app="chatgateway", created=created or set())))


@pytest.mark.parametrize(
    "operation",
    [
        migrations.AddField("turn", "mood", models.CharField(max_length=20, default="good")),
        migrations.AlterField("agentserver", "health_checked_at", models.DateTimeField()),
        migrations.AlterField("agentserver", "name", TEXT),
        migrations.AlterField("agentserver", "capacity", models.TextField()),
        migrations.RemoveField("agentserver", "name"),
        migrations.DeleteModel("agentserver"),
        migrations.RenameField("agentserver", "name", "title"),
        migrations.RenameModel("agentserver", "server"),
        migrations.AddIndex("turn", INDEX),
        migrations.AddConstraint("turn", CHECK),
        migrations.RunSQL("SELECT 1"),
        migrations.RunPython(migrations.RunPython.noop),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_the_old_code_would_not_survive_is_found(operation: Operation, state: ProjectState) -> None:
    assert said(operation, state)


@pytest.mark.parametrize(
    "operation",
    [
        migrations.AddField("turn", "mood", models.CharField(max_length=20, null=True)),
        migrations.AddField("turn", "mood", models.CharField(max_length=20, db_default="good")),
        migrations.AlterField("agentserver", "name", models.CharField(max_length=500)),
        migrations.AddIndex("agentserver", INDEX),
        AddIndexWhileInUse("turn", INDEX),
        migrations.RunPython(migrations.RunPython.noop, migrations.RunPython.noop),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_it_survives_is_let_through(operation: Operation, state: ProjectState) -> None:
    assert not said(operation, state)


def test_a_table_of_the_same_migration_may_be_anything(state: ProjectState) -> None:
    assert not said(migrations.AddField("mood", "name", TEXT), state, {"mood"})
