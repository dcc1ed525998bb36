"""What the pages of turns and conversations make of texts, changes of files and the log's counts."""

from __future__ import annotations

import json
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from chatgateway.admin import diffs, rich_text, step_costs, turn_story
from chatgateway.models import Conversation, Event, Turn
from tests.admin.test_pages import history
from tests.admin.test_turn_pages import turn_with
from tests.admin.test_turn_story import row
from tests.fakes.recordings import frames_of

# --- Markdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Hi", "two\nlines\n\nand more", "a < b & c > d", "<b>no markup of ours</b>", "1 * 2", ""]
)
def test_a_text_without_markup_is_shown_as_it_is(text: str) -> None:
    assert rich_text.told(text) == rich_text.Told(text=text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**bold**", "<strong>bold</strong>"),
        ("```\n<script>alert(1)</script>\n```", "<pre><code>&lt;script&gt;alert(1)&lt;/script&gt;\n</code></pre>"),
        ("*a* <img src=x onerror=alert(1)>", "<em>a</em> &lt;img src=x onerror=alert(1)&gt;"),
        ("[here](https://x.example/?a=1&b)", '<span class="url">(https://x.example/?a=1&amp;b)</span>'),
        ("![cat](https://x.example/cat.png)", '<span class="picture">[picture: cat, https://x.example/cat.png]</span>'),
        ("*x*\n\n[r]: https://hidden.example", "[r]: https://hidden.example"),
        ("|a|b|\n|-|-|\n|1|2|", "<td>1</td>"),
    ],
)
def test_markdown_is_shown_as_it_was_meant(text: str, html: str) -> None:
    told = rich_text.told(text)

    assert html in told.document
    assert told.text == text


@pytest.mark.parametrize(
    "text",
    [
        "**x** <script>alert(1)</script>",
        "[x](javascript:alert(1)) *y*",
        "<javascript:alert(1)> *y*",
        '![x](y "z\\" onload=alert(1)") *y*',
        "*y* </style><style>*{display:none}</style>",
        "*y* <iframe srcdoc='<script>alert(1)</script>'>",
        "*y* <span class='link' style='position:fixed' x-init='alert(1)'>z</span>",
    ],
)
def test_no_markup_of_a_model_becomes_markup_that_does_something(text: str) -> None:
    body = rich_text.told(text).document.partition("<body>")[2]

    markup = Markup()
    markup.feed(body)

    assert {"p", "em", "strong"} & markup.tags
    assert markup.tags <= {"p", "em", "strong", "span", "html", "body"}
    assert markup.attributes <= {("class", "link"), ("class", "url"), ("class", "picture")}


class Markup(HTMLParser):
    """The tags and attributes of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(attrs)


def test_the_frame_of_a_text_holds_it_all_and_lets_nothing_out_of_its_attribute(admin: Client) -> None:
    text = """*y* "><script>alert(1)</script> ' " &quot;"""
    turn = turn_with(answer=text)

    page = Markup()
    page.feed(admin.get(reverse("admin:chatgateway_turn_change", args=[turn.pk])).content.decode())

    assert ("srcdoc", str(rich_text.told(text).document)) in page.attributes


def test_a_table_that_would_grow_without_end_stays_text() -> None:
    text = "|a" * 100 + "\n" + "|-" * 100 + "\n" + "|\n" * 8000

    assert rich_text.told(text).document == ""


# --- changes of files ---------------------------------------------------------------------------------------------------


def edit(action: dict[str, Any], observation: dict[str, Any] | None = None) -> turn_story.Step:
    call = {"kind": "ActionEvent", "id": "1", "tool_name": "file_editor", "action": action}
    answer = {"kind": "ObservationEvent", "id": "2", "action_id": "1", "observation": observation or {"content": []}}
    (step,) = turn_story.steps([row(0, call), row(1, answer)])
    return step


def test_an_edit_is_shown_line_by_line() -> None:
    step = edit({"command": "str_replace", "path": "a.py", "old_str": "one\ntwo\n", "new_str": "one\n2\n"})

    (change,) = [section for section in step.sections if section.lines]
    assert [(line.kind, line.text) for line in change.lines if line.kind in {"added", "removed"}] == [
        ("removed", "-two"),
        ("added", "+2"),
    ]
    assert "old_str" not in json.dumps([section.label for section in step.sections])


def test_where_the_whole_file_is_known_the_change_says_on_which_lines() -> None:
    before = "".join(f"line {number}\n" for number in range(50))
    step = edit(
        {"command": "str_replace", "path": "a", "old_str": "line 40", "new_str": "LINE 40"},
        {"old_content": before, "new_content": before.replace("line 40", "LINE 40"), "content": []},
    )

    (change,) = [section for section in step.sections if section.lines]
    assert change.lines[0] == diffs.DiffLine("place", "@@ -39,5 +39,5 @@")


def test_files_too_long_to_compare_are_not_compared() -> None:
    assert diffs.between("a\n" * 3000, "b\n") == []
    assert len(diffs.between("", "b\n" * 1900)) == diffs.MAXIMUM_SHOWN + 1


def test_an_argument_that_happens_to_be_called_change_stays() -> None:
    step = edit({"change": "a text", "path": "a"}, {"old_content": "", "new_content": "x", "content": []})

    assert "a text" in [section.text for section in step.sections]


# --- what each call used ------------------------------------------------------------------------------------------------


def recorded_turn(name: str) -> tuple[Turn, list[Event]]:
    """A turn whose conversation had used 1,000 tokens before; the recording's sums are those of its turn alone."""
    events = [row(frame["seq"], frame["event"]) for frame in frames_of(name) if frame["type"] == "durable"]
    sums = [event for event in events if event.raw.get("key") == "stats"]
    usage = sums[-1].raw["value"]["usage_to_metrics"]["agent"]["accumulated_token_usage"]
    turn = Turn(
        outcome="answered", prices={"input": "1", "output": "2"},
        input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"],
    )  # fmt: skip
    return turn, events


