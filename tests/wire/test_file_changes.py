"""Which files a turn changed: recorded after it, whatever tool did it, and never in its way."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse

from chatgateway import erasures, file_changes, removal
from chatgateway.agentserver.changed_files import DirectoryChanges
from chatgateway.models import AgentServer, Event, FileChanges, Turn
from profiles.models import Profile, Tenant
from tests.fakes.agent_script import Answer, Step
from tests.fakes.agent_server import FakeAgentServer
from tests.waiting import eventually
from tests.wire.chatting import CHAT, CONVERSATION, user

SECRET = "s3cret-value"


@pytest.fixture
def admin(transactional_db: None) -> Client:
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="x"))
    return browser


@pytest.fixture(autouse=True)
def _tools(served: object, tmp_path: Path) -> None:
    Profile.objects.update(tools=["terminal"])
    AgentServer.objects.update(workspace_root=str(tmp_path / "workspaces"))


def ask(http: httpx.Client, text: str = "Go on", *, conversation: str = "") -> Turn:
    headers = {CONVERSATION: conversation} if conversation else {}
    reply = http.post(CHAT, json={"model": "openhands_chat", "messages": [user(text)]}, headers=headers)
    assert reply.status_code == 200, reply.text
    return Turn.objects.get(reply_id=reply.json()["id"])


def recorded(turn: Turn) -> FileChanges:
    """The row, which is written when the caller has had the answer already."""
    eventually(FileChanges.objects.filter(turn=turn).exists)
    return FileChanges.objects.get(turn=turn)


def write(name: str, text: str) -> Step:
    """A command that writes a file, of which the agent-server's events say nothing."""
    return Step(command=f"make {name}", does=lambda directory: (directory / name).write_text(text))


def test_each_turn_has_what_changed_between_its_start_and_its_end(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.script(write("a.txt", "one\n"), Answer("Done."))
    first = ask(http)
    files_of_first = recorded(first)
    agent_server.script(write("a.txt", "two\n"), write("b.txt", "new\n"), Answer("Done."))
    second = ask(http, conversation=str(first.conversation_id))
    files_of_second = recorded(second)

    assert [(one["path"], one["change"], one["diff"]) for one in files_of_first.files] == [("a.txt", "added", "+one")]
    assert [(one["path"], one["change"], one["diff"]) for one in files_of_second.files] == [
        ("a.txt", "changed", "@@ -1 +1 @@\n-one\n+two"),
        ("b.txt", "added", "+new"),
    ]
    assert files_of_first.since is None
    assert files_of_second.since is not None


def test_turns_that_follow_at_once_do_not_share_their_changes(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    turns: list[Turn] = []
    for number in range(4):
        agent_server.script(write(f"{number}.txt", "x\n"), Answer("Done."))
        turns.append(ask(http, conversation=str(turns[0].conversation_id) if turns else ""))

    assert [[one["path"] for one in recorded(turn).files] for turn in turns] == [
        ["0.txt"], ["1.txt"], ["2.txt"], ["3.txt"],
    ]  # fmt: skip


def test_a_turn_without_a_tool_call_asks_nothing_of_the_host(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(Answer("Hello."))
    first = ask(http)
    agent_server.script(write("a.txt", "x\n"), Answer("Done."))
    second = ask(http, conversation=str(first.conversation_id))

    assert [one["path"] for one in recorded(second).files] == ["a.txt"]  # it counts as new all the same
    assert not FileChanges.objects.filter(turn=first).exists()


@pytest.mark.parametrize("workspace", ["per_key", "fixed"])
def test_directories_that_are_shared_are_not_compared_and_the_page_says_why(
    http: httpx.Client, agent_server: FakeAgentServer, tmp_path: Path, workspace: str, admin: Client
) -> None:
    fixed = str(tmp_path / "fixed") if workspace == "fixed" else ""
    Profile.objects.update(workspace=workspace, workspace_path=fixed)
    agent_server.script(write("a.txt", "x\n"), Answer("Done."))

    shared = ask(http)
    eventually(Event.objects.filter(turn=shared, kind="ActionEvent").exists)

    assert not FileChanges.objects.filter(turn=shared).exists()
    html = admin.get(reverse("admin:chatgateway_turn_change", args=[shared.pk])).content.decode()
    assert "not recorded, as the directory is shared by all conversations of the" in html


def test_a_host_that_cannot_say_it_spoils_no_turn_and_is_told(
    http: httpx.Client, agent_server: FakeAgentServer, tmp_path: Path, admin: Client
) -> None:
    AgentServer.objects.update(workspace_root=str(tmp_path / "file"))
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / ".turn-files").write_text("in the way")
    agent_server.script(write("a.txt", "x\n"), Answer("Done."))

    turn = ask(http)

    assert recorded(turn).problem
    assert (turn.outcome, turn.answer) == ("answered", "Done.")
    html = admin.get(reverse("admin:chatgateway_turn_change", args=[turn.pk])).content.decode()
    assert "Files changed: could not be read: " in html


def test_values_that_the_terminal_was_given_are_not_kept(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    profile = Profile.objects.get()
    profile.terminal_secrets = f'{{"TOKEN": "{SECRET}"}}'
    profile.save()
    agent_server.script(write(".env", f"TOKEN={SECRET}\n"), Answer("Done."))

    (file,) = recorded(ask(http)).files

    assert file["diff"] == "+TOKEN=<secret-hidden>"


def test_it_goes_with_the_turns_texts(http: httpx.Client, agent_server: FakeAgentServer) -> None:
    agent_server.script(write("a.txt", "x\n"), Answer("Done."))
    turn = ask(http)
    recorded(turn)
    Turn.objects.update(closed_at="2026-01-01T00:00:00Z", opened_at="2026-01-01T00:00:00Z", end_user="ann")
    tenant = Tenant.objects.get(turns=turn)

    erasures.carry_out(erasures.ask(tenant=tenant, end_user="ann", by="test"), until=float("inf"))

    assert Turn.objects.get().content_removed_at is not None
    assert not FileChanges.objects.exists()


def test_what_is_found_after_the_texts_were_removed_is_not_kept(
    http: httpx.Client, agent_server: FakeAgentServer
) -> None:
    agent_server.script(write("a.txt", "x\n"), Answer("Done."))
    turn = ask(http)
    recorded(turn).delete()
    Turn.objects.update(closed_at="2026-01-01T00:00:00Z")
    removal.remove_content([turn.pk], why="test")

    with transaction.atomic():
        file_changes.write(turn, DirectoryChanges())

    assert not FileChanges.objects.exists()


def test_the_conversations_page_names_the_files_and_the_steps_show_their_diffs(
    http: httpx.Client, agent_server: FakeAgentServer, admin: Client
) -> None:
    agent_server.script(write("<b>a.txt", "<script>x</script>\n"), Answer("Done."))
    turn = ask(http)
    recorded(turn)

    conversation = admin.get(reverse("admin:chatgateway_conversation_change", args=[turn.conversation_id]))
    steps = admin.get(reverse("admin:chatgateway_turn_steps", args=[turn.pk]))

    assert "1 file changed: &lt;b&gt;a.txt" in conversation.content.decode()
    assert "+&lt;script&gt;x&lt;/script&gt;" in steps.content.decode()
