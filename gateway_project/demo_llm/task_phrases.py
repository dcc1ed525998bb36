"""Prompts that ask for work with the agent's tools: run, create, read, list."""

from __future__ import annotations

import re

from gateway_project.demo_llm.phrases import Intent, Wish, phrases, subject, unquoted

# --- readers ---------------------------------------------------------------------------------------------------------

# "run the tests" and "execute my plan" name no command, though a shell would try.
_NO_COMMAND = re.compile(
    r"(?:an?|the|my|your|our|this|that|these|it|some|all|any|every|me|in|into|on|for|to|away|out|through)\b",
    re.IGNORECASE,
)
_AFTERWARDS = re.compile(
    r",?\s{1,9}(?:and|then)\s{1,9}(?:then\s{1,9})?(?:show|tell|give|report|explain|describe|let me)\b.*", re.IGNORECASE
)


def _unmarked_command(intent: Intent, match: re.Match[str]) -> Wish | None:
    """The rest of the sentence; "… and tell me" and the full stop are not the command's."""
    command = _AFTERWARDS.sub("", match["subject"].strip())
    command = re.sub(r"(?<=[A-Za-z\"'])[.?!]$", "", command)
    return None if _NO_COMMAND.match(command) else Wish(intent=intent, subject=unquoted(command))


def _file(intent: Intent, match: re.Match[str]) -> Wish | None:
    """The prompt calls it a file, so any word will do for its name."""
    path = _path(match["subject"])
    return Wish(intent=intent, subject=path, content=_content(match)) if path else None


def _likely_file(intent: Intent, match: re.Match[str]) -> Wish | None:
    """Only its name can tell that it is a file: by quotation marks, an extension or a directory."""
    wish = _file(intent, match)
    is_marked = match["subject"].strip()[:1] in {"`", '"', "'"}
    return wish if wish and (is_marked or _LIKELY_FILE.search(wish.subject)) else None


_LIKELY_FILE = re.compile(r"\w\.\w{1,10}$|^[.~]?/|^\.\w|/$|^\w+(?:/\w+)+$")


def _folder(intent: Intent, match: re.Match[str]) -> Wish | None:
    """A directory in one word or in quotation marks; the one that the agent is in, if none or "here" is named."""
    named = (match.groupdict().get("subject") or "").strip().rstrip("?!")
    if not named or named == "." or _HERE.fullmatch(named):
        return Wish(intent=intent)
    named = _AROUND_FOLDER.sub("", named)
    is_one = not re.search(r"\s", named) or named[0] in {"`", '"', "'"}
    return Wish(intent=intent, subject=_path(named)) if is_one else None


_PLACE = "(?:directory|folder|workspace|project|repository|repo)"
_HERE = re.compile(rf"(?:here|there|(?:(?:the|my|your|this)\s+)?(?:(?:current|working)\s+)*{_PLACE})", re.IGNORECASE)
_AROUND_FOLDER = re.compile(
    rf"^(?:(?:the|my|your)\s+)?(?:(?:directory|folder)\s+)?(?=\S)|\s{{1,9}}{_PLACE}$", re.IGNORECASE
)


def _path(raw: str) -> str:
    """Without marks around it, or the sentence's own punctuation behind it."""
    path = raw.strip()
    bare_path = unquoted(path)
    return bare_path if bare_path != path else path.rstrip(",;:!?").removesuffix(".") or path


def _content(match: re.Match[str]) -> str:
    raw = match.groupdict().get("content") or ""
    if fenced := re.fullmatch(r"\s*```[\w+-]*\n(?P<inside>.*?)\n?```\s*", raw, re.DOTALL):
        return fenced["inside"]
    return unquoted(raw.strip())


# --- the tables ------------------------------------------------------------------------------------------------------

_RUN = r"(?:use (?:the |your )?(?:terminal|shell|bash)(?: tool)? (?:to|and) )?(?:run|execute|exec)"
_A_COMMAND = "(?: the| this)?(?: following)?(?: shell| bash| terminal)?(?: command)?"
_PATH = r"(?P<subject>`[^`\n]+`|\"[^\"\n]+\"|'[^'\n]+'|[^\s`\"']+)"
_FOLDER = r"(?P<subject>\S[^\n]*?)"
_NAMED = "file(?: called| named)?"
_NEW = r"(?:create|make|write|add)(?: me)?(?: an?)?(?: new| empty| text)*"
_HOLDING = (
    r",? (?:with|containing|saying|that (?:contains|says|reads))(?: the| this)?(?: following)?"
    r"(?: (?:text|contents?|words?|lines?))?:?\s{1,9}(?P<content>\S[\s\S]*)"
)
_QUOTED = r"(?P<content>\"[\s\S]*\"|'[\s\S]*'|`[\s\S]*`)"
_OPEN = r"(?:read|show|open|display|print|view|cat)(?: me)?(?:(?: the)? contents?(?: of)?)?(?: the)?"
_WHAT_IS_IN = r"what(?:'s| is| are)(?: in| inside| the contents? of)(?: the)?"

