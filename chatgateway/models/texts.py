"""The index of what was asked and answered, by words."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Lookup
from django.db.models.expressions import Col
from django.db.models.sql.compiler import SQLCompiler

from chatgateway.models.turns import Turn
from chatgateway.words import Query

# SQLite's table for full-text search over `TurnText`, made by the migration and kept up by triggers.
SQLITE_INDEX = "chatgateway_turntext_index"


class WordsField(models.TextField[str, str]):
    """Words in their order: a `tsvector` in PostgreSQL, in SQLite a text with spaces. Written by SQL, never read."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "tsvector" if connection.vendor == "postgresql" else "text"


@WordsField.register_lookup
class Matches(Lookup[Any]):
    """`words__matches=Query.parse("…")`."""

    lookup_name = "matches"
    prepare_rhs = False
    rhs: Query

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, tuple[Any, ...]]:
        self._require_words()
        column, parameters = self.process_lhs(compiler, connection)
        return f"{column} @@ %s::tsquery", (*parameters, self.rhs.for_postgresql)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, tuple[Any, ...]]:
        self._require_words()
        assert isinstance(self.lhs, Col)
        table = compiler.quote_name(self.lhs.alias)
        found = f"SELECT rowid FROM {SQLITE_INDEX} WHERE {SQLITE_INDEX} MATCH %s"  # noqa: S608  a name of ours
        return f"{table}.id IN ({found})", (self.rhs.for_sqlite,)

    def _require_words(self) -> None:
        if not self.rhs:
            raise EmptyResultSet


class TurnText(models.Model):
    """The words of a turn's question and answer, for the search of auditors.

    Written by `turn_texts` when the turn ends, deleted by `removal` with the texts it was made of. The table has an
    index or triggers that Django does not know of (migration 0017): whoever alters it makes them again.
    """

    turn = models.OneToOneField(Turn, models.CASCADE, related_name="text")
    words = WordsField()

    def __str__(self) -> str:
        return str(self.turn_id)
