from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from profiles import rotation


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret anew, under the first of GATEWAY_ENCRYPTION_KEYS. Run it after putting a new key "
        "in front; afterwards the old ones can be removed."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        unreadable = 0
        for result in rotation.rotate_all():
            self.stdout.write(f"{result.column}: {result.count} encrypted anew")
            unreadable += len(result.unreadable)
            for pk in result.unreadable:
                self.stderr.write(f"{result.column}: row {pk} cannot be read with any of GATEWAY_ENCRYPTION_KEYS")
        if unreadable:
            raise CommandError(
                f"{unreadable} secrets could not be read. Put the key they were encrypted with back into "
                f"GATEWAY_ENCRYPTION_KEYS, or enter them anew in the admin."
            )
        self.stdout.write("Done. Every key but the first can now be removed from GATEWAY_ENCRYPTION_KEYS.")
