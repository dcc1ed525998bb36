"""A file of a selection, as somebody has it who presses the button in a real browser."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from chatgateway.models import TranscriptReading
from tests.admin.test_pages import history
from tests.admin.test_turn_pages import turn_with
from tests.browser.chromium import Visit, browse
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def root(transactional_db: None) -> User:
    return User.objects.create_superuser("root", password="a long password")


def pressed(visit: Visit, title: str) -> str:
    """The file behind a button of the page at hand."""
    with visit.page.expect_download() as coming:
        visit.page.get_by_role("link", name=title, exact=True).click()
    return Path(coming.value.path()).read_text(encoding="utf-8-sig")


def test_what_the_list_shows_is_downloaded_whole(gateway: LiveGateway, root: User) -> None:
    history(60)  # failed ones, more than a page
    turn_with(request_id="req_answered")

    def steps(visit: Visit) -> tuple[str, str]:
        visit.sign_in()
        visit.open("chatgateway/turn/?outcome__exact=failed")
        table = pressed(visit, "CSV")
        visit.open("chatgateway/conversation/")
        return table, pressed(visit, "JSONL")

    (table, lines), complaints = browse(gateway.url, steps)

    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert {row["request_id"] for row in rows} == {f"req_{number}" for number in range(60)}
    assert {row["time_zone"] for row in rows} == {json.loads(line)["time_zone"] for line in lines.splitlines()}
    assert len(lines.splitlines()) == 60
    assert complaints == []
    assert [reading.turns for reading in TranscriptReading.objects.filter(what="export")] == [60, 60]
