"""Looking a history up: what it costs, and by what it is found."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chatgateway import places
from chatgateway.models import Conversation, Turn
from chatgateway.openai_api import histories
from chatgateway.openai_api.histories import SentHistory
from chatgateway.openai_api.messages import parse_messages
from chatgateway.places import Within
from tests import factories

pytestmark = pytest.mark.django_db


def sent(*messages: tuple[str, str]) -> SentHistory:
    transcript = parse_messages(
        [{"role": role, "content": content} for role, content in messages],
        accepts_images=False,
        accepts_remote_images=False,
    )
    scope = histories.scope(tenant_id=1, profile_id=1, system_text="", end_user="")
    return histories.sent_history(transcript, scope=scope)


def turn(asked: SentHistory, *, outcome: str = "answered", answer: str = "Yes.", **fields: Any) -> Turn:
    tenant = fields.pop("tenant", None) or factories.tenant()
    conversation = fields.pop("conversation", None) or Conversation.objects.create(tenant=tenant)
    is_open = outcome == "open"
    return Turn.objects.create(
        tenant=tenant,
        conversation=conversation,
        outcome=outcome,
        answer=answer,
        request_digest=asked.request_digest,
        end_digest=histories.end_digest(asked.request_digest, answer) if outcome == "answered" else "",
        closed_at=None if is_open else conversation.created_at,
        arrival=fields.pop("arrival", Turn.objects.count() + 1),
        **fields,
    )


def found(history: SentHistory, of: Turn, **within: Any) -> places.Place | None:
    assert of.tenant_id is not None
    return places.find(history, within=Within(tenant_id=of.tenant_id, **within), may_wait=False)


HI = ("user", "Hi")


@pytest.mark.parametrize(
    ("messages", "outcome", "queries"),
    [
        ([HI], "answered", 0),
        ([HI, ("assistant", "Yes."), ("user", "More.")], "answered", 2),
        ([HI, ("assistant", "Yes."), ("user", "More.")], "cancelled", 2),
        ([HI, ("assistant", "Ye"), ("user", "More.")], "cancelled", 2),
        ([HI, ("assistant", "No."), ("user", "More.")], "answered", 1),
        ([HI, ("user", "More.")], "cancelled", 2),
        ([HI, ("user", "More.")], "answered", 1),
        ([HI, ("assistant", "Yes."), ("user", "More."), ("user", "And more.")], "answered", 2),
        ([HI, ("assistant", "No."), ("user", "More."), ("user", "And more.")], "answered", 1),
    ],
)
def test_a_history_costs_two_queries_at_most(messages: list[tuple[str, str]], outcome: str, queries: int) -> None:
    row = turn(sent(HI), outcome=outcome)

    with CaptureQueriesContext(connection) as captured:
        place = found(sent(*messages), row)

    assert len(captured) == queries
    assert (place is not None) == (queries == 2)


def test_what_is_found_comes_with_its_conversation_and_without_its_long_texts() -> None:
    row = turn(sent(HI), reasoning="Hm.", parameters={"model": "x"})
    assert row.conversation is not None

    place = found(sent(HI, ("assistant", "Yes."), ("user", "More.")), row)

    assert place is not None
    with CaptureQueriesContext(connection) as captured:
        assert (place.turn, place.turn.conversation) == (row, row.conversation)
        assert place.turn.opened_at == row.opened_at
        assert place.turn.conversation.metadata == {}
    assert not captured.captured_queries
    assert (place.turn.reasoning, place.turn.parameters) == ("Hm.", {"model": "x"})


def plans_of(history: SentHistory, of: Turn, **within: Any) -> list[str]:
    """How the database answers each query of a look-up."""
    with CaptureQueriesContext(connection) as captured:
        found(history, of, **within)
    explain = "EXPLAIN QUERY PLAN "
    plans = []
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            explain = "EXPLAIN "
            cursor.execute("SET LOCAL enable_seqscan = off")  # a table of two rows is read whole otherwise
        for query in captured.captured_queries:
            cursor.execute(explain + query["sql"])
            plans.append("\n".join(str(row) for row in cursor.fetchall()))
    return plans


@pytest.mark.parametrize("narrowed", [{}, {"api_key_id": 1}])
def test_each_query_reads_its_index_newest_first_and_no_table_whole(narrowed: dict[str, Any]) -> None:
    row = turn(sent(HI))

    two_stops = sent(HI, ("assistant", "No."), ("user", "More."), ("user", "And more."))
    with_one_stop = plans_of(sent(HI, ("assistant", "No."), ("user", "More.")), row, **narrowed)[0]
    with_two_stops = plans_of(two_stops, row, **narrowed)[0]

    assert [plan.count("turn_ended_with") for plan in (with_one_stop, with_two_stops)] == [1, 1]
    assert [plan.count("turn_began_unanswered") for plan in (with_one_stop, with_two_stops)] == [1, 2]
    for plan in (with_one_stop, with_two_stops):
        assert "SCAN chatgateway_" not in plan
        assert "Seq Scan" not in plan
        if connection.vendor == "sqlite":  # of a table of two rows PostgreSQL takes whichever index is the shortest
            assert "turn_in_conversation" in plan


def test_within_a_family_no_table_is_read_whole_either() -> None:
    row = turn(sent(HI))

    plans = plans_of(sent(HI, ("assistant", "Yes."), ("user", "More.")), row, root_id=row.conversation_id)

    assert len(plans) == 2
    assert not [plan for plan in plans if "SCAN chatgateway_" in plan or "Seq Scan" in plan]


def test_a_common_greeting_is_not_in_the_way_of_the_one_that_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that were answered are looked up by their end; thousands may have begun alike."""
    monkeypatch.setattr(places, "SCANNED", 3)
    stopped = turn(sent(HI), outcome="cancelled", answer="Yes, bec")
    for _ in range(5):
        turn(sent(HI), tenant=stopped.tenant)

    place = found(sent(HI, ("assistant", "Yes, b"), ("user", "More.")), stopped)

    assert place is not None
    assert place.turn == stopped


