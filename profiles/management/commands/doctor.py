from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from profiles import doctor
from profiles.models import Profile

_WORDS = {"ok": "works", "failed": "FAILED", "skipped": "skipped"}


class Command(BaseCommand):
    help = (
        "Try what a profile can do, through the gateway that runs at GATEWAY_PUBLIC_URL: listed, chat, stream, reuse, "
        "tool step, image, JSON. Costs what a few short turns cost. Exit status 1 if anything failed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("profile", nargs="*", help="which ones, by name; without any, all that are enabled")
        parser.add_argument(
            "--only", action="append", choices=doctor.NAMES, help="this check and those it needs; can be repeated"
        )

    def handle(self, *_: Any, profile: list[str], only: list[str] | None, **__: Any) -> None:
        failed = 0
        for row in _chosen(profile):
            self.stdout.write(f"{row.model_id} at {settings.GATEWAY_PUBLIC_URL}/v1")
            failed += asyncio.run(self._examine(row, only or doctor.NAMES))
        if failed:
            raise CommandError(f"{failed} of the checks failed.")

    async def _examine(self, profile: Profile, only: Any) -> int:
        """Print the table of one profile line by line and return how many checks failed."""
        titles = {check.name: check.title for check in doctor.CHECKS}
        width = max(len(title) for title in titles.values())
        failed = 0
        async for result in doctor.examine(profile, asked_by="the command", only=only):
            if result.state == "running":
                continue
            failed += result.state == "failed"
            turn = f" [{result.request_id}]" if result.state == "failed" and result.request_id else ""
            word = _WORDS[result.state]
            self.stdout.write(f"  {titles[result.check]:<{width}}  {word:<7}  {result.note}{turn}")
            self.stdout.flush()
        return failed


def _chosen(slugs: list[str]) -> list[Profile]:
    if not slugs:
        rows = list(Profile.objects.usable().order_by("slug"))
        if not rows:
            raise CommandError("There is no enabled profile.")
        return rows
    found = {row.slug: row for row in Profile.objects.filter(slug__in=slugs)}
    unknown = [slug for slug in slugs if slug not in found]
    if unknown:
        known = ", ".join(Profile.objects.values_list("slug", flat=True)[:20]) or "none yet"
        raise CommandError(f"There is no profile '{unknown[0]}' (there are: {known}).", returncode=2)
    return [found[slug] for slug in slugs]
