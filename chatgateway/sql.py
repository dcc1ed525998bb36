"""INSERT and UPDATE for the statements that every turn runs, without compiling them every time.

Django builds the SQL of a statement anew on each call: for a row of sixty columns that takes longer than the
database needs to write it, and a turn writes a dozen rows one after the other (measured: 9 of 13 ms of a turn's CPU).
The text depends on the model and the columns alone, so it is made once here. Values are adapted by Django's own
fields. Everything else uses the ORM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from django.db import connection, models
from django.db.models.expressions import BaseExpression

# Any number, as long as nothing else in the database locks on it.
_PLACEMENT_LOCK = 0x6F68_6777


def lock_placement() -> None:
    """Have the lock under which turns are opened and slots given away, until the transaction ends.

    Whoever takes it does so before any row of the traffic is locked: two processes that took rows and the lock in
    opposite orders would wait for one another. SQLite's transactions are exclusive from their beginning.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_PLACEMENT_LOCK])


def insert(rows: Sequence[models.Model], *, ignore_conflicts: bool = False) -> None:
    """Write new rows of one model. `ignore_conflicts` passes over those that break a unique constraint.

    Automatic primary keys are not read back.
    """
    if not rows:
        return
    model = type(rows[0])
    columns = _written_columns(model)
    marks = []
    parameters: list[Any] = []
    for row in rows:
        row_marks = []
        for field, name, plain in columns:
            value = field.pre_save(row, add=True) if name is None else getattr(row, name)
            if type(value) in plain:
                row_marks.append("%s")
                parameters.append(value)
                continue
            mark, values = _adapted(field, value)
            row_marks.append(mark)
            parameters += values
        marks.append(f"({', '.join(row_marks)})")
    ending = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    with connection.cursor() as cursor:
        cursor.execute(f"{_insert_head(model, connection.vendor)} {', '.join(marks)}{ending}", parameters)
    for row in rows:
        row._state.adding = False
        row._state.db = connection.alias


def update(model: type[models.Model], *, where: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    """Write `changes` to the rows whose columns equal `where` (None: are null); return how many there were.

    Names are those of the model's fields, foreign keys with or without `_id`.
    """
    parameters: list[Any] = []
    assignments = []
    for name, value in changes.items():
        field = _field(model, name)
        mark, values = _adapted(field, value.pk if isinstance(value, models.Model) else value)
        assignments.append(f"{_quoted(field)} = {mark}")
        parameters += values
    conditions = []
    for name, value in where.items():
        field = _field(model, name)
        if value is None:
            conditions.append(f"{_quoted(field)} IS NULL")
            continue
        conditions.append(f"{_quoted(field)} = %s")
        parameters.append(field.get_db_prep_value(value, connection))
    table = connection.ops.quote_name(model._meta.db_table)
    with connection.cursor() as cursor:
        # Table and columns are the model's own; every value is a parameter.
        statement = f"UPDATE {table} SET {', '.join(assignments)} WHERE {' AND '.join(conditions)}"  # noqa: S608
        cursor.execute(statement, parameters)
        return int(cursor.rowcount)


def select[M: models.Model](model: type[M], *, where: Mapping[str, Any]) -> list[M]:
    """Read the rows whose columns equal `where`, which holds no None."""
    fields = [_field(model, name) for name in where]
    parameters = [
        field.get_db_prep_value(value, connection) for field, value in zip(fields, where.values(), strict=True)
    ]
    names, head, converters = _select_head(model, connection.vendor)
    with connection.cursor() as cursor:
        cursor.execute(f"{head} WHERE {' AND '.join(f'{_quoted(field)} = %s' for field in fields)}", parameters)
        found = cursor.fetchall()
    rows = []
    for values in map(list, found):
        for index, column, converts in converters:
            for convert in converts:
                values[index] = convert(values[index], column, connection)
        rows.append(model.from_db(connection.alias, names, values))
    return rows


@cache
def _select_head(model: type[models.Model], _vendor: str) -> tuple[list[str], str, list[tuple[int, Any, Any]]]:
    """The names of all columns, the statement up to its conditions, and how the values of which column are read."""
    fields = model._meta.concrete_fields
    table = model._meta.db_table
    converters = []
    for index, field in enumerate(fields):
        column = field.get_col(table)
        converts = (*connection.ops.get_db_converters(column), *column.get_db_converters(connection))
        if converts:
            converters.append((index, column, converts))
    head = f"SELECT {', '.join(map(_quoted, fields))} FROM {connection.ops.quote_name(table)}"  # noqa: S608
    return [field.attname for field in fields], head, converters


@cache
def _written_fields(model: type[models.Model]) -> tuple[models.Field[Any, Any], ...]:
    return tuple(field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField))


@cache
def _written_columns(
    model: type[models.Model],
) -> tuple[tuple[models.Field[Any, Any], str | None, frozenset[type]], ...]:
    """Each field with the attribute that holds its value (None: it makes one up) and the types it takes as they are."""
    return tuple(
        (field, field.attname if type(field).pre_save is models.Field.pre_save else None, _taken_as_is(field))
        for field in _written_fields(model)
    )


@cache
def _insert_head(model: type[models.Model], _vendor: str) -> str:
    """`_vendor` is part of the cache's key: databases quote names differently."""
    columns = ", ".join(_quoted(field) for field in _written_fields(model))
    table = connection.ops.quote_name(model._meta.db_table)
    return f"INSERT INTO {table} ({columns}) VALUES"


@cache
def _field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    for field in model._meta.concrete_fields:
        if name in (field.name, field.attname):
            return field
    raise ValueError(f"{model.__name__} has no column {name}")


def _quoted(field: models.Field[Any, Any]) -> str:
    assert field.column is not None
    return connection.ops.quote_name(field.column)


@cache
def _taken_as_is(field: models.Field[Any, Any]) -> frozenset[type]:
    """Types of values that the drivers take for this column as they are: most columns are text and numbers."""
    match field.get_internal_type():
        case "CharField" | "TextField" if type(field).__module__.startswith("django."):
            return frozenset({str, type(None)})
        case "ForeignKey" | "IntegerField" | "PositiveIntegerField" | "PositiveSmallIntegerField" | "BigIntegerField":
            return frozenset({int, type(None)})
        case "BooleanField":
            return frozenset({bool, type(None)})
        case _:
            return frozenset()


def _adapted(field: models.Field[Any, Any], value: Any) -> tuple[str, Sequence[Any]]:
    if type(value) in _taken_as_is(field):
        return "%s", (value,)
    if isinstance(value, BaseExpression):
        return _compiled(field.model, value, connection.vendor)
    return "%s", (field.get_db_prep_save(value, connection),)


@cache
def _compiled(model: type[models.Model], expression: BaseExpression, _vendor: str) -> tuple[str, tuple[Any, ...]]:
    """The SQL of an expression without columns, such as a moment by the database's clock."""
    query = model._default_manager.all().query
    text, parameters = query.get_compiler(connection=connection).compile(
        expression.resolve_expression(query, allow_joins=False, for_save=True)
    )
    return text, tuple(parameters)
