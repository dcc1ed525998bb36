"""What is no longer kept: texts by one clock, turns by another, and everything of one person when it asks."""

from __future__ import annotations

import datetime as dt
import threading
import time
from io import StringIO
from typing import Any

import httpx
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from chatgateway import erasures, removal, retention, tasks
from chatgateway.models import (
    Attempt,
    ClientChat,
    Conversation,
    Erasure,
    Event,
    Frame,
    Image,
    Leftover,
    Message,
    TranscriptReading,
    Turn,
)
from profiles.models import Profile, Tenant
from tests import factories
from tests.fakes.agent_script import Answer, Hang, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.waiting import eventually
from tests.wire.chatting import CHAT, CONVERSATION, assistant, heard, user
from tests.wire.test_chat import PIXEL

SECRET = "the-secret-words"


def ask(http: httpx.Client, *messages: dict[str, Any], **more: Any) -> str:
    """Ask, and return the id of the conversation."""
    headers = more.pop("headers", {})
    body = {"model": "openhands_chat", "messages": list(messages) or [user(SECRET)], **more}
    reply = http.post(CHAT, json=body, headers=headers)
    recorded(reply)
    return reply.headers[CONVERSATION]


def recorded(reply: httpx.Response) -> None:
    """Wait for the turn's last events, which its driver writes after the reply: a turn that is made older before that
    would get them later."""
    assert reply.status_code == 200, reply.text
    last = Event.objects.filter(turn__reply_id=reply.json()["id"], kind="ConversationStateUpdateEvent")
    eventually(lambda: last.filter(raw__value="finished").exists())


def aged(days: float) -> None:
    """Let the record be so much older."""
    back = dt.timedelta(days=days)
    for turn in Turn.objects.all():
        Turn.objects.filter(pk=turn.pk).update(
            opened_at=turn.opened_at - back, closed_at=turn.closed_at and turn.closed_at - back
        )
    Conversation.objects.update(last_turn_at=timezone.now() - back)


def keep(**fields: int) -> None:
    Profile.objects.update(**fields)


def dump() -> str:
    """Every text and JSON column of every table of the traffic, as the database has it."""
    with connection.cursor() as cursor:
        found = []
        for table in connection.introspection.table_names(cursor):
            if table.startswith("chatgateway_"):
                cursor.execute(f"SELECT * FROM {table}")
                found.append(str(cursor.fetchall()))
    return "".join(found)


# --- the two clocks ------------------------------------------------------------------------------------------------


def test_texts_go_when_their_time_is_over_and_figures_stay(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Step(command=f"echo {SECRET}"), Answer(f"Said {SECRET}."))
    ask(http, {"role": "system", "content": SECRET}, user(SECRET), user=f"anna-{SECRET[:3]}", metadata={"note": SECRET})
    keep(keep_content_days=30)
    aged(31)
    Conversation.objects.update(state="expired")
    before = Turn.objects.get()
    assert SECRET in dump()

    done = retention.sweep()

    after = Turn.objects.get()
    assert (done.contents, done.turns) == (1, 0)
    assert SECRET not in dump()
    assert (Event.objects.count(), Message.objects.count()) == (0, 0)
    assert (after.input_tokens, after.cost_usd, after.outcome) == (before.input_tokens, before.cost_usd, "answered")
    assert (after.tenant, after.api_key, after.end_user, after.opened_at) == (
        before.tenant, before.api_key, before.end_user, before.opened_at,
    )  # fmt: skip
    assert after.content_removed_by == "Texts are kept for 30 days (profile chat)."
    assert after.content_removed_at is not None


def test_what_a_response_showed_goes_with_its_texts(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(f"Said {SECRET}."))
    named = http.post("/v1/conversations", json={"metadata": {"topic": SECRET}}).json()["id"]
    body = {"model": "openhands_chat", "input": SECRET, "instructions": SECRET, "conversation": named}
    reply = http.post("/v1/responses", json=body)
    recorded(reply)
    assert Frame.objects.count() > 0
    keep(keep_content_days=30)
    aged(31)
    Conversation.objects.update(state="expired")

    retention.sweep()

    assert SECRET not in dump()
    assert (Frame.objects.count(), Message.objects.count()) == (0, 0)


