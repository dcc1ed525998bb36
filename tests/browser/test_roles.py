"""What each role is offered, shown and refused when it signs in with a browser."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from chatgateway.models import Conversation, Turn
from profiles.models import Profile
from tests import factories
from tests.admin.test_pages import history
from tests.browser.chromium import Visit, browse
from tests.gateway_process import LiveGateway

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

QUESTION = "What is the password of the printer?"


@dataclass(frozen=True, kw_only=True)
class Sees:
    """`offered`: what the navigation has of these pages; `refused`: which of them say no when typed into the bar."""

    offered: set[str]
    refused: set[str]
    reads_texts: bool
    may_save_a_profile: bool
    may_test_a_profile: bool
    may_drain: bool


PAGES = {
    "turns": "chatgateway/turn/",
    "background tasks": "chatgateway/taskrun/",
    "profiles": "profiles/profile/",
    "changes": "profiles/changerecord/",
    "readings": "chatgateway/transcriptreading/",
    "users": "auth/user/",
    "a new profile": "profiles/profile/add/",
}
SEEN = {
    "administrator": Sees(
        offered={"turns", "background tasks", "profiles", "changes", "readings"},
        refused={"users"},
        reads_texts=False,
        may_save_a_profile=True,
        may_test_a_profile=True,
        may_drain=True,
    ),
    "operator": Sees(
        offered={"turns", "background tasks", "profiles"},
        refused={"changes", "readings", "users", "a new profile"},
        reads_texts=False,
        may_save_a_profile=False,
        may_test_a_profile=True,
        may_drain=True,
    ),
    "auditor": Sees(
        offered={"turns", "profiles", "changes", "readings"},
        refused={"background tasks", "users", "a new profile"},
        reads_texts=True,
        may_save_a_profile=False,
        may_test_a_profile=False,
        may_drain=False,
    ),
}


@pytest.mark.parametrize("role", SEEN)
def test_a_role_is_offered_what_it_may_do_and_refused_the_rest(gateway: LiveGateway, role: str) -> None:
    factories.person(role, username="ada", password="a long password")
    history(1)
    turn, profile = Turn.objects.get(), Profile.objects.get()
    Turn.objects.update(answer=QUESTION, error_message="", error_detail="")
    conversation = Conversation.objects.get()

    def text_of(visit: Visit, path: str) -> str:
        visit.open(path)
        texts = [visit.page.inner_text("body")]
        if visit.page.locator('iframe[title="Answer"]').count():
            texts.append(visit.page.frame_locator('iframe[title="Answer"]').locator("body").inner_text())
        return "\n".join(texts)

    def steps(visit: Visit) -> tuple[Sees, str]:
        page = visit.page
        visit.sign_in("ada")
        visit.open("")
        links = [link.get_attribute("href") for link in page.locator("nav a, #nav-sidebar a, aside a").all()]
        offered = {name for name, path in PAGES.items() if f"/admin/{path}" in links}
        refused = {name for name, path in PAGES.items() if visit.open(path) == 403}
        no = page.inner_text("body") if visit.open("auth/user/") == 403 else ""
        texts = [
            text_of(visit, f"chatgateway/turn/{turn.pk}/change/"),
            text_of(visit, f"chatgateway/conversation/{conversation.pk}/change/"),
        ]
        visit.open(f"profiles/profile/{profile.pk}/change/")
        save, test = page.locator("button[name=_save]").count(), page.locator("a[href$='/test/']").count()
        visit.open(f"chatgateway/agentserver/{turn.agent_server_id}/change/")
        seen = Sees(
            offered=offered,
            refused=refused,
            reads_texts={QUESTION in text for text in texts} == {True},
            may_save_a_profile=save > 0,
            may_test_a_profile=test > 0,
            may_drain=page.locator("a[href$='/drain/']").count() > 0,
        )
        assert {QUESTION in text for text in texts} != {True, False}
        return seen, no

    (seen, no), complaints = browse(gateway.url, steps)

    assert seen == SEEN[role]
    assert "403" in no
    # The browser notes each refusal, whose page has no icon.
    assert [text for text in complaints if "403" not in text and "favicon.ico" not in text] == []
