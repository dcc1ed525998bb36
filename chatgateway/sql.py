"""INSERT, UPDATE and SELECT for the statements that every turn runs, without compiling them every time.

Django builds the SQL of a statement anew on each call, and wraps its execution in several layers: for a row of sixty
columns that takes longer than the database needs to write it, and a turn writes a dozen rows one after the other
(measured: 9 of 13 ms of a turn's CPU). The text depends on the model and the columns alone, so it is made once here,
and is always the same, so that the database knows it again. Values are adapted by Django's own fields. Everything else
uses the ORM.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.sqlite3.base import FORMAT_QMARK_REGEX
from django.db.models.expressions import BaseExpression, Func

type _Field = models.Field[Any, Any]


class InSeconds(Func):
    """The moment `seconds` from now by the database's clock.

    `Now() + timedelta(…)` says the same, but SQLite has to ask Python for its sum (measured: 30 µs).
    """

    output_field = models.DateTimeField()

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self._seconds = int(seconds)

    def as_sqlite(self, *_: Any, **__: Any) -> tuple[str, tuple[Any, ...]]:
        return f"STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW', '{self._seconds:+d} seconds')", ()

    def as_postgresql(self, *_: Any, **__: Any) -> tuple[str, tuple[Any, ...]]:
        return f"(STATEMENT_TIMESTAMP() + INTERVAL '{self._seconds:d} seconds')", ()


def execute(text: str, parameters: Sequence[Any] = ()) -> Any:
    """Run one statement and return its cursor. What watches Django's cursors sees it too."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.connection is None or database.queries_logged or database.execute_wrappers:
        cursor = database.cursor()
        cursor.execute(text, parameters or None)
        return cursor
    database.validate_no_broken_transaction()
    with database.wrap_database_errors:
        if database.vendor == "sqlite":
            return database.connection.execute(_with_question_marks(text), parameters)
        return database.connection.execute(text, parameters or None)


# Any number, as long as nothing else in the database locks on it.
PLACEMENT_LOCK = 0x6F68_6777


def lock_placement() -> None:
    """Have the lock under which turns are opened and slots given away, until the transaction ends.

    Whoever takes it does so before any row of the traffic is locked: two processes that took rows and the lock in
    opposite orders would wait for one another. SQLite's transactions are exclusive from their beginning.
    """
    if connections[DEFAULT_DB_ALIAS].vendor == "postgresql":
        execute("SELECT pg_advisory_xact_lock(%s)", [PLACEMENT_LOCK])


def insert(rows: Sequence[models.Model], *, ignore_conflicts: bool = False) -> None:
    """Write new rows of one model. `ignore_conflicts` passes over those that break a unique constraint.

    Automatic primary keys are not read back.
    """
    if not rows:
        return
    database = connections[DEFAULT_DB_ALIAS]
    model = type(rows[0])
    columns = _columns(model, database.vendor)
    marks: list[tuple[str, ...]] = []
    parameters: list[list[Any]] = []
    for row in rows:
        values: list[Any] = []
        marks.append(_marks(columns, row, values, database))
        parameters.append(values)
    if database.vendor == "sqlite":
        # One text for any number of rows.
        for of_row, values in zip(marks, parameters, strict=True):
            execute(_insert_text(model, "sqlite", (of_row,), ignore_conflicts), values)
    else:
        text = _insert_text(model, database.vendor, tuple(marks), ignore_conflicts)
        execute(text, [value for values in parameters for value in values])
    for row in rows:
        row._state.adding = False
        row._state.db = DEFAULT_DB_ALIAS


def _marks(
    columns: Sequence[_Column], row: models.Model, parameters: list[Any], database: BaseDatabaseWrapper
) -> tuple[str, ...]:
    """Append a row's values to `parameters`, and return what stands for each in the statement."""
    marks = []
    for column in columns:
        field = column.field
        value = field.pre_save(row, add=True) if column.makes_up else getattr(row, field.attname)
        marks.append(_adapted(column, value, parameters, database))
    return tuple(marks)


