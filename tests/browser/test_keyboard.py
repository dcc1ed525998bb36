"""The admin without a mouse: everything that can be pressed is reached, and shows that it is."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page

from chatgateway.models import Event, Turn
from profiles.models import Tenant
from tests.admin.test_pages import history
from tests.browser.chromium import Visit, browse
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

MOST_TABS = 150
# What can be pressed or typed into and can be seen, without what is reached by arrow keys from its neighbour.
EVERYTHING = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
  .filter((one) => !one.closest("svg") && !one.disabled && one.type !== "hidden" && one.tabIndex >= 0)
  .filter((one) => one.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
  .filter((one) => one.getBoundingClientRect().width > 1)
  .map((one) => [[...document.querySelectorAll("*")].indexOf(one), one.outerHTML.slice(0, 120)])"""
# Which of the page's elements has the focus; null when none has.
FOCUSED = """() => document.activeElement === document.body
  ? null : [...document.querySelectorAll("*")].indexOf(document.activeElement)"""
TO_THE_TOP = "document.body.tabIndex = -1; document.body.focus()"
# Whether somebody sees where they are: an outline, a ring or a border that the element has only while it is focused.
IS_SHOWN = """() => {
  const one = document.activeElement;
  const look = () => { const is = getComputedStyle(one); return [is.outlineStyle, is.boxShadow, is.borderColor].join(); };
  const focused = look();
  one.blur();
  const blurred = look();
  one.focus();
  return focused !== blurred;
}"""


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until what `selector` names has the focus."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached with Tab")


def walked(page: Page) -> list[int]:
    """What has the focus, one after another, from the top of the page to its end. A date keeps it for several."""
    found: list[int] = []
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None or focused in found[:-1]:
            return found
        if focused not in found:
            found.append(focused)
    raise AssertionError("the page has no end")


def test_signing_in_finding_a_turn_opening_a_step_and_saving_a_form_need_no_mouse(gateway: LiveGateway) -> None:
    User.objects.create_superuser("root", password="a long password")
    history(1)
    turn = Turn.objects.get()
    Event.objects.filter(turn=turn).update(summary="a step", kind="ActionEvent")

    def steps(visit: Visit) -> tuple[str, list[bool]]:
        page, shown = visit.page, []
        page.goto(f"{gateway.url}/admin/login/")
        page.locator("input[name=username]").wait_for()
        if not page.evaluate("document.activeElement.matches('[name=username]')"):
            tab_to(page, "input[name=username]")
        page.keyboard.type("root")
        tab_to(page, "input[name=password]")
        page.keyboard.type("a long password")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{gateway.url}/admin/")
        tab_to(page, "a[href$='/chatgateway/turn/']")
        shown.append(bool(page.evaluate(IS_SHOWN)))
        page.keyboard.press("Enter")
        page.wait_for_url("**/chatgateway/turn/")
        tab_to(page, "#result_list tbody th a, #result_list .field-opened a")
        shown.append(bool(page.evaluate(IS_SHOWN)))
        page.keyboard.press("Enter")
        page.wait_for_url("**/change/**")
        tab_to(page, "[data-steps] summary")
        shown.append(bool(page.evaluate(IS_SHOWN)))
        page.keyboard.press("Enter")
        page.locator("[data-steps] details[open]").first.wait_for()
        page.goto(f"{gateway.url}/admin/profiles/tenant/add/")
        tab_to(page, "input[name=name]")
        page.keyboard.type("By keyboard")
        tab_to(page, "button[name=_save]")
        shown.append(bool(page.evaluate(IS_SHOWN)))
        page.keyboard.press("Enter")
        page.wait_for_url("**/profiles/tenant/")
        return page.inner_text("#content"), shown

    (listed, shown), complaints = browse(gateway.url, steps)

    assert complaints == []
    assert shown == [True] * 4
    assert "By keyboard" in listed
    assert Tenant.objects.filter(name="By keyboard").count() == 1


@pytest.mark.parametrize("path", ["", "chatgateway/turn/", "profiles/tenant/add/"])
def test_tab_reaches_everything_that_can_be_pressed(gateway: LiveGateway, path: str) -> None:
    User.objects.create_superuser("root", password="a long password")
    history(2)

    def steps(visit: Visit) -> tuple[dict[int, str], list[int]]:
        visit.sign_in()
        visit.open(path)
        visit.page.evaluate("document.querySelector('[data-live-pause]')?.click()")
        visit.page.evaluate(TO_THE_TOP)
        return dict(visit.page.evaluate(EVERYTHING)), walked(visit.page)

    (there, reached), complaints = browse(gateway.url, steps)

    assert complaints == []
    assert len(there) > 10
    assert [html for place, html in there.items() if place not in reached] == []
