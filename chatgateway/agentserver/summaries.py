"""One line for people about each thing an agent does: `Running: pytest -q`, `Edited /srv/x.py`, `exit code 0`.

The lines are shown beside the answer in chat clients and in the admin's list of events, so they never hold a line
break, a terminal control sequence or more than `MAX_CHARS` characters, and messages are told by their size, not their
content. What a tool was called with and answered is in `event["action"]` and `event["observation"]` (agent-server
1.58); every field is read as if it might be missing, because tools change between releases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import orjson

type Json = dict[str, Any]

# Fits on one line of a chat client's "thinking" box and in the column of the audit table.
MAX_CHARS = 200

# ESC sequences: CSI (colours, cursor, bracketed paste), OSC (titles, links; ended by BEL or ESC \), and the short ones.
# A terminal without tmux leaves them in its output.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
# C0 and C1 controls, lone surrogates, and the invisible characters that reorder or hide text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def without_controls(text: str) -> str:
    """`text` without colours, cursor movements and the like; line feeds and tabs stay."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def one_line(text: str, limit: int = MAX_CHARS) -> str:
    """`text` without control sequences and line breaks, at most `limit` characters, cut with an ellipsis."""
    # Only the beginning can show: a tool's output may be megabytes long.
    plain = without_controls(text[: limit * 20])
    flat = " ".join(plain.split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def of_action(event: Json) -> str:
    """What the agent sets out to do with an ActionEvent."""
    tool = str(event.get("tool_name") or "tool")
    arguments = _arguments(event)
    if not arguments and not isinstance(event.get("action"), dict):
        return one_line(tool)  # a call that could not be parsed
    describe = _ACTIONS.get(tool)
    line = describe(arguments) if describe else ""
    return one_line(line or _call(tool, arguments))


def of_observation(event: Json) -> str:
    """What came of it: the answer to an ActionEvent, whichever kind of event carries it."""
    match event.get("kind"):
        case "AgentErrorEvent":
            return one_line(f"Error: {event.get('error') or 'the tool failed'}")
        case "UserRejectObservation":
            return one_line(f"Rejected: {event.get('rejection_reason') or 'no reason given'}")
    observation = _dict(event.get("observation"))
    content = observation.get("content")
    if observation.get("kind") == "MCPToolObservation" and isinstance(content, list):
        content = content[1:]  # the first part only says that the tool was executed
    text = _text(content, between="\n")
    if observation.get("is_error"):
        return one_line(f"Error: {_first_line(text) or 'the tool failed'}")
    describe = _OBSERVATIONS.get(str(event.get("tool_name")))
    line = describe(observation) if describe else ""
    return one_line(line or _first_line(text) or "done")


def of_event(event: Json) -> str:
    """One line about any durable event. Empty for kinds that say nothing to people."""
    describe = _EVENTS.get(str(event.get("kind")))
    return describe(event) if describe else ""


def message_text(message: Any) -> str:
    """The text of an `llm_message`: its text parts joined, as the deltas that made it were."""
    return _text(_dict(message).get("content"))


def is_error(event: Json) -> bool:
    """Whether this event reports a failure. A command's exit code is no failure: `grep` ends with 1 for no match."""
    if event.get("kind") in {"AgentErrorEvent", "ConversationErrorEvent", "UserRejectObservation"}:
        return True
    return bool(_dict(event.get("observation")).get("is_error"))


# --- actions, by tool name ----------------------------------------------------------------------------------------


def _terminal(arguments: Json) -> str:
    if arguments.get("reset"):
        return "Restarting the terminal"
    command = _str(arguments, "command")
    if arguments.get("is_input"):
        return f"Typing into the terminal: {command}"
    return f"Running: {command}" if command.strip() else "Waiting for the running command"


def _edit_file(arguments: Json) -> str:
    path = _str(arguments, "path")
    verb = {
        "view": "Reading",
        "create": "Creating",
        "str_replace": "Editing",
        "insert": "Editing",
        "undo_edit": "Undoing the last edit of",
    }.get(_str(arguments, "command"))
    return f"{verb} {path}" if verb and path else ""


def _on_file(verb: str, *names: str) -> Callable[[Json], str]:
    def describe(arguments: Json) -> str:
        path = next((_str(arguments, name) for name in names if arguments.get(name)), "")
        return f"{verb} {path}" if path else ""

    return describe


def _find(what: str) -> Callable[[Json], str]:
    def describe(arguments: Json) -> str:
        pattern, path = _str(arguments, "pattern"), _str(arguments, "path")
        return f"{what}: {pattern}" + (f" in {path}" if path else "") if pattern else ""

    return describe


def _plan_tasks(arguments: Json) -> str:
    if arguments.get("command") == "plan":
        return f"Updating the task list ({_tasks(arguments)})"
    return "Reading the task list"


def _browse(verb: str, name: str) -> Callable[[Json], str]:
    return lambda arguments: f"{verb} {arguments[name]}" if arguments.get(name) not in (None, "") else ""


_ACTIONS: dict[str, Callable[[Json], str]] = {
    "terminal": _terminal,
    "file_editor": _edit_file,
    "planning_file_editor": _edit_file,
    "edit": _on_file("Editing", "file_path"),
    "write_file": _on_file("Writing", "file_path"),
    "read_file": _on_file("Reading", "file_path"),
    "list_directory": _on_file("Listing", "dir_path"),
    "glob": _find("Finding files"),
    "grep": _find("Searching for"),
    "task_tracker": _plan_tasks,
    "think": lambda arguments: f"Thinking: {_str(arguments, 'thought')}",
    "browser_navigate": _browse("Opening", "url"),
    "browser_click": _browse("Clicking element", "index"),
    "browser_type": _browse("Typing into element", "index"),  # not what is typed: it may be a password
    "browser_scroll": _browse("Scrolling", "direction"),
    "browser_get_state": lambda _: "Looking at the page",
    "browser_get_content": lambda _: "Reading the page",
    "browser_go_back": lambda _: "Going back a page",
    "browser_list_tabs": lambda _: "Listing the tabs",
    "browser_switch_tab": _browse("Switching to tab", "tab_id"),
    "browser_close_tab": _browse("Closing tab", "tab_id"),
    "browser_set_storage": lambda _: "Setting the browser's storage",  # cookies: nothing to show
}


# --- observations, by tool name -----------------------------------------------------------------------------------


def _terminal_ended(observation: Json) -> str:
    code = observation.get("exit_code")
    if observation.get("timeout") or code == -1:  # -1: a soft time-out, the command goes on
        return "still running"
    return f"exit code {code}" if isinstance(code, int) else ""


def _file_edited(observation: Json) -> str:
    verb = {
        "view": "Read",
        "create": "Created" if observation.get("prev_exist") is False else "Wrote",
        "str_replace": "Edited",
        "insert": "Edited",
        "undo_edit": "Undid the last edit of",
    }.get(_str(observation, "command"))
    path = _str(observation, "path")
    return f"{verb} {path}" if verb and path else ""


def _counted(name: str, unit: str) -> Callable[[Json], str]:
    def describe(observation: Json) -> str:
        found = observation.get(name)
        if not isinstance(found, list):
            return ""
        count = f"at least {len(found)}" if observation.get("truncated") else str(len(found))
        return f"{count} {unit}{'' if len(found) == 1 else 's'}"

    return describe


_OBSERVATIONS: dict[str, Callable[[Json], str]] = {
    "terminal": _terminal_ended,
    "file_editor": _file_edited,
    "planning_file_editor": _file_edited,
    "glob": _counted("files", "file"),
    "grep": _counted("matches", "matching file"),
    "task_tracker": lambda observation: f"Task list: {_tasks(observation)}",
    "think": lambda _: "done",
}


# --- other events, by kind ----------------------------------------------------------------------------------------


def _message(event: Json) -> str:
    author = {"user": "the user", "agent": "the agent"}.get(_str(event, "source"), "the agent-server")
    message = _dict(event.get("llm_message"))
    content = message.get("content")
    images = sum(
        len(part.get("image_urls") or []) for part in (content if isinstance(content, list) else []) if _is_image(part)
    )
    size = f"{len(message_text(message)):,} characters"
    return f"Message from {author} ({size}{f', images: {images}' if images else ''})"


def _system_prompt(event: Json) -> str:
    tools = event.get("tools")
    prompt = _str(_dict(event.get("system_prompt")), "text")
    return f"System prompt ({len(prompt):,} characters, tools: {len(tools) if isinstance(tools, list) else 0})"


def _state_changed(event: Json) -> str:
    key, value = _str(event, "key"), event.get("value")
    return one_line(f"{key}: {value}") if isinstance(value, str) else key


def _run_failed(event: Json) -> str:
    return one_line(f"Error: {_str(event, 'code')}: {_str(event, 'detail')}")


_EVENTS: dict[str, Callable[[Json], str]] = {
    "ActionEvent": of_action,
    "ObservationEvent": of_observation,
    "AgentErrorEvent": of_observation,
    "UserRejectObservation": of_observation,
    "MessageEvent": _message,
    "SystemPromptEvent": _system_prompt,
    "ConversationStateUpdateEvent": _state_changed,
    "ConversationErrorEvent": _run_failed,
    "InterruptEvent": lambda _: "Interrupted",
    "PauseEvent": lambda _: "Paused",
    "Condensation": lambda _: "History condensed",
    "CondensationRequest": lambda _: "Condensation of the history requested",
}


# --- reading JSON that may be anything ----------------------------------------------------------------------------


def _arguments(event: Json) -> Json:
    """What the tool was called with: the parsed action, or the raw call where the agent-server could not parse it."""
    action = event.get("action")
    if isinstance(action, dict):
        if action.get("kind") == "MCPToolAction":
            return _dict(action.get("data"))
        return {name: value for name, value in action.items() if name != "kind"}
    raw = _dict(event.get("tool_call")).get("arguments")
    if not isinstance(raw, str):
        return {}
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {"arguments": raw}
    if isinstance(parsed, dict) and "_openhands_malformed_tool_call" in parsed:
        return {}  # the server's own note; the AgentErrorEvent that follows says what was wrong
    return _dict(parsed)


def _call(tool: str, arguments: Json) -> str:
    given = {name: value for name, value in arguments.items() if value not in (None, "", [], {})}
    if not given:
        return tool
    # The standard library's: a model may write integers beyond 64 bits, which orjson refuses.
    return f"{tool}: {json.dumps(given, default=str, ensure_ascii=False, separators=(',', ':'))}"


def _tasks(holder: Json) -> str:
    listed = holder.get("task_list")
    tasks = [task for task in listed if isinstance(task, dict)] if isinstance(listed, list) else []
    done = sum(task.get("status") == "done" for task in tasks)
    return f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}, {done} done"


def _text(content: Any, between: str = "") -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return between.join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _first_line(text: str) -> str:
    return next((line for line in (one_line(raw) for raw in text[:4000].splitlines()) if line), "")


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image" and isinstance(part.get("image_urls"), list)


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _str(holder: Json, name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""
