"""The page of checks lists every check of ours."""

from __future__ import annotations

import re

from tests.laws import pages


def ids_in_code() -> set[str]:
    sources = (pages.ROOT / app / "checks.py" for app in ("gateway_project", "chatgateway", "profiles"))
    return {
        found for source in sources for found in re.findall(r'"((?:gateway|profiles)\.[EW]\d{3})"', source.read_text())
    }


def test_every_check_is_documented_and_no_other() -> None:
    documented = {name for row in pages.rows(pages.reference("checks.md")) for name in pages.named(row[0])}

    assert documented == ids_in_code()
