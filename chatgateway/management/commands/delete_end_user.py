from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chatgateway import erasures
from profiles.models import Tenant

# Open turns are stopped first, which takes seconds, and are left alone for half a minute after their end.
_DEADLINE_SECONDS = 120.0
_PAUSE_SECONDS = 2.0


class Command(BaseCommand):
    help = "Remove everything that one end user of a tenant said and was told. Figures stay, without the person."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("end_user", help="the id by which callers name the person")
        parser.add_argument("--tenant", required=True, help="whose end user it is, by name")
        parser.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *_: Any, **options: Any) -> None:
        tenant = Tenant.objects.filter(name=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"There is no tenant '{options['tenant']}'.")
        end_user: str = options["end_user"]
        found = erasures.found(tenant, end_user)
        if options["dry_run"]:
            self.stdout.write(f"Would remove: {_told(found.turns, found.conversations)}.")
            return
        erasure = erasures.ask(tenant=tenant, end_user=end_user, by="delete_end_user")
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not erasures.carry_out(erasure, until=deadline):
            if time.monotonic() > deadline:
                raise CommandError(
                    f"Not done yet: {_told(erasure.turns, erasure.conversations)} removed. A turn is still going on; "
                    "the background task goes on with it, or run this again."
                )
            time.sleep(_PAUSE_SECONDS)
        self.stdout.write(f"Removed: {_told(erasure.turns, erasure.conversations)}.")


def _told(turns: int, conversations: int) -> str:
    return f"texts of {turns} turn{'s' * (turns != 1)}, {conversations} conversation{'s' * (conversations != 1)}"
