from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chatgateway.configuration import importing
from chatgateway.configuration.document import Unreadable
from profiles import changes
from profiles.models import ChangeRecord

_LONGEST = 100


class Command(BaseCommand):
    help = (
        "Make or change tenants, agent-servers, profiles and API keys as a file of export_config says. Deletes "
        "nothing; all or nothing; the same file again changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="the YAML file; - reads standard input")
        parser.add_argument("--dry-run", action="store_true", help="only show what would change")

    def handle(self, *_: Any, file: str, dry_run: bool, **__: Any) -> None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}.") from error
        try:
            outcome = importing.apply(text, by=changes.program("import_config"), is_dry_run=dry_run)
        except Unreadable as error:
            raise CommandError("\n".join(["Nothing was changed.", *error.problems])) from error
        for record in outcome.changes:
            self._tell(record)
        for notice in outcome.notices:
            self.stderr.write(notice)
        count = len(outcome.changes)
        rows = f"{count} row{'s' * (count != 1)}"
        self.stdout.write(f"Would change {rows}." if dry_run else f"Changed {rows}.")

    def _tell(self, record: ChangeRecord) -> None:
        """One line for the row, one for each column with what was before and what is after."""
        self.stdout.write(f"{record.kind} “{record.name}”: {record.action}")
        if record.action == ChangeRecord.Action.CHANGED:
            for name, (before, after) in record.fields.items():
                self.stdout.write(f"    {name}: {_short(before)} -> {_short(after)}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
