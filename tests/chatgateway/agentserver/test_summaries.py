"""One line per event, for people."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatgateway.agentserver import summaries
from chatgateway.agentserver.schemas import DurableEvent


def action(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"kind": "ActionEvent", "tool_name": tool, "action": {"kind": "SomeAction", **arguments}}


def observation(tool: str, *, text: str = "", **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {"kind": "ObservationEvent", "tool_name": tool, "observation": {"content": content, **fields}}


TASKS = [{"title": "a", "status": "done"}, {"title": "b", "status": "todo"}]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (action("terminal", command="pytest -q"), "Running: pytest -q"),
        (action("terminal", command="cd /x\n  make"), "Running: cd /x make"),
        (action("terminal", command="y", is_input=True), "Typing into the terminal: y"),
        (action("terminal", command="", reset=True), "Restarting the terminal"),
        (action("terminal", command=""), "Waiting for the running command"),
        (action("file_editor", command="view", path="/x.py"), "Reading /x.py"),
        (action("file_editor", command="create", path="/x.py"), "Creating /x.py"),
        (action("file_editor", command="str_replace", path="/x.py"), "Editing /x.py"),
        (action("file_editor", command="undo_edit", path="/x.py"), "Undoing the last edit of /x.py"),
        (action("file_editor", command="chmod", path="/x"), 'file_editor: {"command":"chmod","path":"/x"}'),
        (action("write_file", file_path="/x.py", content="…"), "Writing /x.py"),
        (action("read_file", file_path="/x.py"), "Reading /x.py"),
        (action("list_directory", dir_path="/x"), "Listing /x"),
        (action("glob", pattern="**/*.py"), "Finding files: **/*.py"),
        (action("grep", pattern="def f", path="/src"), "Searching for: def f in /src"),
        (action("task_tracker", command="view"), "Reading the task list"),
        (action("task_tracker", command="plan", task_list=TASKS), "Updating the task list (2 tasks, 1 done)"),
        (action("think", thought="hm"), "Thinking: hm"),
        (action("browser_navigate", url="http://x.example/"), "Opening http://x.example/"),
        (action("browser_click", index=0), "Clicking element 0"),
        (action("browser_type", index=3, text="my password"), "Typing into element 3"),
        (action("browser_set_storage", storage_state={"cookies": ["c"]}), "Setting the browser's storage"),
        (action("weather", city="Bonn", unit=None), 'weather: {"city":"Bonn"}'),
        (action("weather"), "weather"),
    ],
)
def test_an_action_says_what_the_agent_sets_out_to_do(event, line):
    assert summaries.of_event(event) == line


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ('{"a": 1}', 'nosuch: {"a":1}'),
        ("not json", 'nosuch: {"arguments":"not json"}'),
        ('{"_openhands_malformed_tool_call": true, "error": "…"}', "nosuch"),
        ("[1]", "nosuch"),
    ],
)
def test_a_call_that_the_server_could_not_parse_is_told_as_it_came(call, line):
    assert summaries.of_action({"tool_name": "nosuch", "tool_call": {"arguments": call}}) == line


def test_a_call_of_an_mcp_tool_shows_its_arguments():
    event = {"tool_name": "add", "action": {"kind": "MCPToolAction", "data": {"a": 1, "b": 2}}}

    assert summaries.of_action(event) == 'add: {"a":1,"b":2}'


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (observation("terminal", exit_code=0), "exit code 0"),
        (observation("terminal", exit_code=-1), "still running"),
        (observation("terminal", exit_code=1, timeout=True), "still running"),
        (observation("terminal", text="\n  busy\nmore"), "busy"),
        (observation("file_editor", command="view", path="/x"), "Read /x"),
        (observation("file_editor", command="create", path="/x", prev_exist=False), "Created /x"),
        (observation("file_editor", command="create", path="/x", prev_exist=True), "Wrote /x"),
        (observation("file_editor", command="insert", path="/x"), "Edited /x"),
        (observation("file_editor", text="no such file", is_error=True), "Error: no such file"),
        (observation("glob", files=["a", "b"]), "2 files"),
        (observation("grep", matches=["a"]), "1 matching file"),
        (observation("grep", matches=["a"], truncated=True), "at least 1 matching file"),
        (observation("task_tracker", task_list=TASKS), "Task list: 2 tasks, 1 done"),
        (observation("weather", text="sunny\nand warm"), "sunny"),
        (observation("weather"), "done"),
        (observation("weather", is_error=True), "Error: the tool failed"),
        ({"kind": "AgentErrorEvent", "tool_name": "x", "error": "Tool 'x' not found."}, "Error: Tool 'x' not found."),
        ({"kind": "UserRejectObservation", "rejection_reason": "no"}, "Rejected: no"),
    ],
)
def test_an_observation_says_what_came_of_it(event, line):
    assert summaries.of_event(event) == line


def test_an_mcp_tools_answer_comes_after_the_servers_own_line():
    parts = [{"type": "text", "text": "[Tool 'add' executed.]"}, {"type": "text", "text": "3"}]
    event = {"tool_name": "add", "observation": {"kind": "MCPToolObservation", "content": parts}}

    assert summaries.of_observation(event) == "3"


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {
                "kind": "MessageEvent",
                "source": "user",
                "llm_message": {"content": [{"type": "text", "text": "secret"}]},
            },
            "Message from the user (6 characters)",
        ),
        (
            {
                "kind": "MessageEvent",
                "source": "user",
                "llm_message": {"content": [{"type": "image", "image_urls": ["data:…"]}]},
            },
            "Message from the user (0 characters, images: 1)",
        ),
        ({"kind": "MessageEvent", "source": "environment"}, "Message from the agent-server (0 characters)"),
        (
            {"kind": "SystemPromptEvent", "system_prompt": {"text": "x" * 1500}, "tools": [{}]},
            "System prompt (1,500 characters, tools: 1)",
        ),
        (
            {"kind": "ConversationStateUpdateEvent", "key": "execution_status", "value": "running"},
            "execution_status: running",
        ),
        ({"kind": "ConversationStateUpdateEvent", "key": "stats", "value": {}}, "stats"),
        (
            {"kind": "ConversationErrorEvent", "code": "LLMRateLimitError", "detail": "429"},
            "Error: LLMRateLimitError: 429",
        ),
        ({"kind": "InterruptEvent"}, "Interrupted"),
        ({"kind": "WeatherEvent"}, ""),
        ({}, ""),
    ],
)
def test_other_events_are_told_without_the_content_of_messages(event, line):
    assert DurableEvent(seq=0, event=event).summary == line


@pytest.mark.parametrize(
    ("event", "is_error"),
    [
        ({"kind": "AgentErrorEvent"}, True),
        ({"kind": "ConversationErrorEvent"}, True),
        (observation("terminal", is_error=True), True),
        (observation("terminal", exit_code=1), False),
        ({"kind": "MessageEvent"}, False),
    ],
)
def test_a_failing_command_is_no_failure_of_the_tool(event, is_error):
    assert DurableEvent(seq=0, event=event).is_error is is_error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\x1b[?2004lls\x1b[0m", "ls"),
        ("\x1b]0;title\x07prompt", "prompt"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[1;31mred\x1b[m\r\nnext\tcell", "red next cell"),
        ("a\x00b\x08c\u202ed\u200be\x9b", "abcde"),
        ("\x1b(Bplain\x1b=", "plain"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_control_sequences_and_line_breaks_do_not_get_through(text, line):
    assert summaries.one_line(text) == line


# A busy machine is no finding.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["tool_name", "action", "observation", "tool_call", "llm_message", "source", "key", "value", "error", "tools"]
)
fields = st.sampled_from(
    ["kind", "command", "path", "task_list", "files", "content", "data", "arguments", "pattern", "text", "exit_code"]
)
kinds = st.sampled_from(sorted(summaries._EVENTS))
tools = st.sampled_from(sorted({*summaries._ACTIONS, *summaries._OBSERVATIONS, "weather"}))


@unhurried
@given(kinds, tools, st.dictionaries(names, anything | st.dictionaries(fields, anything, max_size=5), max_size=6))
def test_whatever_an_event_holds_the_line_is_short_and_printable(kind, tool, event):
    line = summaries.of_event({**event, "kind": kind, "tool_name": tool})

    assert len(line) <= summaries.MAX_CHARS
    assert line == summaries.one_line(line)
