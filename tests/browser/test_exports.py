"""A file of a selection, as somebody has it who presses the button in a real browser."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal

import pytest
from django.contrib.auth.models import User

from chatgateway.models import TranscriptReading
from profiles.models import Tenant
from tests.admin.test_pages import HOSTILE, history
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


@pytest.mark.parametrize(("width", "scheme"), [(420, "dark"), (1200, "light")])
def test_a_report_is_asked_for_and_reads_by_itself(
    gateway: LiveGateway, root: User, tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    history(2)  # of two tenants, with hostile texts
    tenant = Tenant.objects.earliest("pk")
    file = tmp_path / "report.html"

    def steps(visit: Visit) -> str:
        visit.sign_in()
        visit.open(f"chatgateway/conversation/?tenant__id__exact={tenant.pk}")
        visit.page.get_by_role("link", name="Report …").click()
        with visit.page.expect_download() as coming:
            visit.page.get_by_role("button", name="Make the report").click()
        coming.value.save_as(file)
        visit.url = file.as_uri()
        visit.page.goto(file.as_uri())
        assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(17, 24, 39)") == (scheme == "dark")  # its own style is let in by its policy
        return visit.page.inner_text("body")

    text, complaints = browse(gateway.url, steps, width=width, scheme=scheme)

    assert f"What agents did for tenant {tenant.name}" in text
    assert HOSTILE in text
    assert complaints == []
