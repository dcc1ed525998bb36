"""A copy of the SQLite database, taken while the gateway runs."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from django.db import connection

# So many pages are copied between two looks at whether somebody waits to write.
_PAGES = 1000


class BackupRefused(Exception):
    """The sentence says what to do."""


def back_up(target: Path) -> int:
    """Copy the database to `target`, a new file of mode 0600; return its size in bytes.

    SQLite's own online backup: what is written meanwhile is in the copy or is not, but nothing by halves. The copy is
    checked before it gets its name, so a file of that name is a whole one.
    """
    if connection.vendor != "sqlite":
        raise BackupRefused(
            "The database is not SQLite. PostgreSQL has its own: pg_dump --format=custom --file=FILE URL"
        )
    if target.exists():
        raise BackupRefused(f"{target} exists already: name another file.")
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.touch(mode=0o600, exist_ok=False)
        connection.ensure_connection()
        copy = sqlite3.connect(scratch)
        try:
            connection.connection.backup(copy, pages=_PAGES)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
            [[verdict]] = copy.execute("PRAGMA integrity_check").fetchall()
        finally:
            copy.close()
        if verdict != "ok":
            raise BackupRefused(f"The copy is not whole, so the database is damaged: {verdict}")
        os.link(scratch, target)  # fails if somebody else made it meanwhile
    except (OSError, sqlite3.Error) as error:
        raise BackupRefused(f"{target} could not be written: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return target.stat().st_size
