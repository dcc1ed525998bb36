"""Which turn a repeated request joins, told from the rows alone."""

from __future__ import annotations

import pytest
from django.db import transaction
from django.utils import timezone

from chatgateway import audit, conversations, repeats
from chatgateway.audit import Arrival, Asked
from chatgateway.errors import AgentServerUnavailable
from chatgateway.models import Turn
from profiles import access
from profiles.models import Profile
from tests import factories

pytestmark = pytest.mark.django_db

ASKED = Asked(body={"model": "openhands_chat", "messages": [{"role": "user", "content": "Hi"}]})


class Calls:
    """Attempts of one SDK at one question."""

    def __init__(self) -> None:
        made = factories.api_key()
        self.key = made.row
        self.caller = access.caller_for(made.text, now=timezone.now())
        self.profile = Profile.objects.get(pk=factories.profile().pk)
        self.server = factories.agent_server()

    def arrival(self, retry_count: int) -> Arrival:
        return Arrival(
            request_id=f"req_{retry_count}",
            endpoint="chat.completions",
            address="127.0.0.1",
            client="test",
            retry_count=retry_count,
            caller=self.caller,
            retry_digest="digest",
        )

    def opened(self, retry_count: int) -> Turn:
        conversation = conversations.reserve(api_key=self.key, profile=self.profile, server=self.server)
        return audit.open_turn(
            arrival=self.arrival(retry_count),
            asked=ASKED,
            profile=self.profile,
            conversation=conversation,
            match="new",
            server=self.server,
            lease_owner="one",
            deadline_at=timezone.now(),
            at=audit.new_arrival(),
        )

    def turned_away(self, retry_count: int) -> Turn:
        error = AgentServerUnavailable("The gateway is restarting.")
        return audit.record_refusal(arrival=self.arrival(retry_count), asked=ASKED, error=error)

    def found(self, retry_count: int) -> Turn | None:
        with transaction.atomic():
            return repeats.find(self.arrival(retry_count))


def test_a_third_attempt_joins_the_turn_of_the_first_when_the_second_was_turned_away() -> None:
    calls = Calls()
    turn = calls.opened(0)
    calls.turned_away(1)

    assert calls.found(2) == turn


def test_a_second_attempt_joins_no_earlier_call_when_the_first_was_turned_away() -> None:
    calls = Calls()
    calls.opened(0)
    calls.turned_away(0)

    assert calls.found(1) is None
