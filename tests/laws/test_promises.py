"""The numbered promises of the reference, and the tests that hold them."""

from __future__ import annotations

import re

from tests.laws.pages import ROOT, reference

_NUMBER = re.compile(r"^\| R(\d+) \|", re.MULTILINE)
_TEST = re.compile(r"^def test_r(\d+)_", re.MULTILINE)


def test_every_promise_is_held_by_a_test_that_bears_its_number_and_no_test_bears_another() -> None:
    sources = (path.read_text() for path in (ROOT / "tests").glob("*/test_*.py"))
    held = {number for source in sources for number in _TEST.findall(source)}

    assert held == set(_NUMBER.findall(reference("promises.md")))
