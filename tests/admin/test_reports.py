"""The report for a tenant or an end user: what is in it, what is not, and that nothing in it runs."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from chatgateway import removal
from chatgateway.models import Conversation, Event, FileChanges, TranscriptReading, Turn
from profiles.models import Tenant
from tests import factories
from tests.admin.test_exports import NIGHT, asked, content
from tests.admin.test_pages import HOSTILE
from tests.admin.test_roles import signed_in
from tests.admin.test_turn_pages import turn_with

pytestmark = pytest.mark.django_db(transaction=True)

URL = reverse("admin:chatgateway_conversation_report")
DAY = "2026-11-21"


class _Tags(HTMLParser):
    """Which elements a document has, and which attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture
def acme() -> Tenant:
    return factories.tenant(name="Acme")


def talk(tenant: Tenant, *, end_user: str = "", **fields: Any) -> Turn:
    """A turn at night in which a command was run and a file was changed."""
    conversation = Conversation.objects.create(
        tenant=tenant, tenant_name=tenant.name, profile_slug="dev", end_user=end_user
    )
    given: dict[str, Any] = {
        "tenant": tenant, "tenant_name": tenant.name, "conversation": conversation, "opened_at": NIGHT, "answer": "Done.",
        "closed_at": NIGHT + dt.timedelta(seconds=4), "last_message": asked("Please build it."), "input_tokens": 1_200,
        "output_tokens": 30, "cost_usd": Decimal("0.25"), "profile_snapshot": {"slug": "dev"},
    }  # fmt: skip
    turn = turn_with(**given | fields)
    raw = {"action": {"kind": "TerminalAction", "command": "make all"}, "id": "1"}
    Event.objects.create(
        turn=turn, conversation=conversation, seq=1, kind="ActionEvent", tool="terminal", summary="make all", raw=raw
    )
    file = {
        "path": "out/a.txt", "change": "added", "kind": "text", "size": 4, "was_size": None, "diff": "+new",
        "is_compared": True, "lines_left_out": 0,
    }  # fmt: skip
    FileChanges.objects.create(turn=turn, files=[file])
    return turn


def report(
    browser: Client, *, tenant: Tenant | None = None, end_user: str = "", first: str = DAY, last: str = DAY
) -> str:
    given = {"tenant": tenant.pk if tenant else "", "end_user": end_user, "first": first, "last": last}
    return content(browser.post(URL, given))


def test_it_tells_what_was_asked_done_changed_answered_and_what_it_cost(admin: Client, acme: Tenant) -> None:
    talk(acme, end_user="ann")
    talk(acme, outcome="failed", cost_usd=None, error_message="The agent failed.")
    talk(factories.tenant(name="Other"), answer="Not theirs.")

    html = report(admin, tenant=acme)

    for text in ("Please build it.", "make all", "out/a.txt", "added, 4 bytes", "+new", "Done.", "The agent failed."):
        assert text in html
    for total in ("<dt>Turns</dt><dd>2</dd>", "<dt>Failures</dt><dd>1</dd>", "<dt>Tool calls</dt><dd>2</dd>",
                  "<dt>Cost</dt><dd>$0.2500</dd>", "<dt>Turns of unknown price</dt><dd>1</dd>"):  # fmt: skip
        assert total in html
    assert html.index("<dt>Cost</dt>") < html.index("Please build it.")
    assert "Not theirs." not in html
    assert html.rstrip().endswith("</html>")


def test_nothing_in_it_runs_or_loads_anything(admin: Client, acme: Tenant) -> None:
    turn = talk(acme, end_user=HOSTILE, answer=HOSTILE, last_message=asked(HOSTILE), error_message=HOSTILE,
                tenant_name=HOSTILE, profile_snapshot={"slug": HOSTILE})  # fmt: skip
    Tenant.objects.filter(pk=acme.pk).update(name=HOSTILE[:100])
    Event.objects.update(summary=HOSTILE, tool=HOSTILE[:100])
    FileChanges.objects.update(
        files=[{"path": HOSTILE, "change": "added", "kind": "text", "size": 1, "was_size": None, "diff": f"+{HOSTILE}",
                "is_compared": True, "lines_left_out": 0}]
    )  # fmt: skip
    acme.refresh_from_db()

    html = report(admin, tenant=acme)

    tags = _Tags(html)
    assert tags.found & {"script", "img", "link", "iframe", "object", "form", "a", "base", "svg"} == set()
    assert {name for name in tags.attributes if name.startswith("on") or name in {"src", "href", "style"}} == set()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert html.count("&lt;script&gt;alert") >= 6
    assert str(turn.pk) in html


