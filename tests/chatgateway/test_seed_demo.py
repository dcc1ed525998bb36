"""Invented conversations look like real ones to everything that reads them."""

from __future__ import annotations

import datetime as dt
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Count, Max, Min, Sum
from django.utils import timezone

from chatgateway import audit, finding
from chatgateway.models import Conversation, DailyUsage, Event, LedgerEntry, Turn
from chatgateway.openai_api.messages import parse_messages
from chatgateway.search import Named
from chatgateway.seeding import cast, history
from profiles.models import ApiKey, Profile
from tests import factories

pytestmark = pytest.mark.django_db


def seed(**options: Any) -> None:
    call_command("seed_demo", **{"turns": 150, "days": 7} | options, stdout=StringIO())


def test_it_writes_as_many_turns_as_it_was_told_with_everything_that_belongs_to_them() -> None:
    seed(running=3)

    outcomes = dict(Turn.objects.order_by().values_list("outcome").annotate(n=Count("pk")))
    times = Turn.objects.aggregate(first=Min("opened_at"), last=Max("opened_at"), closed=Max("closed_at"))
    assert sum(outcomes.values()) == 150
    assert outcomes["open"] == 3
    assert outcomes["answered"] > 100
    assert {"failed", "refused"} <= set(outcomes)
    assert times["first"] > timezone.now() - dt.timedelta(days=8)
    assert max(times["last"], times["closed"]) <= timezone.now()
    assert set(Event.objects.values_list("tool", flat=True)) == {"", "terminal", "file_editor"}
    assert Turn.objects.filter(profile__slug="local", input_tokens__gt=0, cost_usd__isnull=False).count() == 0
    assert Turn.objects.filter(profile__slug="coder", outcome="answered", cost_usd__isnull=True).count() == 0
    spent = Turn.objects.aggregate(sum=Sum("cost_usd"))["sum"]
    assert LedgerEntry.objects.aggregate(sum=Sum("cost_usd"))["sum"] == spent
    assert DailyUsage.objects.aggregate(sum=Sum("cost_usd"))["sum"] == spent
    assert Turn.objects.filter(match="fork", conversation__branched_at__isnull=False).exists()
    assert ApiKey.objects.filter(last_used_at__isnull=False).exists()


def test_the_request_of_a_turn_can_be_rebuilt() -> None:
    seed(turns=30)
    turn = Turn.objects.filter(match="history").latest("opened_at")

    body = audit.rebuild_request(turn)

    assert [message["role"] for message in body["messages"]][-1] == "user"
    assert len(body["messages"]) >= 3
    assert body["model"] == turn.model_id


def test_a_client_that_sends_an_invented_history_again_goes_on_with_its_conversation() -> None:
    now = timezone.now()
    people = cast.make(now=now, started_at=now - dt.timedelta(days=2))
    list(history.write(people, history.Amounts(turns=60, days=1), seed=1, now=now))
    followed = Turn.objects.filter(parent__isnull=False).values("parent_id")
    turn = (
        Turn.objects.filter(outcome="answered", profile__tools=[], conversation__state="live")
        .exclude(pk__in=followed)
        .select_related("conversation", "profile")
        .latest("opened_at")
    )
    caller = next(one for one in people.callers.values() if one.api_key_id == turn.api_key_id)
    messages = [*audit.rebuild_request(turn)["messages"], {"role": "assistant", "content": turn.answer}]
    transcript = parse_messages(
        [*messages, {"role": "user", "content": "And then?"}], accepts_images=False, accepts_remote_images=False
    )

    found = finding.find_for(
        caller=caller,
        profile=people.profiles[turn.profile.slug],
        named=Named(end_user=turn.end_user),
        transcript=transcript,
    )

    assert found.how == "history"
    assert found.conversation.pk == turn.conversation_id


def test_one_seed_draws_one_history() -> None:
    now = timezone.now()
    people = cast.make(now=now, started_at=now - dt.timedelta(days=7))

    def drawn(seed: int) -> list[tuple[Any, ...]]:
        talks = history.drawn(people, history.Amounts(turns=60, days=7), seed=seed, now=now)
        return [
            (turn.id, turn.opened_at, turn.asked.body, turn.ending and turn.ending.answer)
            for _, turns in talks
            for turn in turns
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_real_traffic_is_left_alone_unless_it_is_told() -> None:
    Turn.objects.create(request_id="req_1", endpoint="chat.completions")

    with pytest.raises(CommandError, match="has turns already"):
        seed()
    assert Conversation.objects.count() == 0

    seed(turns=10, add=True)
    assert Turn.objects.count() == 11
    with pytest.raises(CommandError, match="--seed 1 are here already"):
        seed(turns=10, add=True)
    seed(turns=10, add=True, seed=2)
    assert Turn.objects.count() == 21


def test_somebody_elses_profile_of_the_same_name_is_not_taken() -> None:
    factories.profile(slug="Coder")

    with pytest.raises(CommandError, match="There is a profile 'coder'"):
        seed()

    assert Profile.objects.count() == 1


@pytest.mark.parametrize(("name", "value"), [("turns", 0), ("days", 0), ("running", 200)])
def test_amounts_that_make_no_sense_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(CommandError, match=f"--{name}"):
        seed(**{name: value})
