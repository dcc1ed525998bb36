"""Which files a turn changed, as its page, its conversation, exports and reports tell it. Pure text, shown escaped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from chatgateway.admin import diffs
from chatgateway.admin.diffs import DiffLine
from chatgateway.models import FileChanges, Turn
from profiles.admin_theme import moment
from profiles.models import Profile

# A comparison takes 20 s at most; longer after the end than this there is none any more.
COMPARED_WITHIN = dt.timedelta(minutes=1)
NAMES_SHOWN = 12
_SHARED = {
    Profile.Workspace.PER_KEY.value: "the directory is shared by all conversations of the API key",
    Profile.Workspace.FIXED.value: "the directory is shared by all conversations of the profile",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTold:
    """One file. `told` says what became of it: “changed, 1,234 → 1,300 bytes”."""

    path: str
    change: str
    told: str
    lines: tuple[DiffLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesTold:
    """The files that changed. `why_not`: why it is not known. `notes`: what the list does not cover."""

    files: tuple[FileTold, ...] = ()
    notes: tuple[str, ...] = ()
    why_not: str = ""
    more: int = 0

    @property
    def summary(self) -> str:
        """Such as `2 files changed: a.py, b.py`; why it is not known; or that there was none."""
        if self.why_not:
            return f"Files changed: {self.why_not}"
        if not self.files:
            return "No file changed"
        count = len(self.files) + self.more
        names = ", ".join(file.path for file in self.files[:NAMES_SHOWN])
        rest = count - min(len(self.files), NAMES_SHOWN)
        return f"{count:,} file{'s' * (count != 1)} changed: {names}{f' and {rest:,} more' if rest else ''}"


def of(turn: Turn, *, has_acted: bool) -> FilesTold | None:
    """Return what is known of the files of a turn, None if no tool was called. One query, unless it was made before."""
    row = getattr(turn, "file_changes", None)
    return _recorded(row) if row is not None else _unrecorded(turn) if has_acted else None


def as_json(turn: Turn, *, has_acted: bool) -> dict[str, Any] | None:
    """Return the same for a file of JSON lines."""
    row = getattr(turn, "file_changes", None)
    if row is not None and not row.problem:
        return {
            "files": row.files,
            "files_left_out": row.files_left_out,
            "directories_left_out": row.directories_left_out,
            "is_whole": row.is_whole,
            "compared_at": timezone.localtime(row.compared_at).isoformat(timespec="milliseconds"),
            "since": timezone.localtime(row.since).isoformat(timespec="milliseconds") if row.since else None,
        }
    told = of(turn, has_acted=has_acted)
    return None if told is None else {"not_recorded": told.why_not}


def _recorded(row: FileChanges) -> FilesTold:
    if row.problem:
        return FilesTold(why_not=f"could not be read: {row.problem}")
    return FilesTold(files=tuple(_file(one) for one in row.files), notes=tuple(_notes(row)), more=row.files_left_out)


def _unrecorded(turn: Turn) -> FilesTold:
    shared = _SHARED.get(turn.profile_snapshot.get("workspace", ""))
    if shared is not None:
        return FilesTold(why_not=f"not recorded, as {shared}")
    if turn.closed_at is None:
        return FilesTold(why_not="recorded when the turn has ended")
    if timezone.now() - turn.closed_at < COMPARED_WITHIN:
        return FilesTold(why_not="being compared")
    return FilesTold(why_not="not recorded")


def _notes(row: FileChanges) -> Iterator[str]:
    if row.since is not None:
        yield f"Compared with how the directory was at {moment(row.since, seconds=True)}."
    if row.files_left_out:
        yield f"{row.files_left_out:,} more files changed."
    if not row.is_whole:
        yield "There were more files than are looked at; only the first were compared."
    if row.directories_left_out:
        yield f"Not looked into: {', '.join(row.directories_left_out)}."


def _file(said: dict[str, Any]) -> FileTold:
    told = f"{said['change']}, {_size(said)}"
    if said["kind"] == "binary":
        told += ", binary or very large"
    elif said["kind"] == "link":
        told += ", a link"
    elif not said["is_compared"]:
        told += ", too long to be compared"
    lines = diffs.of_patch(said["diff"]) if said["diff"] else []
    if said["lines_left_out"]:
        lines.append(DiffLine("place", f"… {said['lines_left_out']:,} more lines"))
    return FileTold(path=said["path"], change=said["change"], told=told, lines=tuple(lines))


def _size(said: dict[str, Any]) -> str:
    size, before = said["size"], said["was_size"]
    if size is None or before is None or size == before:
        return f"{size if size is not None else before or 0:,} bytes"
    return f"{before:,} → {size:,} bytes"
