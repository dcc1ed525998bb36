"""Which files a command in the terminal changed, as the real agent-server's host says it."""

from __future__ import annotations

import pytest
from openai import OpenAI

from chatgateway.models import FileChanges, Turn
from tests.live.scripted_llm import Answer, ScriptedLlm, terminal
from tests.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

FIRST = "mkdir deep && printf 'one\\ntwo\\n' > deep/a.txt && printf '\\000\\001' > b.bin && echo '*.log' > .gitignore && echo x > c.log"
SECOND = "sed -i s/two/three/ deep/a.txt && rm c.log"


def test_files_that_a_command_changed_are_recorded_for_its_turn(sdk: OpenAI, llm: ScriptedLlm) -> None:
    llm.script("first", Answer(tool_calls=(terminal(FIRST),)), Answer(text="Made."))
    llm.script("second", Answer(tool_calls=(terminal(SECOND),)), Answer(text="Edited."))

    def ask(text: str, conversation: str = "") -> tuple[FileChanges, str]:
        reply = sdk.chat.completions.with_raw_response.create(
            model="openhands_agent",
            messages=[{"role": "user", "content": text}],
            extra_headers={"X-OpenHands-ServerConversation-ID": conversation} if conversation else {},
        )
        turn = Turn.objects.get(reply_id=reply.parse().id)
        eventually(FileChanges.objects.filter(turn=turn).exists)
        return FileChanges.objects.get(turn=turn), reply.headers["X-OpenHands-ServerConversation-ID"]

    first, conversation = ask("Go on. #script:first")
    second, _ = ask("Go on. #script:second", conversation)

    assert first.problem == second.problem == ""
    assert {one["path"]: (one["change"], one["kind"], one["diff"]) for one in first.files} == {
        ".gitignore": ("added", "text", "+*.log"),
        "b.bin": ("added", "binary", ""),
        "c.log": ("added", "text", "+x"),
        "deep/a.txt": ("added", "text", "+one\n+two"),
    }
    assert {one["path"]: (one["change"], one["diff"]) for one in second.files} == {
        "c.log": ("deleted", "-x"),
        "deep/a.txt": ("changed", "@@ -1,2 +1,2 @@\n one\n-two\n+three"),
    }
    assert (second.compared_at - Turn.objects.get(pk=second.turn_id).closed_at).total_seconds() >= 0
