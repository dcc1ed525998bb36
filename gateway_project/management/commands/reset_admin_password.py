from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Give an administrator a new password and print it once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", nargs="?", help="not needed when there is one administrator")

    def handle(self, *_: Any, username: str | None, **__: Any) -> None:
        from gateway_project import bootstrap

        names = bootstrap.administrators()
        if username is None and len(names) != 1:
            listed = ", ".join(names) or "none yet: `manage.py bootstrap` makes one"
            raise CommandError(f"Say which administrator. There is: {listed}.")
        try:
            password = bootstrap.reset_password(username or names[0])
        except LookupError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{username or names[0]}  {password}")
