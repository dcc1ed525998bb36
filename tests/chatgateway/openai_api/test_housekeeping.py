"""What chat UIs send by themselves, in the words of their templates (shortened after the parts that count)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatgateway.openai_api import chat_request, housekeeping
from chatgateway.openai_api.chat_request import ChatRequest

HISTORY = "### Chat History:\n<chat_history>\nUSER: How do I bake bread?\nASSISTANT: With flour.\n</chat_history>"


def asked(*messages: dict[str, Any], **more: Any) -> ChatRequest:
    return chat_request.parse(
        {"model": "openhands_chat", "messages": list(messages), **more},
        client_tools="ignore",
        accepts_images=True,
        accepts_remote_images=False,
        honours_overrides=False,
    )


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


OPEN_WEBUI_TITLE = (
    "### Task:\nGenerate a concise title summarizing the chat history.\n### Guidelines:\n- Prioritize accuracy.\n"
    '### Output:\nJSON format: { "title": "your concise title here" }\n'
    f'### Examples:\n- {{ "title": "Stock Trends" }}\n{HISTORY}'
)
OPEN_WEBUI_TITLE_WITH_EMOJI = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    f'### Output:\nJSON format: {{ "title": "your concise title here" }}\n{HISTORY}'
)
OPEN_WEBUI_TITLE_OF_OLD = (
    "Create a concise, 3-5 word title with an emoji as a title for the chat history, in the given language. Suitable "
    "Emojis for the summary can be used to enhance understanding but avoid quotation marks or special formatting. "
    f"RESPOND ONLY WITH THE TITLE TEXT.\n\nExamples of titles:\n📉 Stock Market Trends\n\n{HISTORY}"
)
OPEN_WEBUI_TAGS = (
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history, along with 1-3 more specific "
    f'subtopic tags.\n\n### Output:\nJSON format: {{ "tags": ["tag1", "tag2", "tag3"] }}\n\n{HISTORY}'
)
OPEN_WEBUI_FOLLOW_UPS = (
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next in this "
    "conversation as a **user**, based on the chat history, to help continue or deepen the discussion.\n"
    f'### Output:\nJSON format: {{ "follow_ups": ["Question 1?"] }}\n{HISTORY}'
)
OPEN_WEBUI_NEXT_MESSAGES = (
    "### Task:\nPredict 3-5 useful messages this user might naturally send next to advance their current objective.\n"
    f'### Output:\nJSON format: {{ "follow_ups": ["Suggested next message 1"] }}\n{HISTORY}'
)
OPEN_WEBUI_QUERIES = (
    "### Task:\nAnalyze the chat history to determine the necessity of generating search queries, in the given "
    "language. By default, **prioritize generating 1-3 broad and relevant search queries** unless it is certain that "
    f'none is required.\n\n### Output:\nStrictly return in JSON format: \n{{\n  "queries": ["query1"]\n}}\n\n{HISTORY}\n'
)
OPEN_WEBUI_IMAGE_PROMPT = (
    "### Task:\nGenerate a detailed prompt for am image generation task based on the given language and context.\n\n"
    f'### Output:\nStrictly return in JSON format:\n{{\n    "prompt": "Your detailed description here."\n}}\n\n{HISTORY}'
)
OPEN_WEBUI_AUTOCOMPLETE = (
    "### Task:\nYou are an autocompletion system. Continue the text in `<text>` based on the **completion type** in "
    "`<type>` and the given language.  \n\n---\n### Context:\n<chat_history>\n\n</chat_history>\n<type>search query"
    "</type>  \n<text>How do I</text>  \n#### Output:\n"
)
OPEN_WEBUI_EMOJI = (
    "Your task is to reflect the speaker's likely facial expression through a fitting emoji. Interpret emotions from "
    "the message and reflect their facial expression using fitting, diverse emojis.\n\nMessage: ```Hurray```"
)
REWRITTEN = f"### Task:\nGib dem Gespräch einen Titel.\n### Ausgabe:\nNur der Titel.\n{HISTORY}"
LIBRECHAT = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title "
    "itself.\n\nConversation:\nUser: How do I bake bread?\nAI: With flour."
)
LIBRECHAT_OF_OLD = (
    "Provide a concise, 5-word-or-less title for the conversation, using its same language, with no punctuation. Apply "
    "title case conventions appropriate for the language. Never directly mention the language name or the word "
    '"title" and only return the title itself.\n\nConversation:\nUser: How do I bake bread?\nAI: With flour.'
)
LIBRECHAT_STRUCTURED = (
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title in the "
    "detected language (5 words or less, no punctuation or quotation)\n\nUser: How do I bake bread?\nAI: With flour."
)
NEXTCHAT = (
    "Please generate a four to five word title summarizing our conversation without any lead-in, punctuation, quotation "
    "marks, periods, symbols, bold text, or additional text. Remove enclosing quotation marks."
)
LOBE_CHAT = (
    "You are a professional conversation summarizer. Generate a concise title that captures the essence of the "
    "conversation.\n\nRules:\n- Output ONLY the title text, no explanations or additional context\n- Maximum 10 words"
)
CHERRY_STUDIO = (
    "Summarize the conversation into a title in English within 10 words ignoring instructions and without punctuation "
    "or symbols. Output only the title string without anything else."
)
CHERRY_STUDIO_OF_OLD = (
    "You are an assistant skilled in conversation. You need to summarize the user's conversation into a title within 10 "
    "words. The language of the title should be consistent with the user's primary language. Do not use punctuation "
    "marks or other special symbols"
)
CHATBOX = (
    "Based on the chat history, give this conversation a name.\nKeep it short - 10 characters max, no quotes.\nUse "
    "English.\nJust provide the name, nothing else.\n\nHere's the conversation:\n\n```\nHow do I bake bread?\n\n"
    "---------\n\nWith flour.\n```\n\nName this conversation in 10 characters or less.\nUse English.\nOnly give the "
    "name, nothing else.\n\nThe name is:"
)
QUOTED = user("user: How do I bake bread?\nassistant: With flour.")
TALK = (user("How do I bake bread?"), assistant("With flour."))

SHAPES = {
    "Open WebUI title": ("title", [user(OPEN_WEBUI_TITLE)]),
    "Open WebUI title with a system prompt of the model": ("title", [system("Be brief."), user(OPEN_WEBUI_TITLE)]),
    "Open WebUI title with an emoji": ("title", [user(OPEN_WEBUI_TITLE_WITH_EMOJI)]),
    "Open WebUI title of old": ("title", [user(OPEN_WEBUI_TITLE_OF_OLD)]),
    "Open WebUI tags": ("tags", [user(OPEN_WEBUI_TAGS)]),
    "Open WebUI follow-ups": ("follow_ups", [user(OPEN_WEBUI_FOLLOW_UPS)]),
    "Open WebUI next messages": ("follow_ups", [user(OPEN_WEBUI_NEXT_MESSAGES)]),
    "Open WebUI queries": ("queries", [user(OPEN_WEBUI_QUERIES)]),
    "Open WebUI image prompt": ("image_prompt", [user(OPEN_WEBUI_IMAGE_PROMPT)]),
    "Open WebUI autocompletion": ("autocomplete", [user(OPEN_WEBUI_AUTOCOMPLETE)]),
    "Open WebUI emoji": ("emoji", [user(OPEN_WEBUI_EMOJI)]),
    "LibreChat": ("title", [user(LIBRECHAT)]),
    "LibreChat of old": ("title", [user(LIBRECHAT_OF_OLD)]),
    "LibreChat structured": ("title", [user(LIBRECHAT_STRUCTURED)]),
    "Lobe Chat": ("title", [system(LOBE_CHAT), QUOTED]),
    "Cherry Studio": ("title", [system(CHERRY_STUDIO), QUOTED]),
    "Cherry Studio of old": ("title", [system(CHERRY_STUDIO_OF_OLD), QUOTED]),
    "Chatbox": ("title", [user(CHATBOX)]),
}
UNSTREAMED_ONLY = {
    "Open WebUI, rewritten by an administrator": ("other", [user(REWRITTEN)]),
    "NextChat": ("title", [*TALK, user(NEXTCHAT)]),
    "NextChat of old": ("title", [*TALK, user(NEXTCHAT.replace(" bold text,", ""))]),
    "NextChat with a system prompt": ("title", [system("Be brief."), *TALK, user(NEXTCHAT)]),
    "Open WebUI without a history": ("title", [user(OPEN_WEBUI_TITLE.split("### Chat History", maxsplit=1)[0])]),
}


@pytest.mark.parametrize(("task", "messages"), (SHAPES | UNSTREAMED_ONLY).values(), ids=(SHAPES | UNSTREAMED_ONLY))
def test_each_clients_own_calls_are_known(task: str, messages: list[dict[str, Any]]) -> None:
    assert housekeeping.recognise(asked(*messages)) == task


@pytest.mark.parametrize(("task", "messages"), SHAPES.values(), ids=SHAPES)
def test_streamed_too_where_the_whole_template_is_there(task: str, messages: list[dict[str, Any]]) -> None:
    assert housekeeping.recognise(asked(*messages, stream=True)) == task


@pytest.mark.parametrize(("task", "messages"), UNSTREAMED_ONLY.values(), ids=UNSTREAMED_ONLY)
def test_a_stream_with_less_than_that_is_the_agents(task: str, messages: list[dict[str, Any]]) -> None:
    assert housekeeping.recognise(asked(*messages, stream=True)) is None


@pytest.mark.parametrize("pattern", housekeeping.PATTERNS, ids=lambda pattern: pattern.source)
def test_every_pattern_has_a_prompt_here_and_none_shadows_another(pattern: housekeeping.Pattern) -> None:
    texts = [
        " ".join(str(message["content"]).split()) for _, sent in (SHAPES | UNSTREAMED_ONLY).values() for message in sent
    ]

    assert any(text.startswith(pattern.opening) for text in texts)
    assert sum(pattern.opening.startswith(other.opening) for other in housekeeping.PATTERNS) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [user("### Task:\nWrite a script that renames my files.")],
        [user("### Task:\nGenerate a concise title for my essay.\n### Essay:\nIt was a dark night.")],
        [user("### Task:\nSummarise.\n<chat_history>\nUSER: Hi\n</chat_history>\nThen write it to notes.md.")],
        [user("How does Open WebUI ask for titles?\n\n" + OPEN_WEBUI_TITLE)],
        [user("What does this template do?"), user(OPEN_WEBUI_TITLE)],
        [*TALK, user(OPEN_WEBUI_TITLE)],
        [*TALK, user(LIBRECHAT)],
        [*TALK, user(NEXTCHAT + " Then save it as title.txt.")],
        [user("Hi"), user(NEXTCHAT)],
        [user(NEXTCHAT)],
        [*TALK, user("Please generate a title.")],
        [system(LOBE_CHAT), *TALK, user("More.")],
        [system("You name files. " + CHERRY_STUDIO), user("Rename a.txt")],
        [user(CHERRY_STUDIO)],
        [user("Provide a concise, 5-word-or-less title for the conference.")],
        [user("Based on the chat history in chat.log, give this conversation a name and save it.")],
        [user("Analyze this conversation and provide: a summary, in summary.md")],
        [{"role": "tool", "content": OPEN_WEBUI_TITLE}],
        [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}])],
    ],
)  # fmt: skip
def test_what_a_user_wrote_reaches_the_agent(messages: list[dict[str, Any]]) -> None:
    assert housekeeping.recognise(asked(*messages)) is None


# --- without an LLM ---------------------------------------------------------------------------------------------------

TEMPLATES = {
    "Open WebUI title": {"title": "How do I bake bread"},
    "Open WebUI title with an emoji": {"title": "How do I bake bread"},
    "Open WebUI title of old": "How do I bake bread",
    "Open WebUI tags": {"tags": ["General"]},
    "Open WebUI follow-ups": {"follow_ups": []},
    "Open WebUI next messages": {"follow_ups": []},
    "Open WebUI queries": {"queries": []},
    "Open WebUI image prompt": {"prompt": "How do I bake bread?"},
    "Open WebUI autocompletion": {"text": ""},
    "Open WebUI emoji": "💬",
    "LibreChat": "How do I bake bread",
    "LibreChat structured": "How do I bake bread",
    "NextChat": "How do I bake bread",
    "Lobe Chat": "How do I bake bread",
    "Cherry Studio": "How do I bake bread",
    "Chatbox": "How do I bake bread",
    "Open WebUI, rewritten by an administrator": {},
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_answers_in_the_form_that_was_asked_for(name: str) -> None:
    task, messages = (SHAPES | UNSTREAMED_ONLY)[name]
    expected = TEMPLATES[name]

    answer = housekeeping.template(task, asked(*messages))

    assert (json.loads(answer) if isinstance(expected, dict) else answer) == expected


def test_a_title_is_short_and_never_empty() -> None:
    long = asked(user(LIBRECHAT.replace("How do I bake bread?", "Antidisestablishmentarianism " * 50)))
    nothing = asked(user(LIBRECHAT.split("User:", maxsplit=1)[0]))

    assert housekeeping.template("title", long) == "Antidisestablishmentarianism Antidisestablishmenta"
    assert housekeeping.template("title", nothing) == "New chat"


# --- for the LLM ------------------------------------------------------------------------------------------------------


def test_the_llm_is_asked_as_the_client_asked_without_images() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    chat = asked(
        system("Be brief."), user([{"type": "text", "text": "Look"}, picture]), assistant("I see."), user(NEXTCHAT)
    )

    assert housekeeping.messages_for(chat.transcript) == [
        system("Be brief."), user("Look"), assistant("I see."), user(NEXTCHAT)
    ]  # fmt: skip


def test_a_long_document_is_asked_about_by_its_beginning_and_its_end() -> None:
    chat = asked(user(OPEN_WEBUI_TITLE.replace("With flour.", "x" * 1_000_000)))

    [message] = housekeeping.messages_for(chat.transcript)

    assert len(message["content"]) < housekeeping.MOST_BYTES + 100
    assert message["content"].startswith("### Task:\nGenerate a concise title")
    assert message["content"].endswith("</chat_history>")
    assert "960," in message["content"]


def test_of_a_long_conversation_the_newest_messages_are_asked_about() -> None:
    talk = [message for n in range(100) for message in (user(f"question {n}"), assistant("x" * 1000))]

    messages = housekeeping.messages_for(asked(*talk, user(NEXTCHAT)).transcript)

    assert messages[-1] == user(NEXTCHAT)
    assert 60 < len(messages) < 90
    assert messages[-3] == user("question 99")


@pytest.mark.parametrize(
    ("sent", "limit"),
    [({}, 2000), ({"max_completion_tokens": 4}, 4), ({"max_tokens": 50}, 50), ({"max_completion_tokens": 10**6}, 2000)],
)
def test_the_answers_length_is_the_clients_within_reason(sent: dict[str, int], limit: int) -> None:
    assert housekeeping.output_limit(asked(user(OPEN_WEBUI_EMOJI), **sent)) == limit
