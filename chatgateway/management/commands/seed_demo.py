from __future__ import annotations

import datetime as dt
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from chatgateway import hourly
from chatgateway.models import Conversation, Turn
from chatgateway.seeding import cast, history, tasks


class Command(BaseCommand):
    help = "Fill a database with invented conversations, for trying things out. Nobody can call with the keys it makes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--turns", type=int, default=600, help="how many requests (600)")
        parser.add_argument("--days", type=int, default=14, help="over how many days up to now (14)")
        parser.add_argument("--seed", type=int, default=1, help="another number invents other conversations (1)")
        parser.add_argument("--running", type=int, default=0, help="how many turns are left open (0)")
        parser.add_argument("--without-events", action="store_true", help="leave out the agents' steps: much quicker")
        parser.add_argument("--add", action="store_true", help="also where there is traffic already")

    def handle(self, *_: Any, **options: Any) -> None:
        amounts = _amounts(options)
        now, seed = timezone.now(), options["seed"]
        if Turn.objects.exists() and not options["add"]:
            raise CommandError(
                "This database has turns already: invented ones among them would falsify its figures. "
                "Use a database of its own (GATEWAY_DATABASE_URL), or --add if that is what you want."
            )
        if Conversation.objects.filter(pk=history.first_id(seed)).exists():
            raise CommandError(f"The conversations of --seed {seed} are here already. Choose another number.")
        try:
            with transaction.atomic():
                people = cast.make(now=now, started_at=now - dt.timedelta(days=amounts.days))
                tasks.note_runs()
        except cast.NameTaken as error:
            raise CommandError(f"There is a {error} that this command has not made. Rename it first.") from error
        written = 0
        for written in history.write(people, amounts, seed=seed, now=now):
            if options["verbosity"] > 1:
                self.stderr.write(f"{written:,} turns")
        cast.stamp_use(people)
        hourly.forget(since=now - dt.timedelta(days=amounts.days + 1))
        while not hourly.sum_up(now).is_complete:
            pass
        self.stdout.write(f"{written:,} turns of the last {amounts.days} days were written.")


def _amounts(options: dict[str, Any]) -> history.Amounts:
    for name, most in (("turns", 10_000_000), ("days", 3_650)):
        if not 1 <= options[name] <= most:
            raise CommandError(f"--{name}: from 1 to {most}.")
    if not 0 <= options["running"] <= options["turns"]:
        raise CommandError("--running: from 0 to --turns.")
    return history.Amounts(
        turns=options["turns"],
        days=options["days"],
        running=options["running"],
        with_events=not options["without_events"],
    )
