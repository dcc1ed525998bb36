"""What the demo does with an agent's tools: which calls a task takes, one after the other.

It is as careful or careless as its user: a command is passed on as it was typed, and whether it may run is for the
agent to say, as with any other model.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_project.demo_llm import tool_reports
from gateway_project.demo_llm.conversation import Conversation, ToolResult
from gateway_project.demo_llm.tool_reports import Report, code


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call; `arguments` will be sent as JSON."""

    tool: str
    arguments: Mapping[str, Any]


Reply = Text | Call

# A command that has not ended by then is reported as unfinished. Within the ten minutes that openai's SDKs wait,
# and long enough for an installation of moderate size.
_COMMAND_SECONDS = 60


def run_command(command: str, conversation: Conversation) -> Reply:
    missing = _missing(conversation, "terminal", f"run {code(command)}")
    return missing or _carry_out(conversation, _command(command, conversation))


def list_files(path: str | None, conversation: Conversation) -> Reply:
    """List a directory, the one the agent is in if `path` is None."""
    where = f"the files in {code(path)}" if path else "the files"
    if "terminal" in conversation.tools:
        return run_command(f"ls -la -- {_shell_word(path)}" if path else "ls -la", conversation)
    missing = _missing(conversation, "file_editor", f"list {where}")
    return missing or _view(path or conversation.workspace or ".", conversation)


def read_file(path: str, conversation: Conversation) -> Reply:
    if "terminal" in conversation.tools and not _has_editor_for(path, conversation):
        return run_command(f"cat -- {_shell_word(path)}", conversation)
    missing = _missing(conversation, "file_editor", f"read {code(path)}")
    return missing or _view(path, conversation)


def create_file(path: str, content: str, conversation: Conversation) -> Reply:
    """Create a file; one that exists is left as it is, and the reply says so. Text gets a final line break."""
    text = content if not content or content.endswith("\n") else f"{content}\n"
    has_terminal = "terminal" in conversation.tools
    if has_terminal and not _has_editor_for(path, conversation):
        # noclobber lets the shell refuse, in its own words, to overwrite.
        command = f"(set -o noclobber; printf %s {shlex.quote(text)} > {_shell_word(path)})"
        return run_command(command, conversation)
    if missing := _missing(conversation, "file_editor", f"create {code(path)}"):
        return missing
    arguments = {"command": "create", "path": _absolute(path, conversation), "file_text": text}
    create = _Step(
        call=_call("file_editor", arguments, f"Create {path}", conversation),
        report=lambda result: tool_reports.on_creation(path, text, result),
    )
    folder = posixpath.dirname(posixpath.normpath(path))
    if not folder or not has_terminal:
        return _carry_out(conversation, create)
    # The editor does not make directories: "No such file or directory" (agent-server 1.58).
    command = f"mkdir -p -- {shlex.quote(posixpath.dirname(_absolute(path, conversation)))}"
    return _carry_out(conversation, _command(command, conversation), create)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """`report` says what its result means for the user, and whether the next step may follow."""

    call: Call
    report: Callable[[ToolResult], Report]


def _carry_out(conversation: Conversation, *steps: _Step) -> Reply:
    """The call of the first step that has no result yet; the report once a step has failed or all are done."""
    text = ""
    for number, step in enumerate(steps):
        if number == len(conversation.results):
            return step.call
        report = step.report(conversation.results[number])
        text = report.text
        if not report.is_success:
            break
    return Text(text=text)


def _view(path: str, conversation: Conversation) -> Reply:
    arguments = {"command": "view", "path": _absolute(path, conversation)}
    call = _call("file_editor", arguments, f"View {path}", conversation)
    return _carry_out(conversation, _Step(call=call, report=lambda result: tool_reports.on_view(path, result)))


def _command(command: str, conversation: Conversation) -> _Step:
    arguments: dict[str, Any] = {"command": command}
    if "timeout" in conversation.tools["terminal"].parameters:
        arguments["timeout"] = _COMMAND_SECONDS
    call = _call("terminal", arguments, f"Run {command}", conversation)
    return _Step(call=call, report=lambda result: tool_reports.on_command(command, result))


def _call(tool: str, arguments: dict[str, Any], summary: str, conversation: Conversation) -> Call:
    # The agent shows the summary beside the call, where the tool takes one.
    if "summary" in conversation.tools[tool].parameters:
        arguments = {**arguments, "summary": " ".join(summary.split())[:80]}
    return Call(tool=tool, arguments=arguments)


def _missing(conversation: Conversation, tool: str, task: str) -> Text | None:
    if tool in conversation.tools:
        return None
    if not conversation.tools:
        return Text(text=f"I have no tools in this conversation, so I cannot {task}.")
    offered = ", ".join(code(name) for name in conversation.tools)
    return Text(text=f"I cannot {task}: that needs the tool `{tool}`, and in this conversation I only have {offered}.")


def _has_editor_for(path: str, conversation: Conversation) -> bool:
    """Whether the editor can be told where the file is: it takes absolute paths only."""
    return "file_editor" in conversation.tools and posixpath.isabs(_absolute(path, conversation))


def _absolute(path: str, conversation: Conversation) -> str:
    """`path` in the agent's directory; unchanged if that is unknown or the path is in somebody's home."""
    if path.startswith("~") or conversation.workspace is None:
        return path
    return posixpath.normpath(posixpath.join(conversation.workspace, path))


def _shell_word(path: str) -> str:
    """`path` quoted for a shell, which still puts the home directory in place of a leading `~/`."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)
