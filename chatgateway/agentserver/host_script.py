"""Says which files below a directory changed since it was last asked. Runs on an agent-server's host, on its own.

Its text is handed to whatever Python is there, which may be old: nothing but the standard library, nothing newer than
Python 3.8. Arguments: the directory; the file in which it keeps what it saw; and what to compare with if there is no
such file: `new` (an empty directory), the absolute path of the directory it began as a copy of, or `unknown`. Writes
one JSON object. What it reads was written by agents: links are not followed, and everything has a limit.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import stat
import sys
import time
import zlib
from typing import Any, Iterator

MAXIMUM_FILES = 20_000
MAXIMUM_SECONDS = 10.0
# Longer files are compared by size and time.
HASHED_BYTES = 8_000_000
# Of what is kept to compare with, each text and all of them.
TEXT_BYTES = 64_000
KEPT_BYTES = 8_000_000
DIFF_LINES = 400
LINE_CHARS = 500
COMPARED_LINES = 2_000
LISTED_FILES = 200
# What it has seen, packed or not.
STATE_BYTES = 64_000_000
# Of all diffs: an agent-server gives a command's output in pieces of a mebibyte, and only the first is read.
LISTED_CHARS = 400_000
# Made by programs from what else is there.
LEFT_OUT = {
    ".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".tox", ".cache",
}  # fmt: skip

# An entry: size, time of the content, time of the entry, digest, kind (text, long, binary, link), text.
SIZE, MODIFIED, CHANGED, DIGEST, KIND, TEXT = range(6)


class TooMuchError(Exception):
    """There is more to look at than there is time for."""


class Walk:
    """All files below `root`. Entries that look as before are taken over unread."""

    def __init__(self, root: str, before: dict[str, list[Any]]) -> None:
        self.before = before
        self.entries: dict[str, list[Any]] = {}
        self.left_out: set[str] = set()
        self.is_whole = True
        self.kept = 0
        self.ends_at = time.monotonic() + MAXIMUM_SECONDS
        self.look(root, "")

    def look(self, directory: str, prefix: str) -> None:
        if time.monotonic() > self.ends_at:
            raise TooMuchError(f"Looking through the directory took longer than {MAXIMUM_SECONDS:.0f} s.")
        try:
            found = sorted(os.scandir(directory), key=lambda one: one.name)
        except OSError:
            return
        for one in found:
            if len(self.entries) >= MAXIMUM_FILES:
                self.is_whole = False
                return
            path = prefix + one.name
            try:
                if one.is_dir(follow_symlinks=False):
                    if one.name in LEFT_OUT:
                        self.left_out.add(one.name)
                    else:
                        self.look(one.path, path + "/")
                else:
                    self.take(path, one.path, one.stat(follow_symlinks=False))
            except OSError:
                continue  # it went away meanwhile, or may not be read

    def take(self, path: str, place: str, status: os.stat_result) -> None:
        is_link = stat.S_ISLNK(status.st_mode)
        if not is_link and not stat.S_ISREG(status.st_mode):
            return
        known = self.before.get(path)
        if known is not None and known[:3] == [status.st_size, status.st_mtime_ns, status.st_ctime_ns]:
            entry = list(known)
        elif is_link:
            target = os.readlink(place)
            digest = hashlib.sha256(os.fsencode(target)).hexdigest()
            entry = [status.st_size, 0, 0, digest, "link", shown(target)]
        else:
            entry = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, *content_of(place, status.st_size)]
        if entry[TEXT] is not None:
            self.kept += len(entry[TEXT])
            if self.kept > KEPT_BYTES:
                entry[TEXT], entry[KIND] = None, "long"
        self.entries[path] = entry


def content_of(place: str, size: int) -> list[Any]:
    if size > HASHED_BYTES:
        return ["", "binary", None]
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(HASHED_BYTES + 1)
    digest = hashlib.sha256(data).hexdigest()
    if b"\0" in data:
        return [digest, "binary", None]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return [digest, "binary", None]
    return [digest, "text", text] if len(data) <= TEXT_BYTES else [digest, "long", None]


def differ(one: list[Any], other: list[Any]) -> bool:
    if one[DIGEST] and other[DIGEST]:
        return bool(one[DIGEST] != other[DIGEST])
    return bool(one[SIZE] != other[SIZE] or one[MODIFIED] != other[MODIFIED])


def diff_of(old: list[Any] | None, new: list[Any] | None) -> tuple[list[str] | None, int]:
    """Return the lines of a diff, and how many were left out; None where there is nothing to be compared."""
    if (old and old[TEXT] is None) or (new and new[TEXT] is None):
        return None, 0
    before = old[TEXT].splitlines() if old else []
    after = new[TEXT].splitlines() if new else []
    if not old:
        lines = ["+" + line for line in after]
    elif not new:
        lines = ["-" + line for line in before]
    elif max(len(before), len(after)) > COMPARED_LINES:
        return None, 0
    else:
        lines = list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
    return [line[:LINE_CHARS] for line in lines[:DIFF_LINES]], max(0, len(lines) - DIFF_LINES)


def changes(
    before: dict[str, list[Any]], after: dict[str, list[Any]], is_whole: bool
) -> Iterator[tuple[str, list[Any] | None, list[Any] | None]]:
    """Yield each file that is new, gone or other than it was."""
    for path in sorted(set(before) | set(after)):
        old, new = before.get(path), after.get(path)
        if old and new and not differ(old, new):
            continue
        if new is None and not is_whole:
            continue  # it may be among those that were not looked at
        yield path, old, new


def listed(before: dict[str, list[Any]], walk: Walk) -> tuple[list[dict[str, Any]], int]:
    files: list[dict[str, Any]] = []
    chars = count = 0
    for path, old, new in changes(before, walk.entries, walk.is_whole):
        count += 1
        if len(files) == LISTED_FILES:
            continue
        lines, left_out = diff_of(old, new)
        diff = "" if lines is None else "\n".join(lines)
        if chars + len(diff) > LISTED_CHARS:
            diff, left_out, lines = "", 0, None
        chars += len(diff)
        files.append(
            {
                "path": shown(path)[:1_000],
                "change": "added" if old is None else "deleted" if new is None else "changed",
                "kind": (new or old or [""] * 6)[KIND],
                "size": new[SIZE] if new else None,
                "was_size": old[SIZE] if old else None,
                "diff": diff,
                "is_compared": lines is not None,
                "lines_left_out": left_out,
            }
        )
    return files, count - len(files)


def shown(name: str) -> str:
    """Return a name of a file, which may be any bytes, as text."""
    return name.encode("utf-8", "backslashreplace").decode()


def load(place: str) -> tuple[dict[str, list[Any]], float] | None:
    """Return what was seen before, and when; None if nothing was, or an agent, which is the same user, spoiled it."""
    try:
        with open(place, "rb") as file:
            kept = json.loads(zlib.decompressobj().decompress(file.read(STATE_BYTES), STATE_BYTES))
        entries, at = kept["entries"], float(kept["at"])
        if any(len(entry) != 1 + TEXT for entry in entries.values()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None
    return entries, at


def store(place: str, entries: dict[str, list[Any]]) -> None:
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    new = f"{place}.{os.getpid()}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(zlib.compress(json.dumps({"entries": entries, "at": time.time()}).encode(), 1))
    os.replace(new, place)


def compared(directory: str, place: str, base: str) -> dict[str, Any]:
    if not os.path.isdir(directory):
        return {"problem": "The directory does not exist."}
    known = load(place)
    before: dict[str, list[Any]] | None
    since: float | None
    if known is not None:
        before, since = known
    elif base == "unknown":
        before, since = None, None
    elif base == "new":
        before, since = {}, None
    elif os.path.isdir(base):
        before, since = Walk(base, {}).entries, None
    else:
        return {"problem": "The directory it began as a copy of does not exist any more."}
    walk = Walk(directory, before or {})
    store(place, walk.entries)
    if before is None:
        return {"problem": "How the directory was before is not known. From the next turn on it is."}
    files, more = listed(before, walk)
    return {
        "since": since,
        "files": files,
        "files_left_out": more,
        "directories_left_out": sorted(walk.left_out),
        "is_whole": walk.is_whole,
    }


def main() -> None:
    os.nice(10)  # agents and the agent-server come first
    try:
        result = compared(*sys.argv[1:4])
    except (TooMuchError, OSError, RecursionError) as error:
        result = {"problem": str(error)[:300] or type(error).__name__}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
