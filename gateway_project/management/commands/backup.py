from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Copy the SQLite database to a new file while the gateway runs. The secrets are not in it: keep them too."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="a file that does not exist yet")

    def handle(self, *_: Any, file: Path, **__: Any) -> None:
        from gateway_project import backup

        try:
            size = backup.back_up(file)
        except backup.BackupRefused as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(f"{file}: {size:,} bytes. Back up the secrets too, in another place.")
