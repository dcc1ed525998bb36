"""The admin's first page in a real browser: empty, with a fortnight of traffic, and kept up to date."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from chatgateway.models import Turn
from tests.browser.chromium import Visit, browse
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

BOTH = pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
# How light the page behind everything is, from 0 to 255.
LIGHTNESS = """() => {
  const paint = document.createElement("canvas").getContext("2d");
  paint.fillStyle = getComputedStyle(document.body).backgroundColor;
  paint.fillRect(0, 0, 1, 1);
  const [red, green, blue] = paint.getImageData(0, 0, 1, 1).data;
  return (red + green + blue) / 3;
}"""


@pytest.fixture(autouse=True)
def _root(gateway: LiveGateway) -> None:
    User.objects.create_superuser("root", password="a long password")


@BOTH
def test_an_empty_gateway_says_what_to_do_first(
    gateway: LiveGateway, width: int, scheme: Literal["light", "dark"]
) -> None:
    def steps(visit: Visit) -> tuple[str, int, int, float]:
        visit.sign_in()
        visit.open("")
        page = visit.page
        return (
            page.inner_text("#content"),
            page.locator("svg .gw-chart-place").count(),
            visit.is_wider_than_window_by(),
            float(page.evaluate(LIGHTNESS)),
        )

    (text, charts, wider_by, lightness), complaints = browse(gateway.url, steps, width=width, scheme=scheme)

    assert complaints == []
    assert [said in text for said in ("To the first turn", "Add an agent-server", "No agent is working")] == [True] * 3
    assert (charts, wider_by) == (0, 0)
    assert (lightness < 60) == (scheme == "dark")


@BOTH
def test_with_traffic_a_bar_leads_to_the_turns_it_counts(
    gateway: LiveGateway, width: int, scheme: Literal["light", "dark"]
) -> None:
    call_command("seed_demo", turns=150, days=6, verbosity=0)

    def steps(visit: Visit) -> tuple[int, str, str, str, int]:
        page = visit.page
        visit.sign_in()
        visit.open("?range=7d")
        wider_by, charts = visit.is_wider_than_window_by(), page.locator(".gw-plot svg").count()
        bar = page.locator("[aria-labelledby=chart-turns] svg a").last
        said = bar.locator("title").inner_html()
        bar.click()
        page.wait_for_url("**/chatgateway/turn/**")
        page.locator(".gw-totals").wait_for()
        totals, chosen = page.inner_text(".gw-totals"), page.locator(".gw-chip-chosen").inner_text()
        page.locator(".gw-chip-chosen").click()
        page.locator(".gw-chip-chosen").wait_for(state="detached")
        page.locator(".gw-totals").wait_for()
        return charts, said, f"{chosen}\n{totals}", page.inner_text(".gw-totals"), wider_by

    (charts, said, listed, everything, wider_by), complaints = browse(gateway.url, steps, width=width, scheme=scheme)

    counted = sum(int(number) for number in re.findall(r"(?:answered|failed|refused|cancelled or open) (\d+)", said))
    assert complaints == []
    assert (charts, wider_by) == (6, 0)
    assert counted > 0
    assert re.search(rf"Turns\n+{counted}\n", listed)
    assert said.partition(": ")[0] in listed
    assert re.search(rf"Turns\n+{Turn.objects.count()}\n", everything)


def test_the_page_keeps_itself_up_to_date_and_stops_when_told_to(gateway: LiveGateway) -> None:
    def steps(visit: Visit) -> list[str]:
        page = visit.page
        visit.sign_in()
        visit.open("")
        at = page.get_by_text("as of ")
        first = at.inner_text()
        page.wait_for_function("text => !document.body.innerText.includes(text)", arg=first)
        page.get_by_role("button", name="Pause").click()
        page.get_by_text("Not kept up to date.").wait_for()
        second = at.inner_text()
        page.wait_for_timeout(6000)
        return [first, second, at.inner_text()]

    (first, second, third), complaints = browse(gateway.url, steps)

    assert complaints == []
    assert first != second
    assert second == third
