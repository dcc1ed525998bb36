"""What changed in a text, line by line, as `diff -u` shows it. Pure."""

from __future__ import annotations

import difflib
from typing import NamedTuple

# Comparing takes time that grows with the square of the lines, in the worst case.
MAXIMUM_LINES = 2_000
# What a page shows of one change.
MAXIMUM_SHOWN = 400


class DiffLine(NamedTuple):
    """`kind`: added, removed, place (where in the file) or same."""

    kind: str
    text: str


_KINDS = {"+": "added", "-": "removed", "@": "place"}


def between(before: str, after: str) -> list[DiffLine]:
    """Return the lines that differ with two around them; empty when nothing does, or the texts are too long."""
    old, new = before.splitlines(), after.splitlines()
    if max(len(old), len(new)) > MAXIMUM_LINES:
        return []
    return of_patch("\n".join(list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]))


def of_patch(patch: str) -> list[DiffLine]:
    """Return the lines of what is already a diff."""
    lines = patch.splitlines()
    shown = [DiffLine(_KINDS.get(line[:1], "same"), line) for line in lines[:MAXIMUM_SHOWN]]
    if len(lines) > MAXIMUM_SHOWN:
        shown.append(DiffLine("place", f"… {len(lines) - MAXIMUM_SHOWN:,} more lines, in the raw record"))
    return shown
