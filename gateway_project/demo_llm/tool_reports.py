"""What the results of an agent's tools mean for the user, in words and code blocks.

A result is told as the tool gave it. Whatever does not look like success is told as failure, in the tool's own words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway_project.demo_llm.conversation import ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    text: str
    is_success: bool


# How agent-server 1.58 words the results of its tools for the model (`to_llm_content` in openhands-tools).
_ERROR_HEADER = "[An error occurred during execution.]"
_REMARKS = re.compile(
    r"(?:\n?\[(?:The command completed with exit code|Current working directory:|Python interpreter:"
    r"|Command finished with exit code) [^\n]*\])+\s*\Z"
)
_EXIT_CODE = re.compile(r"exit code (-?\d+)")
_UNFINISHED = re.compile(r"\n?\[The command (?P<why>(?:timed out|has no new output) after [\d.]+ seconds)[^\n]*\]\s*\Z")
_CREATED = "File created successfully"
_VIEWED = re.compile(r"\AHere's (?:the result of running `cat -n` on|the files and directories) [^\n]*:\n")
_LINE_NUMBER = re.compile(r"^ *\d+\t", re.MULTILINE)

# Colours and cursor movements, which terminals without tmux leave in. Line feeds and tabs stay.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")

# What is shown of a long output: enough to be useful, short enough to be read as it streams.
_SHOWN_HEAD, _SHOWN_TAIL = 6000, 2000
_SHOWN_SPAN = 200


def on_command(command: str, result: ToolResult) -> Report:
    """What running `command` in the terminal came to. A command that has not ended is no success."""
    if remarks := _REMARKS.search(result.text):
        exit_codes = _EXIT_CODE.findall(remarks[0])
        return _on_exit(command, int(exit_codes[-1]) if exit_codes else None, result.text[: remarks.start()])
    if unfinished := _UNFINISHED.search(result.text):
        lead = f"I ran {code(command)}, but it {unfinished['why']} and may still be running. So far it"
        return Report(text=_with_output(lead, result.text[: unfinished.start()]), is_success=False)
    return _failure(f"I tried to run {code(command)}", result)


def _on_exit(command: str, exit_code: int | None, output: str) -> Report:
    if exit_code == 0:
        return Report(
            text=_with_output(f"I ran {code(command)}. It ended with exit code 0 and", output), is_success=True
        )
    ending = "without telling its exit code" if exit_code is None else f"with exit code {exit_code}"
    lead = f"I ran {code(command)}, but it failed: it ended {ending} and"
    return Report(text=_with_output(lead, output), is_success=False)


def on_creation(path: str, text: str, result: ToolResult) -> Report:
    if _CREATED not in result.text:
        return _failure(f"I tried to create {code(path)}", result)
    if not text:
        return Report(text=f"I created {code(path)}. It is empty.", is_success=True)
    return Report(text=f"I created {code(path)} with this content:\n\n{block(text)}", is_success=True)


def on_view(path: str, result: ToolResult) -> Report:
    """A file's content without the line numbers that the editor adds, or the paths in a directory."""
    if result.has_image:
        return Report(text=f"I opened {code(path)}. It is a picture, and I cannot see pictures.", is_success=True)
    viewed = _VIEWED.match(result.text)
    if viewed is None:
        return _failure(f"I tried to open {code(path)}", result)
    body = result.text[viewed.end() :]
    if "`cat -n`" not in viewed[0]:
        return Report(text=f"This is in {code(path)}:\n\n{block(body)}", is_success=True)
    content = _LINE_NUMBER.sub("", body)
    if not content.strip():
        return Report(text=f"{code(path)} is empty.", is_success=True)
    return Report(text=f"{code(path)} reads:\n\n{block(content)}", is_success=True)


def _failure(sentence: str, result: ToolResult) -> Report:
    words = result.text.replace(_ERROR_HEADER, "", 1).strip()
    said = f"the tool answered:\n\n{block(words)}" if words else "the tool gave no answer."
    return Report(text=f"{sentence}, but {said}", is_success=False)


def _with_output(lead: str, output: str) -> str:
    """`lead` is a sentence that lacks its last verb."""
    return f"{lead} printed:\n\n{block(output)}" if output.strip() else f"{lead} printed nothing."


def code(text: str) -> str:
    """The beginning of `text` as a Markdown code span, in one line, with a fence longer than any in it."""
    line = text.replace("\n", " ") if len(text) <= _SHOWN_SPAN else f"{text[:_SHOWN_SPAN]}…".replace("\n", " ")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"`{line}`"


def block(text: str) -> str:
    """`text` as a Markdown code block without control sequences; the middle of a very long one is left out."""
    shown = _CONTROL.sub("", text).rstrip("\n")
    if (left_out := len(shown) - _SHOWN_HEAD - _SHOWN_TAIL) > 0:
        shown = f"{shown[:_SHOWN_HEAD]}\n[… {left_out} characters left out …]\n{shown[-_SHOWN_TAIL:]}"
    longest = max((len(run) for run in re.findall(r"^ *(`{3,})", shown, re.MULTILINE)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{shown}\n{fence}"
