"""What the demo answers: the whole of its mind, without network, clock or chance.

It understands a table of prompts (`task_phrases`, `talk_phrases`). To anything else it says what it is, and shows
three prompts that work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from gateway_project.demo_llm import memory
from gateway_project.demo_llm.conversation import Conversation
from gateway_project.demo_llm.phrases import Intent, Wish
from gateway_project.demo_llm.talk_phrases import HOUSEKEEPING, TALK
from gateway_project.demo_llm.task_phrases import TASKS
from gateway_project.demo_llm.tool_reports import code
from gateway_project.demo_llm.tool_work import Call, Reply, Text, create_file, list_files, read_file, run_command

__all__ = ["Call", "Reply", "Text", "decide", "wishes"]

_DEMO = (
    "I am the demo that ships with this gateway, not a real model, so I only understand a few prompts. "
    "To talk to a real model, give the gateway a provider key (`LLM_MODEL`, `LLM_API_KEY`) or edit the profile."
)
_SIGHT = "I cannot see pictures: I am a demo, not a real model."


def decide(conversation: Conversation) -> Reply:
    """The next reply: a tool call, or the text that ends the agent's run. Never without either."""
    for prompt in conversation.asked:
        for wish in wishes(prompt):
            if reply := _grant(wish, prompt, conversation):
                return _with_sight(reply, conversation)
    reason = _SIGHT if conversation.images else _DEMO
    return Text(text=f"{reason} Try one of these:\n\n{_suggestions(conversation)}")


# --- what is wished --------------------------------------------------------------------------------------------------

# Longer texts are documents with a question somewhere, not prompts of the kinds in the tables.
_LONGEST = 20_000

_POLITE_START = re.compile(
    r"(?:(?:please|kindly|now|then|next|ok(?:ay)?|and|hey|hi|hello|i would like you to|i'd like you to|i want you to"
    r"|(?:can|could|would|will) you)\b[,.!:]{0,9}\s{1,9}){1,9}(?=\S)",
    re.IGNORECASE,
)
_POLITE_END = re.compile(r"(?:,?\s{1,9}(?:please|for me|thanks|thank you)){1,3}(?=[.?!]{0,9}$)", re.IGNORECASE)


def wishes(prompt: str) -> Iterator[Wish]:
    """What `prompt` may ask for, likeliest first; nothing, for most texts."""
    if HOUSEKEEPING.match(prompt):
        yield Wish(intent=Intent.HOUSEKEEPING)
    elif len(prompt) <= _LONGEST:
        for text in dict.fromkeys((_trimmed(prompt), prompt)):
            yield from (wish for row in (*TASKS, *TALK) if (wish := row.wish(text)))


def _trimmed(prompt: str) -> str:
    """Without "could you please …" before it and "… for me, thanks" behind it."""
    start = _POLITE_START.match(prompt)
    return _POLITE_END.sub("", prompt[start.end() if start else 0 :]).strip()


def _grant(wish: Wish, prompt: str, conversation: Conversation) -> Reply | None:
    """The reply to `wish`, None if there turns out to be none."""
    match wish.intent:
        case Intent.RUN:
            return run_command(wish.subject, conversation)
        case Intent.CREATE:
            return create_file(wish.subject, wish.content, conversation)
        case Intent.READ:
            return read_file(wish.subject, conversation)
        case Intent.LIST:
            return list_files(wish.subject or None, conversation)
        case Intent.HOUSEKEEPING:
            return Text(text=_housekeeping(prompt))
        case _:
            text = _say(wish, conversation)
            return Text(text=text) if text else None


def _with_sight(reply: Reply, conversation: Conversation) -> Reply:
    """A picture that came with the prompt is not passed over in silence, unless there is work to do first."""
    if isinstance(reply, Call) or not conversation.images:
        return reply
    return Text(text=f"{_SIGHT}\n\n{reply.text}")


# --- what is said ----------------------------------------------------------------------------------------------------


def _say(wish: Wish, conversation: Conversation) -> str | None:
    said = conversation.earlier
    match wish.intent:
        case Intent.GREET:
            name = memory.name_in(said)
            return f"Hello{f', {name}' if name else ''}! {_introduction(conversation)}"
        case Intent.EXPLAIN:
            return _introduction(conversation)
        case Intent.TELL_NAME:
            return f"Nice to meet you, {wish.subject}! I will remember your name in this conversation."
        case Intent.REMEMBER:
            return f"I will remember this in this conversation: {wish.subject}."
        case Intent.RECALL_FACTS:
            facts = memory.facts_in(said)
            return f"You asked me to remember:\n\n{memory.listed(facts)}" if facts else _nothing_said("to remember")
        case Intent.RECALL_FIRST:
            return f"The first thing you said was {memory.quoted(said[0])}." if said else _nothing_said()
        case Intent.RECALL_LAST:
            return f"Before this you said {memory.quoted(said[-1])}." if said else _nothing_said()
        case Intent.RECALL_ALL:
            return f"Before this you said:\n\n{memory.listed(said)}" if said else _nothing_said()
        case Intent.RECALL_VALUE:
            return _recall(wish, conversation)
        case Intent.SAY:
            return wish.subject
        case Intent.THANK:
            return "You are welcome!"
        case Intent.LEAVE:
            return "Goodbye! This conversation stays where it is; come back to it at any time."
        case _:
            return None


def _recall(wish: Wish, conversation: Conversation) -> str | None:
    value = memory.value_of(wish.subject, conversation.earlier)
    if value:
        return f"You told me: {'your' if wish.is_own else 'the'} {wish.subject} is {value}."
    return f"You have not told me your {wish.subject} in this conversation." if wish.is_own else None


def _nothing_said(what: str = "") -> str:
    return f"You have not told me anything{f' {what}' if what else ''} before this message."


def _introduction(conversation: Conversation) -> str:
    return (
        "I am the demo that ships with this gateway, not a real model. "
        f"{_means(conversation)} Try one of these:\n\n{_suggestions(conversation)}"
    )


def _means(conversation: Conversation) -> str:
    if not conversation.tools:
        return "In this conversation I have no tools, so all I can do is talk and remember."
    names = ", ".join(code(name) for name in conversation.tools)
    return f"The agent around me is real, though, and so are its tools, which I call when you ask for it: {names}."


def _suggestions(conversation: Conversation) -> str:
    """Three prompts that work here."""
    prompts = ["my name is Ada", "what is my name?", "what did I say before?"]
    if "terminal" in conversation.tools:
        prompts = ["run `uname -a`", "create file notes.txt with hello", "read file notes.txt"]
    elif "file_editor" in conversation.tools:
        prompts = ["list files", "create file notes.txt with hello", "read file notes.txt"]
    return "\n".join(f"- {prompt}" for prompt in prompts)


# --- what clients ask for themselves ---------------------------------------------------------------------------------

# Open WebUI names the key of the JSON object it wants.
_HOUSEKEEPING_OBJECTS: dict[str, str | list[str]] = {
    "title": "Demo conversation",
    "tags": ["Demo"],
    "follow_ups": [],
    "queries": [],
    "text": "",
}


def _housekeeping(prompt: str) -> str:
    """A harmless title, list of tags or the like, in the form asked for."""
    for key, value in _HOUSEKEEPING_OBJECTS.items():
        if re.search(rf'\{{\s*"{key}"\s*:', prompt):
            return json.dumps({key: value})
    return "Demo conversation"
