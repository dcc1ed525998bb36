"""Requests that chat UIs send by themselves: titles, tags, follow-up questions, search queries, autocompletion.

They come to the model that the user chose, look like any other request, and must not start an agent: it would act on
the words of a template, and a title would take a minute. Nothing in them says what they are; they are known by their
words. `recognise` is strict, because the opposite mistake is worse: a user's own prompt that is taken for one gets no
agent. It asks for all of

- the shape that the client sends: a single user message, or the prompt as the last message of the whole history, or a
  system message with the conversation as the only user message;
- the opening of the client's template, word for word (white space does not count), and its whole text where nothing
  follows it;
- an unstreamed request, or else another text of the template further on.

What does not count: the headers that chat UIs send, because they send them with users' messages too; and a heading
`### Task:` alone, which users write as well. Templates that an administrator of Open WebUI has rewritten are known if
they keep the heading and the `<chat_history>` at the end.

Pure: no clock, no network, no rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.eliding import shortened
from chatgateway.openai_api.transcript import EarlierMessage, Transcript, user_text

Task = Literal["title", "tags", "follow_ups", "queries", "autocomplete", "emoji", "image_prompt", "other"]

# A title takes the beginning and the end of what was said; a long document in between only costs.
MOST_BYTES = 40_000
# Enough for a title with its thoughts. Clients that send less mean it: an emoji takes 4.
MOST_OUTPUT_TOKENS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """How one client words one task.

    `shape`: where the words stand. `opening` is how the text begins, all of it if `is_whole`. A streamed request must
    hold `further`, too; without one the client never streams this task. `source` names the template and the versions
    it was read in.
    """

    task: Task
    source: str
    opening: str
    shape: Literal["alone", "last", "system"] = "alone"
    is_whole: bool = False
    further: str = ""


_OPEN_WEBUI = "Open WebUI (00b1c6b, 2026), backend/open_webui/config.py, DEFAULT_{}_PROMPT_TEMPLATE"
_HISTORY = "<chat_history>"

PATTERNS = (
    Pattern(
        task="title",
        source=_OPEN_WEBUI.format("TITLE_GENERATION"),
        opening="### Task: Generate a concise title summarizing the chat history.",
        further=_HISTORY,
    ),
    Pattern(
        task="title",
        source="Open WebUI 0.6, the same",
        opening="### Task: Generate a concise, 3-5 word title with an emoji summarizing the chat history.",
        further=_HISTORY,
    ),
    Pattern(
        task="title",
        source="Open WebUI before 0.5, the same",
        opening="Create a concise, 3-5 word title with an emoji as a title for the ",
        further="RESPOND ONLY WITH THE TITLE TEXT",
    ),
    Pattern(
        task="tags",
        source=_OPEN_WEBUI.format("TAGS_GENERATION"),
        opening="### Task: Generate 1-3 broad tags categorizing the main themes of the chat history",
        further=_HISTORY,
    ),
    Pattern(
        task="follow_ups",
        source=_OPEN_WEBUI.format("FOLLOW_UP_GENERATION"),
        opening="### Task: Suggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next",
        further=_HISTORY,
    ),
    Pattern(
        task="follow_ups",
        source="Open WebUI 0.12, the same",
        opening="### Task: Predict 3-5 useful messages this user might naturally send next",
        further=_HISTORY,
    ),
    Pattern(
        task="queries",
        source=_OPEN_WEBUI.format("QUERY_GENERATION"),
        opening="### Task: Analyze the chat history to determine the necessity of generating search queries",
        further=_HISTORY,
    ),
    Pattern(
        task="image_prompt",
        source=_OPEN_WEBUI.format("IMAGE_PROMPT_GENERATION"),
        opening="### Task: Generate a detailed prompt for am image generation task",
        further=_HISTORY,
    ),
    Pattern(
        task="autocomplete",
        source=_OPEN_WEBUI.format("AUTOCOMPLETE_GENERATION"),
        opening="### Task: You are an autocompletion system. Continue the text in `<text>`",
        further="<text>",
    ),
    Pattern(
        task="emoji",
        source=_OPEN_WEBUI.format("EMOJI_GENERATION"),
        opening="Your task is to reflect the speaker's likely facial expression through a fitting emoji.",
        further="Message: ```",
    ),
    Pattern(
        task="title",
        source="LibreChat (danny-avila/agents d8751a6), src/utils/title.ts, titleMethod: completion",
        opening="Provide a concise, 5-word-or-less title for the conversation, using ",
        further="Conversation:",
    ),
    Pattern(
        task="title",
        source="LibreChat, the same, titleMethod: structured",
        opening="Analyze this conversation and provide: 1. The detected language of the conversation 2. A concise ",
        further="5 words or less",
    ),
    Pattern(
        task="title",
        source="NextChat 2.16 (012598f), app/locales/en.ts, Store.Prompt.Topic",
        opening="Please generate a four to five word title summarizing our conversation without any lead-in, "
        "punctuation, quotation marks, periods, symbols, bold text, or additional text. Remove enclosing quotation "
        "marks.",
        shape="last",
        is_whole=True,
    ),
    Pattern(
        task="title",
        source="NextChat before 2.13 (ChatGPT-Next-Web), the same",
        opening="Please generate a four to five word title summarizing our conversation without any lead-in, "
        "punctuation, quotation marks, periods, symbols, or additional text. Remove enclosing quotation marks.",
        shape="last",
        is_whole=True,
    ),
    Pattern(
        task="title",
        source="Lobe Chat 1.143.3, packages/prompts/src/chains/summaryTitle.ts",
        opening="You are a professional conversation summarizer. Generate a concise title",
        shape="system",
        further="Output ONLY the title text",
    ),
    Pattern(
        task="title",
        source="Cherry Studio 2, TopicNamingService, FALLBACK_PROMPT",
        opening="Summarize the conversation into a title in ",
        shape="system",
        further="Output only the title string",
    ),
    Pattern(
        task="title",
        source="Cherry Studio 1, src/renderer/src/config/prompts.ts, SUMMARIZE_PROMPT",
        opening="You are an assistant skilled in conversation. You need to summarize the user's conversation into a ",
        shape="system",
        further="Do not use punctuation marks",
    ),
    Pattern(
        task="title",
        source="Chatbox 1, src/renderer/packages/prompts.ts, nameConversation",
        opening="Based on the chat history, give this conversation a name.",
        further="Only give the name, nothing else.",
    ),
)

_LONGEST_OPENING = max(len(pattern.opening) for pattern in PATTERNS)
# Templates of Open WebUI that an administrator has rewritten: the heading, and the history at the end.
_REWRITTEN = re.compile(r"### Task:\s.*\n<chat_history>\n.*</chat_history>\s*\Z", re.DOTALL)


def recognise(chat: ChatRequest) -> Task | None:
    """Return which of a chat UI's own tasks the request is, None for everything else."""
    transcript = chat.transcript
    alone = len(transcript.new) == 1 and not transcript.earlier and transcript.new[0].role == "user"
    asked = user_text(transcript.new[-1].parts) if transcript.new else ""
    where = {
        "alone": asked if alone else "",
        "last": asked if not alone and len(transcript.new) == 1 else "",
        "system": transcript.system_suffix if alone else "",
    }
    openings = {shape: _plain(text[: 2 * _LONGEST_OPENING]) for shape, text in where.items() if text}
    for pattern in PATTERNS:
        opening = openings.get(pattern.shape, "")
        is_it = opening == pattern.opening if pattern.is_whole else opening.startswith(pattern.opening)
        if is_it and (not chat.stream or (pattern.further and pattern.further in where[pattern.shape])):
            return pattern.task
    is_rewritten = alone and not chat.stream and asked.startswith("### Task:") and _REWRITTEN.match(asked)
    return "other" if is_rewritten else None


