"""An auditor's questions in a real browser: what was done for somebody on a day, what it cost, who said what."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from io import StringIO
from typing import Literal

import pytest
from django.core.management import call_command
from django.db.models import Sum
from django.utils import timezone

from chatgateway import message_store
from chatgateway.models import Conversation, TranscriptReading, Turn
from profiles.admin_theme import usd
from profiles.models import Tenant
from tests import factories
from tests.browser.chromium import Visit, browse
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def seeded(gateway: LiveGateway) -> LiveGateway:
    """Ten days of invented traffic, and an auditor."""
    call_command("seed_demo", turns=250, days=10, stdout=StringIO())
    factories.person("auditor", username="root", password="a long password")
    return gateway


def clicking(visit: Visit) -> tuple[Callable[[str, str], None], list[str]]:
    """Clicks what a person sees, and counts."""
    clicked: list[str] = []

    def click(place: str, text: str) -> None:
        clicked.append(text)
        visit.page.locator(place, has_text=text).first.click()
        visit.page.wait_for_load_state("networkidle")

    return click, clicked


def test_what_the_agent_did_for_a_tenant_on_a_day_and_what_it_cost_is_four_clicks_away(seeded: LiveGateway) -> None:
    today = timezone.localdate()
    tuesday = today - dt.timedelta(days=(today.weekday() - 1) % 7 or 7)
    turns = Turn.objects.filter(opened_at__date=tuesday, outcome="answered", profile__slug="coder")
    tenant = Tenant.objects.get(pk=turns.values_list("tenant", flat=True)[0])
    of_tenant = Turn.objects.filter(opened_at__date=tuesday, tenant=tenant)
    wanted = of_tenant.aggregate(cost=Sum("cost_usd"))["cost"]
    newest = of_tenant.latest("opened_at")
    days_ago = {1: "Yesterday"}.get((today - tuesday).days, f"{tuesday:%a} {tuesday.day} {tuesday:%b}")

    def steps(visit: Visit) -> tuple[list[str], str, str, str]:
        visit.sign_in()
        click, clicked = clicking(visit)
        click('nav a[href="/admin/chatgateway/turn/"], aside a[href="/admin/chatgateway/turn/"]', "Turns")
        click(".gw-days a", days_ago)
        click(".gw-selection td a", tenant.name)
        totals = visit.page.locator(".gw-totals").inner_text()
        click("#result_list tbody th a", "")
        return clicked, totals, visit.page.url, visit.page.inner_text("#content")

    (clicked, totals, url, page), complaints = browse(seeded.url, steps)

    assert complaints == []
    assert len(clicked) == 4
    assert f"Turns\n{of_tenant.count()}\n" in totals
    assert f"Cost\n{usd(wanted)}\n" in totals
    assert str(newest.pk) in url
    assert tenant.name in page


@pytest.mark.parametrize(("width", "scheme"), [(420, "dark"), (1400, "light")])
def test_words_are_searched_for_and_shown_where_they_stand(
    seeded: LiveGateway, width: int, scheme: Literal["light", "dark"]
) -> None:
    turn = Turn.objects.filter(match="new", outcome="answered", conversation__isnull=False).latest("opened_at")
    assert turn.last_message is not None
    question = message_store.text_of(turn.last_message.body["content"])
    phrase = " ".join(question.split()[:5])
    wanted = Conversation.objects.get(turns=turn)

    def search(visit: Visit, path: str) -> str:
        visit.open(path)
        visit.page.fill("#searchbar", f'"{phrase.upper()}"')
        visit.page.press("#searchbar", "Enter")
        visit.page.wait_for_url("**q=**")
        visit.page.wait_for_load_state("networkidle")
        wider_by = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert visit.page.evaluate(wider_by) <= 0
        return str(visit.page.content())

    def steps(visit: Visit) -> tuple[list[str], str, str, str]:
        visit.sign_in()
        of_turns = search(visit, "chatgateway/turn/")
        marked = visit.page.locator(".gw-found mark").all_inner_texts()
        of_conversations = search(visit, "chatgateway/conversation/")
        visit.page.fill("#searchbar", "nobody ever said this")
        visit.page.press("#searchbar", "Enter")
        visit.page.get_by_text("Nothing matches").wait_for()
        return marked, of_turns, of_conversations, visit.page.inner_text("#content")

    (marked, of_turns, of_conversations, nothing), complaints = browse(seeded.url, steps, width=width, scheme=scheme)

    assert complaints == []
    assert {text.casefold() for text in marked} == {phrase.casefold()}
    assert str(turn.pk) in of_turns
    assert str(wanted.pk) in of_conversations
    assert "Nothing matches" in nothing
    assert TranscriptReading.objects.filter(what="search", username="root").count() == 3
