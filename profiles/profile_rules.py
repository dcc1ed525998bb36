"""Rules about a profile's columns together, which no column can check alone. Whoever writes a profile asks here."""

from __future__ import annotations

import posixpath

from django.conf import settings
from django.core.exceptions import ValidationError


def clean_workspace_path(path: str) -> str:
    """Return an absolute path under one of GATEWAY_WORKSPACE_ROOTS, spelled plainly; the empty path stays empty."""
    path = path.strip()
    if not path:
        return ""
    roots = [root.rstrip("/") for root in settings.GATEWAY_WORKSPACE_ROOTS]
    if not roots:
        raise ValidationError("No directory is open for this: set GATEWAY_WORKSPACE_ROOTS on the gateway first.")
    plain = posixpath.normpath(path)
    if ".." in path.split("/") or not any(plain == root or plain.startswith(f"{root}/") for root in roots):
        raise ValidationError(f"Write an absolute path under {' or '.join(roots)}, without “..”.")
    return plain


def check_retention(*, texts_days: int | None, turns_days: int | None) -> None:
    """Raise ValidationError if texts were to be kept longer than their turns."""
    if texts_days and turns_days and texts_days > turns_days:
        raise ValidationError(f"Texts go with their turns, which are kept for {turns_days} days only.")