def test_before_its_time_nothing_goes(http: httpx.Client) -> None:
    ask(http)
    keep(keep_content_days=30, keep_usage_days=60)
    aged(29)

    done = retention.sweep()

    assert (done.contents, done.turns) == (0, 0)
    assert SECRET in dump()


def test_turns_go_when_their_time_is_over_with_all_that_belongs_to_them(http: httpx.Client) -> None:
    ask(http)
    keep(keep_content_days=30, keep_usage_days=60)
    aged(61)
    Conversation.objects.update(state="expired")

    done = retention.sweep()

    assert (done.turns, done.contents, done.conversations) == (1, 0, 1)
    counted = [model.objects.count() for model in (Turn, Attempt, Event, Message, Conversation)]
    assert counted == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("own", "setting", "removed"), [(None, 10, 1), (None, 0, 0), (0, 10, 0), (40, 10, 0), (10, 0, 1)]
)
def test_a_profile_that_says_nothing_follows_the_setting(
    http: httpx.Client, settings: Settings, own: int | None, setting: int, removed: int
) -> None:
    settings.GATEWAY_KEEP_CONTENT_DAYS = setting
    ask(http)
    Profile.objects.update(keep_content_days=own)
    aged(20)

    assert retention.sweep().contents == removed


def test_turns_whose_profile_was_deleted_follow_the_setting(http: httpx.Client, settings: Settings) -> None:
    settings.GATEWAY_KEEP_CONTENT_DAYS = 10
    ask(http)
    Profile.objects.all().delete()
    aged(20)

    assert retention.sweep().contents == 1
    assert "GATEWAY_KEEP_CONTENT_DAYS" in Turn.objects.get().content_removed_by


def test_a_message_stays_as_long_as_a_later_turn_of_the_chat_holds_it(http: httpx.Client) -> None:
    ask(http, user("first question"))
    answer = Turn.objects.get().answer
    keep(keep_content_days=30)
    aged(31)
    ask(http, user("first question"), assistant(answer), user("second question"))

    retention.sweep()

    old, new = Turn.objects.order_by("arrival")
    assert (old.last_message, old.answer) == (None, "")
    assert new.last_message.parent.parent.body["content"] == "first question"
    aged(31)
    retention.sweep()
    assert Message.objects.count() == 0


def test_an_image_goes_with_the_last_message_that_shows_it(http: httpx.Client) -> None:
    keep(accepts_images=True, keep_content_days=30)
    shown = {"type": "image_url", "image_url": {"url": PIXEL}}
    ask(http, user([{"type": "text", "text": "one"}, shown]))
    aged(31)
    ask(http, user([{"type": "text", "text": "two"}, shown]))

    retention.sweep()
    after_one = Image.objects.count()
    aged(31)
    retention.sweep()

    assert (after_one, Image.objects.count()) == (1, 0)