TASKS = (
    phrases(
        Intent.RUN,
        rf"{_RUN}\b[^`\n]{{0,80}}\s{{0,9}}```\w*\n(?P<subject>[^`]+?)\s{{0,9}}```",
        rf"{_RUN}\b[^`\n]{{0,80}}`(?P<subject>[^`\n]+)`[^\n]{{0,200}}",
        rf"{_RUN}{_A_COMMAND}\s{{0,9}}:\s{{0,9}}(?P<subject>\S[^\n]*)",
        rf"{_RUN}{_A_COMMAND}[^\S\n]{{0,9}}\n(?P<subject>\S[^\n]*)",
        r"```(?:bash|sh|shell|console)\n(?P<subject>[^`]+?)\s{0,9}```",
        r"`(?P<subject>[^`\n]+)`",
        r"\$ (?P<subject>[^\n]+)",
        r"(?P<subject>(?:ls|pwd|whoami|uname|git (?:status|log|diff))(?: [-./~][^\s`]*)*)",
        r"(?P<subject>ls(?: -[a-zA-Z]+)+(?: [^\s`]+)*)",
        read=subject,
    ),
    phrases(
        Intent.RUN,
        rf"{_RUN} (?:(?:the |this )?(?:shell |bash |terminal )?command )?(?P<subject>\S[^\n]*)",
        read=_unmarked_command,
    ),
    phrases(
        Intent.CREATE,
        rf"{_NEW} {_NAMED} {_PATH}",
        rf"{_NEW} {_NAMED} {_PATH}{_HOLDING}",
        rf"{_NEW} {_NAMED} {_PATH}:?\s{{1,9}}(?P<content>```[\s\S]*```)",
        rf"(?:write|save|put|store) (?P<content>\S[\s\S]*?) (?:to|into|in)(?: an?| the)?(?: new)? {_NAMED} {_PATH}",
        read=_file,
    ),
    phrases(
        Intent.CREATE,
        rf"{_NEW} {_PATH}",
        rf"{_NEW} {_PATH}{_HOLDING}",
        rf"(?:write|save|put|store) {_QUOTED} in {_PATH}",
        rf"(?:write|save|put|store) (?P<content>\S[\s\S]*?) (?:to|into) {_PATH}",
        read=_likely_file,
    ),
    phrases(
        Intent.READ,
        rf"{_OPEN} {_NAMED} {_PATH}(?: to me)?",
        rf"{_OPEN} {_PATH} file",
        rf"{_WHAT_IS_IN} {_NAMED} {_PATH}",
        rf"what does the {_NAMED} {_PATH} (?:say|contain|hold)",
        read=_file,
    ),
    phrases(
        Intent.READ,
        rf"{_OPEN} {_PATH}(?: to me)?",
        rf"{_WHAT_IS_IN} {_PATH}",
        rf"what does {_PATH} (?:say|contain|hold)",
        read=_likely_file,
    ),
    phrases(
        Intent.LIST,
        r"(?:list|show|display|see)(?: me)?(?: all)?(?: of)?(?: the| my| your)?"
        r" (?:files?|contents?|everything|folders?|director(?:y|ies))(?: and (?:files|folders|directories))?"
        rf"(?:(?: (?:in|inside|of|under|from|at))? {_FOLDER})?",
        r"(?:what|which)(?: files| folders)?(?: are|'s| is)(?: there)? in(?:side)?"
        rf" (?P<subject>(?:the|this|my|your) .*?{_PLACE})",
        rf"(?:what|which) files (?:are there|are here|do you have|do you see|exist)(?: in(?:side)? {_FOLDER})?",
        r"list (?P<subject>(?:the )?\S+ (?:directory|folder))",
        r"ls(?: (?P<subject>[^\s`;|&<>$]+))?",
        read=_folder,
    ),
    phrases(Intent.LIST, rf"list(?: the)? {_PATH}", read=_likely_file),
)