def _plain(text: str) -> str:
    return " ".join(text.split())


# --- for the LLM ------------------------------------------------------------------------------------------------------


def messages_for(transcript: Transcript) -> list[dict[str, str]]:
    """The request as an LLM alone is asked: texts without images, of a long history the newest, of a long text its
    beginning and its end."""
    spoken = [_message(one) for one in (*transcript.earlier, *transcript.new)]
    system = [{"role": "system", "content": transcript.system_suffix}] if transcript.system_suffix else []
    kept: list[dict[str, str]] = []
    left = MOST_BYTES - sum(len(one["content"]) for one in system)
    for message in reversed(spoken):
        if kept and left < len(message["content"]):
            break
        kept.append({**message, "content": shortened(message["content"], MOST_BYTES)})
        left -= len(message["content"])
    return [*({**one, "content": shortened(one["content"], MOST_BYTES)} for one in system), *reversed(kept)]


def _message(message: EarlierMessage) -> dict[str, str]:
    role = "assistant" if message.role == "assistant" else "user"
    return {"role": role, "content": user_text(message.parts) or "…"}


def response_format(chat: ChatRequest) -> dict[str, Any] | None:
    """The form that the client asks the answer in, if it asks for one."""
    wanted = chat.raw.get("response_format")
    return wanted if isinstance(wanted, dict) and wanted.get("type") != "text" else None


