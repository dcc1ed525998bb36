from __future__ import annotations

import datetime as dt
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from profiles import changes, issuing
from profiles.exceptions import InvalidKey
from profiles.models import ApiKey, Profile, Tenant

_BY = changes.program("mint_key")


class Command(BaseCommand):
    help = "Make an API key and print it. It cannot be shown again. Only the key goes to standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, help="whom the key's traffic is for, by name")
        parser.add_argument("--new-tenant", action="store_true", help="make the tenant if there is none of that name")
        parser.add_argument("--name", required=True, help="where the key is used, such as laptop")
        parser.add_argument("--manage", action="store_true", help="may manage its tenant's profiles under /api")
        parser.add_argument("--global", action="store_true", dest="is_global", help="may manage every tenant's")
        parser.add_argument("--no-chat", action="store_true", help="may not call agents")
        parser.add_argument("--profile", action="append", metavar="SLUG", help="may use this one only; can be repeated")
        parser.add_argument("--one-person", action="store_true", help="everything sent with it comes from one person")
        parser.add_argument("--own-conversations", action="store_true", help="sees only what it started")
        parser.add_argument("--expires-days", type=float, metavar="DAYS", help="ends after so many days")

    def handle(self, *_: Any, **options: Any) -> None:
        days: float | None = options["expires_days"]
        if days is not None and not 0 < days <= 36_500:
            raise CommandError("--expires-days: more than 0, at most 36500.")
        try:
            api_key, text = self._made(options, days)
        except InvalidKey as error:
            raise CommandError(error.message) from error
        self.stderr.write(f"Key '{api_key.name}' of {api_key.tenant.name}. Keep it now: it cannot be shown again.")
        self.stdout.write(text)

    def _made(self, options: dict[str, Any], days: float | None) -> tuple[ApiKey, str]:
        with transaction.atomic():
            api_key, text = issuing.create_key(
                tenant=_tenant(options["tenant"], is_new=options["new_tenant"]),
                name=options["name"],
                can_chat=not options["no_chat"],
                can_manage=options["manage"] or options["is_global"],
                is_global=options["is_global"],
                profiles=None if options["profile"] is None else [_profile(slug) for slug in options["profile"]],
                only_own_conversations=options["own_conversations"],
                used_by_one_person=options["one_person"],
                expires_at=None if days is None else timezone.now() + dt.timedelta(days=days),
            )
            changes.added(api_key, by=_BY)
        return api_key, text


def _tenant(name: str, *, is_new: bool) -> Tenant:
    found = Tenant.objects.filter(name=name).first()
    if found is not None:
        return found
    if is_new:
        made = Tenant.objects.create(name=name)
        changes.added(made, by=_BY)
        return made
    known = ", ".join(Tenant.objects.values_list("name", flat=True)[:20]) or "none yet"
    raise CommandError(f"There is no tenant '{name}' (there are: {known}). --new-tenant makes it.")


def _profile(slug: str) -> Profile:
    found = Profile.objects.filter(slug=slug).first()
    if found is None:
        known = ", ".join(Profile.objects.values_list("slug", flat=True)[:20]) or "none yet"
        raise CommandError(f"There is no profile '{slug}' (there are: {known}).")
    return found
