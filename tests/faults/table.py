"""The table of faults: printed at the end of a run, and kept in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from tests.faults.books import Balance

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "faults.md"
HEADS = {
    "scenario": "What breaks",
    "calls": "Calls",
    "answered": "Answered",
    "told": "Told",
    "cut": "Cut",
    "turns_lost": "Turns lost",
    "most_runs": "Most runs of a call",
    "crossed": "Answers crossed",
    "slots_leaked": "Slots leaked",
    "wrong_rows": "Wrong rows",
}
_SCENARIO = re.compile(r"mark\.scenario\(\s*\"([^\"]+)\"")


def rows_of(balances: Iterable[Balance]) -> dict[str, list[str]]:
    """The cells of each scenario; variants of one are counted together."""
    added: dict[str, Balance] = {}
    for one in balances:
        added[one.scenario] = one if one.scenario not in added else added[one.scenario] + one
    return {name: [str(getattr(one, field.name)) for field in fields(one)] for name, one in sorted(added.items())}


def scenarios() -> set[str]:
    """Every scenario that a test is marked with."""
    return {name for file in Path(__file__).parent.glob("test_*.py") for name in _SCENARIO.findall(file.read_text())}


def documented() -> dict[str, list[str]]:
    """The rows that the page has."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row for row in cells}


def document(rows: dict[str, list[str]]) -> None:
    """Put the rows of a run into the page; those of scenarios that it did not play stay."""
    known = scenarios()
    merged = {name: row for name, row in (documented() | rows).items() if name in known}
    body = [_line(HEADS.values()), _line(["---", *["---:"] * (len(HEADS) - 1)])]
    body += [_line(merged[name]) for name in sorted(merged)]
    text = PAGE.read_text()
    first, last = text.index("\n|") + 1, text.rindex("|\n") + 2
    PAGE.write_text(text[:first] + "".join(body) + text[last:])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