@pytest.mark.parametrize(("first", "last", "count"), [("2026-11-20", "2026-11-20", 1), (DAY, DAY, 0)])
def test_days_are_those_of_the_viewers_zone_which_it_names(
    admin: Client, acme: Tenant, first: str, last: str, count: int
) -> None:
    talk(acme)
    admin.cookies["gateway_time_zone"] = "America/New_York"

    html = report(admin, tenant=acme, first=first, last=last)

    assert f"<dt>Turns</dt><dd>{count}</dd>" in html
    assert "America/New_York" in html
    assert ("2026-11-20 21:30:00" in html) == bool(count)
    assert ("Nothing was asked in this time." in html) == (not count)


def test_of_a_person_it_has_unnamed_turns_of_its_conversations_too_and_nobody_elses(
    admin: Client, acme: Tenant
) -> None:
    talk(acme, end_user="ann", answer="Unnamed turn of hers.")
    Turn.objects.update(end_user="")
    named = talk(acme, answer="Named turn of hers.")
    Turn.objects.filter(pk=named.pk).update(end_user="ann")
    talk(acme, end_user="bob", answer="His.")

    html = report(admin, end_user="ann")

    assert "Unnamed turn of hers." in html
    assert "Named turn of hers." in html
    assert "His." not in html


def test_removed_texts_say_so(admin: Client, acme: Tenant) -> None:
    turn = talk(acme)
    removal.remove_content([turn.pk], why="Texts are kept for 30 days (profile dev).")

    html = report(admin, tenant=acme)

    assert "Texts are kept for 30 days (profile dev)." in html
    assert "make all" not in html


def test_an_administrators_has_figures_an_operator_has_none_and_each_is_recorded(acme: Tenant) -> None:
    talk(acme, end_user="ann")
    given = {"tenant": acme.pk, "end_user": "ann", "first": DAY, "last": DAY}

    refused = [getattr(signed_in("operator"), method)(URL, given).status_code for method in ("get", "post")]
    figures = report(signed_in("administrator"), tenant=acme, end_user="ann")
    texts = report(signed_in("auditor"), tenant=acme, end_user="ann")

    assert refused == [403, 403]
    assert "Please build it." in texts
    assert "make all" not in figures
    assert "$0.25" in figures
    assert "takes the permission of the role auditor" in figures
    readings = list(TranscriptReading.objects.order_by("at"))
    assert [(one.what, one.turns) for one in readings] == [("export", 0), ("export", 1)]
    assert readings[1].selection.startswith("report, with texts: tenant Acme, end user #")
    assert "ann" not in readings[1].selection


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"first": DAY, "last": DAY}, "Choose a tenant, or name an end user."),
        ({"end_user": "ann", "first": DAY, "last": "2026-11-20"}, "The last day is before the first."),
        ({"end_user": "ann", "first": "soon", "last": DAY}, "Enter a valid date."),
        ({"tenant": "999999", "first": DAY, "last": DAY}, "Select a valid choice."),
    ],
)
def test_what_cannot_be_reported_is_said_in_the_form(admin: Client, given: dict[str, str], problem: str) -> None:
    answer = admin.post(URL, given)

    assert problem in answer.content.decode()
    assert not TranscriptReading.objects.exists()


def test_it_is_reached_from_a_tenant_a_conversation_and_the_lists(admin: Client, acme: Tenant) -> None:
    turn = talk(acme, end_user="ann")
    wanted = f"{URL}?tenant={acme.pk}"

    of_tenant = admin.get(reverse("admin:profiles_tenant_report", args=[acme.pk]))
    conversation = admin.get(reverse("admin:chatgateway_conversation_change", args=[turn.conversation_id]))
    listed = admin.get(reverse("admin:chatgateway_conversation_changelist"), {"tenant__id__exact": acme.pk})
    form = admin.get(of_tenant["Location"])

    assert of_tenant["Location"] == wanted
    assert f"{wanted}&amp;end_user=ann" in conversation.content.decode()
    assert wanted in listed.content.decode()
    assert f'<option value="{acme.pk}" selected' in form.content.decode()
