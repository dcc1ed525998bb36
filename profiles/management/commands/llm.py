from __future__ import annotations

import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from profiles.exceptions import LlmProcessDown


class Command(BaseCommand):
    help = "Run the one process of this host that has LiteLLM loaded, until SIGTERM. `up` starts and keeps it."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--exit-with-parent", action="store_true", help="end when the process that started this one is gone"
        )

    def handle(self, *_: Any, exit_with_parent: bool, **__: Any) -> None:
        from profiles import llm_process

        started = time.monotonic()

        def tell(path: Path) -> None:
            self.stdout.write(f"llm: ready at {path} after {time.monotonic() - started:.1f} s")
            self.stdout.flush()

        try:
            llm_process.serve(exits_with_parent=exit_with_parent, on_ready=tell)
        except (llm_process.AlreadyRunning, LlmProcessDown, OSError) as error:
            raise CommandError(str(error)) from error