def test_many_turns_go_in_batches(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        ask(http, user(f"{SECRET} {number}"))
    keep(keep_content_days=30)
    aged(31)
    monkeypatch.setattr(removal, "BATCH", 2)

    assert tasks.apply_retention().startswith("Texts of 5 turns removed, 0 turns")
    assert retention.sweep().contents == 0


def test_a_sweep_that_is_out_of_time_says_so_and_goes_on_the_next_time(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(http)
    keep(keep_content_days=30)
    aged(31)
    monkeypatch.setattr(retention, "SWEEP_SECONDS", 0.0)

    assert "out of time" in tasks.apply_retention()
    monkeypatch.undo()
    assert retention.sweep().contents == 1


def test_a_conversation_whose_texts_are_gone_goes_on_and_its_agent_is_told(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    conversation_id = ask(http)
    keep(keep_content_days=30)
    aged(31)
    Conversation.objects.update(state="expired", agent_server=None, incarnation=1)
    retention.sweep()

    ask(http, user("And now?"), headers={CONVERSATION: conversation_id})

    told = heard(conversation_id, agent_server)
    assert str(told).count("no longer in the record") == 2
    assert SECRET not in str(told)


def test_a_history_whose_record_is_gone_starts_a_new_conversation(http: httpx.Client) -> None:
    old = ask(http, user("first"))
    answer = Turn.objects.get().answer
    keep(keep_content_days=30)
    aged(31)
    retention.sweep()

    new = ask(http, user("first"), assistant(answer), user("second"))

    assert new != old
    assert Turn.objects.latest("arrival").match == "replay"


def test_the_admin_counts_what_is_due_and_removes_nothing(http: httpx.Client) -> None:
    ask(http)
    keep(keep_content_days=30)
    aged(31)
    browser = Client()
    browser.force_login(factories.person("administrator"))
    url = reverse("admin:chatgateway_erasure_retention")

    page = browser.get(url).content.decode()
    tried = browser.get(url, {"profile": Profile.objects.get().pk, "texts": 7, "turns": 14}).content.decode()

    assert "1 turn<" in page
    assert "remove the texts of 1 turn and delete 1 turn now" in tried
    assert SECRET in dump()


def test_pages_say_what_was_removed_when_and_by_which_policy(http: httpx.Client) -> None:
    conversation_id = ask(http)
    keep(keep_content_days=30)
    aged(31)
    retention.sweep()
    browser = Client()
    browser.force_login(factories.person("auditor"))

    pages = [
        browser.get(reverse("admin:chatgateway_turn_change", args=[Turn.objects.get().pk])).content.decode(),
        browser.get(reverse("admin:chatgateway_conversation_change", args=[conversation_id])).content.decode(),
    ]

    today = timezone.now().strftime("%Y-%m-%d")
    assert [("Texts are kept for 30 days" in page, today in page) for page in pages] == [(True, True), (True, True)]


def test_every_column_of_a_turn_is_a_text_that_goes_or_a_figure_that_stays() -> None:
    """A new column has to be put in one of the two."""
    figures = {
        "id", "reply_id", "request_id", "endpoint", "tenant", "api_key", "profile", "conversation", "agent_server",
        "tenant_name", "key_name", "key_prefix", "model_id", "profile_snapshot", "server_url", "incarnation",
        "is_stream", "ignored_parameters", "match", "parent", "leaf_event_id", "is_stored", "outcome", "phase",
        "arrival", "cancel_reason", "cancel_requested_at", "user_event_seq", "run_ended_at", "deadline_at",
        "lease_owner", "lease_expires_at", "lease_generation", "finish_reason", "http_status", "error_type",
        "error_code", "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
        "is_usage_estimated", "prices", "cost_usd", "opened_at", "started_at", "accepted_at", "first_text_at",
        "closed_at", "content_removed_at", "content_removed_by", "kind", "housekeeping_task", "answered_by",
        "elided_messages", "held_usd", "traceparent",
    }  # fmt: skip
    columns = {field.name for field in Turn._meta.concrete_fields}

    assert columns == figures | set(removal.CONTENT) | set(removal.PERSON)


# --- one person ----------------------------------------------------------------------------------------------------


def erase(end_user: str) -> Erasure:
    row = erasures.ask(tenant=Tenant.objects.get(), end_user=end_user, by="root")
    aged(0.001)  # a driver writes events for a moment after a turn
    tasks.erase_end_users()
    row.refresh_from_db()
    return row


def test_everything_of_a_person_goes_and_nothing_of_another(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer(f"Said {SECRET}."))
    chat = {"X-OpenWebUI-Chat-Id": "annas-chat"}
    ask(http, user(f"{SECRET} of anna"), user="anna", headers=chat)
    agent_server.script(Answer("Hello Bob."))
    ask(http, user("of bob"), user="bob")

    row = erase("anna")

    dumped = dump()
    assert row.done_at is not None
    assert (row.turns, row.conversations) == (1, 1)
    assert [text for text in (SECRET, "anna", "annas-chat") if text in dumped] == []
    assert "of bob" in dumped
    assert "Hello Bob." in dumped
    turn = Turn.objects.earliest("arrival")
    assert (turn.end_user, turn.address, turn.client, turn.input_tokens > 0) == ("", "", "", True)
    assert turn.cost_usd is not None
    assert not ClientChat.objects.exists()


def test_the_agent_servers_copy_and_directory_are_to_be_removed_at_once(http: httpx.Client) -> None:
    conversation_id = ask(http, user="anna")

    erase("anna")

    left = Leftover.objects.filter(conversation__pk=conversation_id, due_at__lte=timezone.now())
    assert set(left.values_list("kind", flat=True)) == {"conversation", "directory"}
    assert Conversation.objects.get().state == "deleted"


def test_a_turn_that_is_going_on_is_stopped_and_removed_afterwards(
    http: httpx.Client, agent_server: FakeAgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "SETTLED_SECONDS", 5)  # still longer than a driver goes on writing
    agent_server.script(Hang())
    question = {"model": "openhands_chat", "messages": [user(SECRET)], "user": "anna"}
    asking = threading.Thread(target=lambda: http.post(CHAT, json=question))
    asking.start()
    eventually(lambda: Turn.objects.filter(phase="running").exists())
    erasure = erasures.ask(tenant=Tenant.objects.get(), end_user="anna", by="root")

    is_done_at_once = erasures.carry_out(erasure, until=time.monotonic() + 60)
    asking.join(60)
    eventually(lambda: erasures.carry_out(erasure, until=time.monotonic() + 60))

    assert not is_done_at_once
    assert (Turn.objects.get().outcome, erasure.turns) == ("cancelled", 1)
    assert SECRET not in dump()


def test_another_tenants_person_of_the_same_name_stays(http: httpx.Client) -> None:
    ask(http, user="anna")
    other = factories.tenant()

    found = erasures.found(other, "anna")
    row = erasures.ask(tenant=other, end_user="anna", by="root")
    aged(0.001)
    erasures.carry_out_all()

    row.refresh_from_db()
    assert (found.turns, found.conversations, row.turns) == (0, 0, 0)
    assert SECRET in dump()


def test_the_admin_asks_twice_with_counts_and_then_it_is_done(http: httpx.Client) -> None:
    ask(http, user="anna")
    browser = Client()
    browser.force_login(factories.person("administrator", username="carla"))
    url, form = reverse("admin:chatgateway_erasure_add"), {"tenant": Tenant.objects.get().pk, "end_user": "anna"}

    unknown = browser.post(url, form | {"end_user": "nobody"})
    shown = browser.post(url, form).content.decode()
    before = Erasure.objects.count()
    browser.post(url, form | {"confirmed": "yes"})

    assert "There is nothing of “nobody”" in unknown.content.decode()
    assert "cannot be undone" in shown
    assert (before, Erasure.objects.get().asked_by) == (0, "carla")
    aged(0.001)
    erasures.carry_out_all()
    found = browser.get(reverse("admin:chatgateway_erasure_changelist"), {"q": "anna"}).content.decode()
    assert "erased (digest" in found


def test_the_command_counts_and_then_deletes(http: httpx.Client) -> None:
    ask(http, user="anna")
    aged(0.001)
    tenant = Tenant.objects.get().name
    counted, done = StringIO(), StringIO()

    call_command("delete_end_user", "anna", tenant=tenant, dry_run=True, stdout=counted)
    kept = SECRET in dump()
    call_command("delete_end_user", "anna", tenant=tenant, stdout=done)

    assert (kept, SECRET in dump()) == (True, False)
    assert "1 turn" in counted.getvalue()
    assert "1 turn" in done.getvalue()
    assert Erasure.objects.get().asked_by == "delete_end_user"


def test_the_command_refuses_a_tenant_that_there_is_not(db: None) -> None:
    with pytest.raises(CommandError, match="no tenant 'acme'"):
        call_command("delete_end_user", "anna", tenant="acme")


def test_readings_of_what_is_gone_stay(http: httpx.Client) -> None:
    ask(http, user="anna")
    turn = Turn.objects.get()
    TranscriptReading.objects.create(username="ada", what="turn", turn=turn)

    erase("anna")

    assert TranscriptReading.objects.get().turn == turn