def update(model: type[models.Model], *, where: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    """Write `changes` to the rows whose columns equal `where` (None: are null); return how many there were.

    Names are those of the model's fields, foreign keys with or without `_id`.
    """
    database = connections[DEFAULT_DB_ALIAS]
    parameters: list[Any] = []
    assigned = []
    for name, value in changes.items():
        column = _column(model, name, database.vendor)
        assigned.append((name, _adapted(column, _key_of(value), parameters, database)))
    compared = tuple((name, value is None) for name, value in where.items())
    parameters += _compared_with(model, where, database)
    return int(execute(_update_text(model, database.vendor, tuple(assigned), compared), parameters).rowcount)


def select[M: models.Model](model: type[M], *, where: Mapping[str, Any]) -> list[M]:
    """Read the rows whose columns equal `where` (None: are null)."""
    database = connections[DEFAULT_DB_ALIAS]
    reading = _reading(model, database.vendor)
    compared = tuple((name, value is None) for name, value in where.items())
    text = (
        f"SELECT {reading.columns} FROM {_table(model)} "  # noqa: S608  names alone
        f"WHERE {_conditions(model, database.vendor, compared)}"
    )
    found = execute(text, _compared_with(model, where, database)).fetchall()
    return [_made(model, reading, values) for values in found]


def select_with[M: models.Model](
    model: type[M], *, related: str, where: Mapping[str, Any], leaving_out: tuple[str, ...] = ()
) -> list[M]:
    """`select`, each row with the one that its foreign key `related` leads to; rows without one are not read.

    The fields in `leaving_out` are read when somebody asks for them.
    """
    database = connections[DEFAULT_DB_ALIAS]
    key = model._meta.get_field(related)
    assert isinstance(key, models.ForeignKey)
    other = key.related_model
    assert issubclass(other, models.Model)
    of_model, of_other = _reading(model, database.vendor, leaving_out), _reading(other, database.vendor)
    compared = tuple((name, value is None) for name, value in where.items())
    text = (
        f"SELECT {of_model.columns}, {of_other.columns} FROM {_table(model)} "  # noqa: S608  names alone
        f"JOIN {_table(other)} ON {_table(other)}.{_column(other, other._meta.pk.attname, database.vendor).quoted} = "
        f"{_table(model)}.{_column(model, related, database.vendor).quoted} "
        f"WHERE {_conditions(model, database.vendor, compared)}"
    )
    rows = []
    for values in execute(text, _compared_with(model, where, database)).fetchall():
        row = _made(model, of_model, values[: len(of_model.names)])
        key.set_cached_value(row, _made(other, of_other, values[len(of_model.names) :]))
        rows.append(row)
    return rows


def _made[M: models.Model](model: type[M], reading: _Reading, values: Sequence[Any]) -> M:
    values = list(values)
    for index, column, converts in reading.converters:
        for convert in converts:
            values[index] = convert(values[index], column, connections[DEFAULT_DB_ALIAS])
    return model.from_db(DEFAULT_DB_ALIAS, reading.names, values)


def _key_of(value: Any) -> Any:
    return value.pk if isinstance(value, models.Model) else value


def _compared_with(model: type[models.Model], where: Mapping[str, Any], database: BaseDatabaseWrapper) -> list[Any]:
    parameters: list[Any] = []
    for name, value in where.items():
        if value is not None:
            column = _column(model, name, database.vendor)
            quick = column.quick.get(type(value))
            parameters.append(quick(value) if quick is not None else column.field.get_db_prep_value(value, database))
    return parameters


# --- texts, each made once --------------------------------------------------------------------------------------------


@lru_cache(1024)
def _with_question_marks(text: str) -> str:
    """As SQLite wants it; what Django does for every statement anew."""
    return FORMAT_QMARK_REGEX.sub("?", text).replace("%%", "%")


@lru_cache(256)
def _insert_text(
    model: type[models.Model],
    vendor: str,
    marks: tuple[tuple[str, ...], ...],
    ignore_conflicts: bool,
) -> str:
    columns = ", ".join(column.quoted for column in _columns(model, vendor))
    rows = ", ".join(f"({', '.join(of_row)})" for of_row in marks)
    ending = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    return f"INSERT INTO {_table(model)} ({columns}) VALUES {rows}{ending}"  # noqa: S608  names alone


@lru_cache(256)
def _update_text(
    model: type[models.Model],
    vendor: str,
    assigned: tuple[tuple[str, str], ...],
    compared: tuple[tuple[str, bool], ...],
) -> str:
    # Table and columns are the model's own; every value is a parameter.
    assignments = ", ".join(f"{_column(model, name, vendor).quoted} = {mark}" for name, mark in assigned)
    return f"UPDATE {_table(model)} SET {assignments} WHERE {_conditions(model, vendor, compared)}"  # noqa: S608


@cache
def _conditions(model: type[models.Model], vendor: str, compared: tuple[tuple[str, bool], ...]) -> str:
    return " AND ".join(
        f"{_table(model)}.{_column(model, name, vendor).quoted} {'IS NULL' if is_null else '= %s'}"
        for name, is_null in compared
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """How rows of a model are read: the names of their fields, the columns of these, and how the values of which are
    made what the fields hold."""

    names: list[str]
    columns: str
    converters: list[tuple[int, Any, Any]]


@cache
def _reading(model: type[models.Model], vendor: str, leaving_out: tuple[str, ...] = ()) -> _Reading:
    database = connections[DEFAULT_DB_ALIAS]
    fields = [field for field in model._meta.concrete_fields if field.name not in leaving_out]
    converters = []
    for index, field in enumerate(fields):
        column = field.get_col(model._meta.db_table)
        converts = (*database.ops.get_db_converters(column), *column.get_db_converters(database))
        if converts:
            converters.append((index, column, converts))
    return _Reading(
        names=[field.attname for field in fields],
        columns=", ".join(f"{_table(model)}.{_column(model, field.attname, vendor).quoted}" for field in fields),
        converters=converters,
    )


def _table(model: type[models.Model]) -> str:
    return connections[DEFAULT_DB_ALIAS].ops.quote_name(model._meta.db_table)


# --- columns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """`makes_up`: the field itself says what is written. `quick` says, for types of values, what makes of one what the
    driver takes; what it has nothing for is left to the field."""

    field: _Field
    quoted: str
    makes_up: bool
    quick: Mapping[type, Callable[[Any], Any]]


@cache
def _columns(model: type[models.Model], vendor: str) -> tuple[_Column, ...]:
    """Those that an INSERT names."""
    return tuple(
        _column(model, field.attname, vendor)
        for field in model._meta.concrete_fields
        if not isinstance(field, models.AutoField)
    )


@cache
def _column(model: type[models.Model], name: str, vendor: str) -> _Column:
    """`vendor` is part of the caches' keys: databases quote names and store values differently."""
    field = next((field for field in model._meta.concrete_fields if name in (field.name, field.attname)), None)
    if field is None:
        raise ValueError(f"{model.__name__} has no column {name}")
    assert field.column is not None
    return _Column(
        field=field,
        quoted=connections[DEFAULT_DB_ALIAS].ops.quote_name(field.column),
        makes_up=type(field).pre_save is not models.Field.pre_save,
        quick=_quick(field, vendor),
    )


def _quick(field: _Field, vendor: str) -> dict[type, Callable[[Any], Any]]:
    """What Django's fields and operations make of the values that nearly all columns hold, without their detours."""
    is_sqlite = vendor == "sqlite"
    target = field.target_field if isinstance(field, models.ForeignKey) else field
    adapters: dict[type, Callable[[Any], Any]] = {}
    match target.get_internal_type():
        case "CharField" | "TextField" if type(field).__module__.startswith("django."):
            adapters[str] = _itself
        case kind if kind.endswith(("IntegerField", "AutoField")):
            adapters[int] = _itself
        case "BooleanField":
            adapters[bool] = _itself
        case "UUIDField":
            adapters[UUID] = _hex if is_sqlite else _itself
        case "DateTimeField" if is_sqlite:
            adapters[dt.datetime] = _utc_text
        case "DateTimeField":
            adapters[dt.datetime] = _itself
        case "JSONField" if is_sqlite and type(field) is models.JSONField and field.encoder is None:
            adapters[dict] = adapters[list] = json.dumps
            return adapters  # None is JSON's null there
        case "DecimalField":
            pass
        case _:
            return adapters
    adapters[type(None)] = _itself
    return adapters


def _itself[V](value: V) -> V:
    return value


def _hex(value: UUID) -> str:
    return value.hex


def _utc_text(value: dt.datetime) -> str:
    assert value.tzinfo is not None
    return str((value if value.tzinfo is dt.UTC else value.astimezone(dt.UTC)).replace(tzinfo=None))


def _adapted(column: _Column, value: Any, parameters: list[Any], database: BaseDatabaseWrapper) -> str:
    """Append what the driver takes for a value, and return what stands for it in the statement."""
    quick = column.quick.get(type(value))
    if quick is not None:
        parameters.append(quick(value))
    elif isinstance(value, BaseExpression):
        text, values = _compiled(column.field.model, value, database.vendor)
        parameters += values
        return text
    else:
        parameters.append(column.field.get_db_prep_save(value, database))
    return "%s"


@cache
def _compiled(model: type[models.Model], expression: BaseExpression, _vendor: str) -> tuple[str, tuple[Any, ...]]:
    """The SQL of an expression without columns, such as a moment by the database's clock."""
    query = model._default_manager.all().query
    text, parameters = query.get_compiler(connection=connections[DEFAULT_DB_ALIAS]).compile(
        expression.resolve_expression(query, allow_joins=False, for_save=True)
    )
    return text, tuple(parameters)