@pytest.mark.parametrize("name", ["terminal-then-message", "plain-message", "text-and-finish", "finish-tool-only"])
def test_what_the_calls_used_adds_up_to_what_the_turn_used(name: str) -> None:
    turn, events = recorded_turn(name)

    used = step_costs.of_calls(turn, events).values()

    assert sum(usage.input for usage in used) == turn.input_tokens
    assert sum(usage.output for usage in used) == turn.output_tokens


def test_a_step_tells_what_the_call_used_that_led_to_it() -> None:
    turn, events = recorded_turn("terminal-then-message")
    usage = step_costs.of_calls(turn, events)

    step = next(step for step in turn_story.steps(events, usage) if step.kind == "tool")

    assert step.used == "3,837 → 2 tokens, $0.0038"
    assert usage[step_costs.response_id(turn_story.answer_of(events))].input == 7743 - 3837


def test_an_earlier_turns_sums_are_not_counted_again() -> None:
    turn, events = recorded_turn("terminal-then-message")
    for event in events:
        agent = (event.raw.get("value") or {}) if event.raw.get("key") == "stats" else {}
        for metrics in agent.get("usage_to_metrics", {}).values():
            metrics["accumulated_token_usage"]["prompt_tokens"] += 1_000

    used = list(step_costs.of_calls(turn, events).values())

    assert [usage.input for usage in used] == [3837, 7743 - 3837]


def test_where_the_log_does_not_tell_the_calls_apart_nothing_is_told() -> None:
    turn, events = recorded_turn("terminal-then-message")
    one_sum_less = [event for event in events if event.seq != 6]

    assert step_costs.of_calls(turn, one_sum_less) == {}
    assert step_costs.of_calls(Turn(outcome="open"), events) == {}


# --- pages ----------------------------------------------------------------------------------------------------------------


def test_a_conversations_page_takes_as_many_queries_for_twenty_turns_as_for_one(admin: Client) -> None:
    history(1)
    conversation = Conversation.objects.get()
    url = reverse("admin:chatgateway_conversation_change", args=[conversation.pk])
    admin.get(url)
    with CaptureQueriesContext(connection) as few:
        assert admin.get(url).status_code == 200
    for number in range(19):
        turn = turn_with(conversation=conversation, arrival=number + 1, answer="**bold**")
        Event.objects.create(turn=turn, conversation=conversation, seq=number + 1, kind="ActionEvent", tool="t", raw={})

    with CaptureQueriesContext(connection) as many:
        html = admin.get(url).content.decode()

    assert len(many) == len(few)
    assert html.count("1 step: t 1") == 19
    assert html.count("srcdoc=") == 19


def test_the_steps_of_a_turn_are_had_alone(admin: Client) -> None:
    history(1)

    html = admin.get(reverse("admin:chatgateway_turn_steps", args=[Turn.objects.get().pk])).content.decode()

    assert "gw-step" in html
    assert "<html" not in html
    assert "<script>alert" not in html


def test_an_open_turn_is_stopped_from_its_conversations_page(admin: Client) -> None:
    conversation = Conversation.objects.create(tenant_name="t", profile_slug="p")
    turn = turn_with(conversation=conversation, outcome="open", phase="running", closed_at=None, run_ended_at=None)
    page = reverse("admin:chatgateway_conversation_change", args=[conversation.pk])
    assert reverse("admin:chatgateway_turn_stop", args=[turn.pk]) in admin.get(page).content.decode()

    response = admin.post(
        reverse("admin:chatgateway_turn_stop", args=[turn.pk]), {"from_conversation": "1"}, follow=True
    )

    assert response.redirect_chain[-1][0] == page
    assert "being stopped" in response.content.decode()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"endpoint": "chat.completions", "finish_reason": "stop"}, '"object": "chat.completion"'),
        ({"endpoint": "completions", "finish_reason": "stop"}, '"object": "text_completion"'),
        ({"endpoint": "responses", "finish_reason": "stop"}, '"object": "response"'),
        ({"endpoint": "responses", "outcome": "failed", "error_code": "agent_error"}, '"status": "failed"'),
        ({"outcome": "refused", "http_status": 404, "error_code": "model_not_found"}, '"code": "model_not_found"'),
    ],
)
def test_the_reply_is_shown_as_its_caller_had_it(admin: Client, fields: dict[str, Any], told: str) -> None:
    turn = turn_with(**{"answer": "Hello.", "reply_id": "resp_0011", "cost_usd": Decimal(1)} | fields)

    document = admin.get(reverse("admin:chatgateway_turn_raw_response", args=[turn.pk]), {"download": ""})

    assert told in document.content.decode()
    assert json.loads(document.content)


def test_a_turn_that_is_open_has_no_reply_yet(admin: Client) -> None:
    turn = turn_with(outcome="open", phase="running", closed_at=None, opened_at=timezone.now())

    text = admin.get(reverse("admin:chatgateway_turn_raw_response", args=[turn.pk])).content.decode()

    assert "There is none yet" in text