def test_a_common_answer_is_not_in_the_way_of_the_message_that_was_stopped_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "CANDIDATES", 3)
    on = sent(HI, ("assistant", "Yes."), ("user", "On."))
    stopped = turn(on, outcome="cancelled", answer="")
    for _ in range(5):
        turn(sent(HI), tenant=stopped.tenant)

    place = found(sent(HI, ("assistant", "Yes."), ("user", "On."), ("user", "More.")), stopped)

    assert place is not None
    assert place.turn == stopped


def test_a_named_conversation_is_found_however_common_its_history_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SCANNED", 3)
    first = turn(sent(HI))
    for _ in range(5):
        turn(sent(HI), tenant=first.tenant)
    history = sent(HI, ("assistant", "Yes."), ("user", "More."))

    place = found(history, first, root_id=first.conversation_id)

    assert place is not None
    assert place.turn == first


def test_of_equal_histories_one_that_has_not_gone_on_is_taken_then_the_newest() -> None:
    asked = sent(HI)
    tenant = factories.tenant()
    rows = [turn(asked, tenant=tenant) for _ in range(3)]
    turn(sent(HI, ("assistant", "Yes."), ("user", "On.")), tenant=tenant, conversation=rows[2].conversation)
    history = sent(HI, ("assistant", "Yes."), ("user", "More."))

    first = found(history, rows[0])
    turn(sent(HI, ("assistant", "Yes."), ("user", "On.")), tenant=tenant, conversation=rows[1].conversation)
    turn(sent(HI, ("assistant", "Yes."), ("user", "On.")), tenant=tenant, conversation=rows[0].conversation)
    second = found(history, rows[0])

    assert first is not None
    assert second is not None
    assert (first.turn, first.is_latest) == (rows[1], True)
    assert (second.turn, second.is_latest) == (rows[2], False)


@pytest.mark.parametrize(
    ("outcome", "is_latest"), [("failed", True), ("refused", True), ("cancelled", False), ("open", False)]
)
def test_a_turn_that_came_to_nothing_does_not_take_the_place(outcome: str, is_latest: bool) -> None:
    row = turn(sent(HI))
    turn(
        sent(HI, ("assistant", "Yes."), ("user", "On.")),
        tenant=row.tenant,
        conversation=row.conversation,
        outcome=outcome,
        parent=row,
    )

    place = found(sent(HI, ("assistant", "Yes."), ("user", "More.")), row)

    assert place is not None
    assert place.is_latest is is_latest


@pytest.mark.parametrize("outcome", ["cancelled", "failed", "timed_out", "abandoned"])
def test_turns_without_an_answer_are_found_by_the_beginning_of_it(outcome: str) -> None:
    row = turn(sent(HI), outcome=outcome, answer="<think>Hm.</think>Yes, bec")

    resent = ("Yes, b", "", "<think>Hm", "<think>Hm.</think>Yes", "Yes, because", "No")
    places_found = [found(sent(HI, ("assistant", text), ("user", "More.")), row) is not None for text in resent]

    assert places_found == [True, True, True, True, False, False]


def test_other_tenants_keys_families_and_deleted_conversations_are_not_looked_at() -> None:
    row = turn(sent(HI))
    assert row.conversation is not None
    history = sent(HI, ("assistant", "Yes."), ("user", "More."))
    other = turn(sent(HI))

    assert found(history, row) is not None
    assert found(history, row, root_id=row.conversation.pk) is not None
    assert found(history, row, root_id=other.conversation_id) is None
    assert found(history, row, api_key_id=factories.api_key().row.pk) is None
    Conversation.objects.filter(pk=row.conversation.pk).update(state="deleted")
    assert found(history, row) is None
    assert found(history, other) is not None