def output_limit(chat: ChatRequest) -> int:
    """How many tokens the answer may have: what the client says, within reason."""
    asked = chat.raw.get("max_completion_tokens") or chat.raw.get("max_tokens") or MOST_OUTPUT_TOKENS
    return min(int(asked), MOST_OUTPUT_TOKENS)


# --- without an LLM ---------------------------------------------------------------------------------------------------

_SAID_BY_USER = re.compile(r"^(?:user|human): *(?P<said>\S.*)$", re.IGNORECASE | re.MULTILINE)
# Where the conversation begins that a prompt quotes: Open WebUI, LibreChat, Chatbox.
_QUOTED = re.compile(
    r"<chat_history>\n|^Conversation:\n|^Here's the conversation:\s*```\n|\n\n(?=User: )", re.MULTILINE
)
_MOST_WORDS = 6
_MOST_TITLE_CHARS = 50
_NO_TITLE = "New chat"


def template(task: Task, chat: ChatRequest) -> str:
    """A short answer for when there is no LLM to ask, in the form that the prompt wants: never empty."""
    prompt = user_text(chat.transcript.new[-1].parts)
    quoted = _QUOTED.search(prompt)
    instructions = prompt[: quoted.start()] if quoted else prompt
    match task:
        case "title":
            title = _title(_subject(chat, prompt[quoted.end() :] if quoted else ""))
            wants_json = response_format(chat) is not None or re.search(r'\{\s*"title"', instructions)
            return json.dumps({"title": title}, ensure_ascii=False) if wants_json else title
        case "tags":
            return '{"tags": ["General"]}'
        case "follow_ups":
            return '{"follow_ups": []}'
        case "queries":
            return '{"queries": []}'
        case "autocomplete":
            return '{"text": ""}'
        case "emoji":
            return "💬"
        case "image_prompt":
            return json.dumps({"prompt": _subject(chat, prompt[quoted.end() :] if quoted else "")}, ensure_ascii=False)
        case "other":
            return "{}"


def _subject(chat: ChatRequest, quoted: str) -> str:
    """What the user said first, as far as the request tells it."""
    first = next((user_text(one.parts) for one in chat.transcript.earlier if one.role == "user"), "")
    if first:
        return first
    said = _SAID_BY_USER.search(quoted) or _SAID_BY_USER.search(user_text(chat.transcript.new[-1].parts))
    return said["said"] if said else next(_lines(quoted), "")


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if re.search(r"\w", line))


def _title(subject: str) -> str:
    words = re.sub(r"[\"'`*#<>{}\[\]]", "", subject).split()
    title = " ".join(words[:_MOST_WORDS])[:_MOST_TITLE_CHARS].strip().rstrip(".,:;!?-")
    return title or _NO_TITLE
