"""The documentation as data: its pages, tables, snippets, links and headings."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    page: Path
    target: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)} -> {self.target}"

    @property
    def file(self) -> Path:
        path = self.target.partition("#")[0]
        return (self.page.parent / path).resolve() if path else self.page

    @property
    def anchor(self) -> str:
        return self.target.partition("#")[2]


@cache
def text_of(page: Path) -> str:
    return page.read_text()


def reference(name: str) -> str:
    return text_of(DOCS / "reference" / name)


def snippets(*languages: str) -> list[Snippet]:
    return [
        Snippet(
            page=str(page.relative_to(ROOT)),
            line=text_of(page).count("\n", 0, found.start()) + 1,
            language=found[1],
            text=found[2],
        )
        for page in PAGES
        for found in _FENCE.finditer(text_of(page))
        if found[1] in languages
    ]


def links() -> list[Link]:
    """Links to files of this repository."""
    return [
        Link(page=page, target=target)
        for page in PAGES
        for target in _LINK.findall(_FENCE.sub("", text_of(page)))
        if not re.match(r"[a-z]+:", target)
    ]


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of its level or above; empty if there is none."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, heads and rulers left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rulers = {index for index, line in enumerate(lines) if set(line) <= set("|- ")}
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for index, line in enumerate(lines)
        if index not in rulers and index + 1 not in rulers
    ]


def named(cell: str) -> list[str]:
    """What stands in code style."""
    return _CODE.findall(cell)


def reachable() -> set[Path]:
    """Pages that somebody gets to who starts at the README and follows links."""
    by_page: dict[Path, list[Path]] = {}
    for link in links():
        by_page.setdefault(link.page, []).append(link.file)
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in seen:
            seen.add(page)
            todo += by_page.get(page, [])
    return seen


def versioned_files() -> set[Path]:
    """Files that git knows or would: what readers of the repository have."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    return {ROOT / line for line in listed.stdout.splitlines()}
