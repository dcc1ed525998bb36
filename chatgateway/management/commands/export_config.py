from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chatgateway.configuration import exporting


class Command(BaseCommand):
    help = "Write tenants, agent-servers, profiles and API keys as YAML, to standard output or to a file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--output", metavar="FILE", help="a new file, readable by its owner alone")
        parser.add_argument(
            "--include-secrets",
            action="store_true",
            help="provider keys and the like, encrypted with GATEWAY_ENCRYPTION_KEYS, and the digests of API keys",
        )

    def handle(self, *_: Any, output: str | None, include_secrets: bool, **__: Any) -> None:
        text = exporting.export(includes_secrets=include_secrets)
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            # O_EXCL: a file that somebody else prepared, or an older export, is not written into.
            with os.fdopen(os.open(Path(output), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}.") from error
        self.stderr.write(f"Written to {output}.")
