"""What the demo LLM says without tools: about itself, and what it remembers of the conversation."""

from __future__ import annotations

import time

import pytest

from gateway_project.demo_llm.conversation import Conversation, Tool
from gateway_project.demo_llm.phrases import Intent
from gateway_project.demo_llm.replies import Text, decide, wishes

TOOLS = {name: Tool(description="", parameters=frozenset()) for name in ("terminal", "file_editor")}


def asking(prompt: str, *, tools: dict[str, Tool] = TOOLS, earlier: tuple[str, ...] = ()) -> Conversation:
    return Conversation(asked=(prompt,), tools=tools, earlier=earlier)


def text_for(conversation: Conversation) -> str:
    reply = decide(conversation)
    assert isinstance(reply, Text)
    return reply.text


@pytest.mark.parametrize(
    ("prompt", "intent"),
    [
        ("hello", Intent.GREET),
        ("Hello there!", Intent.GREET),
        ("hi 👋", Intent.GREET),
        ("Good morning!", Intent.GREET),
        ("hello, how are you?", Intent.GREET),
        ("how are you?", Intent.GREET),
        ("¿Qué puedes hacer?", None),
        ("Qué puedes hacer?", Intent.EXPLAIN),
        ("Bonjour", Intent.GREET),
        ("こんにちは", Intent.GREET),
        ("What can you do?", Intent.EXPLAIN),
        ("hey, what can you do for me?", Intent.EXPLAIN),
        ("help", Intent.EXPLAIN),
        ("Are you a real model?", Intent.EXPLAIN),
        ("which model are you?", Intent.EXPLAIN),
        ("Hi, my name is Ada", Intent.TELL_NAME),
        ("call me Bob", Intent.TELL_NAME),
        ("call me back tomorrow", None),
        ("remember the number 42", Intent.REMEMBER),
        ("The code is 1234. Please remember it.", Intent.REMEMBER),
        ("my favourite colour is blue", Intent.REMEMBER),
        ("what did I ask you to remember?", Intent.RECALL_FACTS),
        ("what was my first message?", Intent.RECALL_FIRST),
        ("what was my last question?", Intent.RECALL_LAST),
        ("what did I say before?", Intent.RECALL_ALL),
        ("do you remember what I said?", Intent.RECALL_ALL),
        ("what is my name?", Intent.RECALL_VALUE),
        ("who am I?", Intent.RECALL_VALUE),
        ("Say this is a test", Intent.SAY),
        ("say something funny", None),
        ("thanks!", Intent.THANK),
        ("bye", Intent.LEAVE),
        ("Write a haiku about rain", None),
        ('{"a": [1, 2]}', None),
        ("¿Qué tiempo hace hoy?", None),
        ("what is 2+2?", None),
        ("", None),
        ("?" * 25_000, None),
    ],
)
def test_a_prompt_is_understood_or_left_alone(prompt: str, intent: Intent | None) -> None:
    wish = next(wishes(prompt), None)

    assert (wish.intent if wish else None) == intent


@pytest.mark.parametrize(
    ("earlier", "prompt", "told"),
    [
        (("Hi, my name is Ada", "run ls"), "what is my name?", "You told me: your name is Ada."),
        (("my name is Ada", "My name is Bob."), "who am I?", "You told me: your name is Bob."),
        ((), "what is my name?", "You have not told me your name in this conversation."),
        (
            ("my favourite colour is blue",),
            "what is my favourite colour?",
            "You told me: your favourite colour is blue.",
        ),
        (("remember the number 42",), "what was the number I told you?", "You told me: the number is 42."),
        (
            ("The secret word is 'kiwi'. Remember it.",),
            "what is the secret word?",
            "You told me: the secret word is kiwi.",
        ),
        (
            ("remember that tea is at five", "hello"),
            "what did I ask you to remember?",
            'You asked me to remember:\n\n1. "tea is at five"',
        ),
        ((), "what did I ask you to remember?", "You have not told me anything to remember before this message."),
        (("one", "two"), "what did I say before?", 'Before this you said:\n\n1. "one"\n2. "two"'),
        (("one", "two"), "what was my first message?", 'The first thing you said was "one".'),
        (("one", "two"), "what was my last message?", 'Before this you said "two".'),
        ((), "what did I say before?", "You have not told me anything before this message."),
    ],
)
def test_it_remembers_what_the_messages_tell(earlier: tuple[str, ...], prompt: str, told: str) -> None:
    assert text_for(asking(prompt, earlier=earlier)) == told


def test_a_long_memory_lists_the_newest_messages_by_their_number() -> None:
    told = text_for(asking("what did I say before?", earlier=tuple(f"text {number}" for number in range(1, 26))))

    assert told.splitlines()[2:4] == ['16. "text 16"', '17. "text 17"']
    assert told.endswith('25. "text 25"')


def test_a_greeting_uses_the_name_that_was_given() -> None:
    assert text_for(asking("hello", earlier=("my name is Ada",))).startswith("Hello, Ada! I am the demo")


@pytest.mark.parametrize("offered", [["terminal", "file_editor"], ["terminal"], ["file_editor"], []])
@pytest.mark.parametrize("prompt", ["Write a haiku", "what can you do?"])
def test_it_says_that_it_is_a_demo_and_shows_three_prompts_that_work(prompt: str, offered: list[str]) -> None:
    told = text_for(asking(prompt, tools={name: TOOLS[name] for name in offered}))

    suggested = [line.removeprefix("- ") for line in told.splitlines() if line.startswith("- ")]
    assert told.startswith("I am the demo that ships with this gateway, not a real model")
    assert len(suggested) == 3
    assert [next(wishes(suggestion), None) is None for suggestion in suggested] == [False] * 3


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("what is on this picture?", "I cannot see pictures: I am a demo, not a real model. Try one of these:"),
        ("thanks", "I cannot see pictures: I am a demo, not a real model.\n\nYou are welcome!"),
    ],
)
def test_a_picture_is_not_passed_over_in_silence(prompt: str, told: str) -> None:
    assert text_for(Conversation(asked=(prompt,), images=1, tools=TOOLS)).startswith(told)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (
            "Generate a title (maximum 50 characters) for a conversation that starts with this message:\n\nrun `rm x`",
            "Demo conversation",
        ),
        (
            '### Task:\nGenerate a title.\nJSON format: { "title": "…" }\nUSER: run `ls`',
            '{"title": "Demo conversation"}',
        ),
        ('### Task:\nGenerate 1-3 tags.\nJSON format: { "tags": ["…"] }\n' + "x" * 50_000, '{"tags": ["Demo"]}'),
        ('### Task:\nSuggest follow-ups.\n{ "follow_ups": ["…"] }', '{"follow_ups": []}'),
    ],
)
def test_what_a_client_asks_for_itself_is_answered_harmlessly(prompt: str, told: str) -> None:
    assert text_for(asking(prompt)) == told


@pytest.mark.parametrize(
    "prompt",
    [
        " " * 19_000 + "x",
        "run x" + " " * 19_000 + "y",
        "hello" + "!" * 19_000 + "x",
        "please " * 2700,
        "thanks " * 2700,
        "write " + "to " * 6000,
        "remember " + "it " * 6000,
        "what is my " + "is " * 6000,
        "`" * 19_000,
        "show me the files " + "in " * 6000,
        "my name is " + "a " * 9000,
    ],
)
def test_no_prompt_makes_it_think_for_long(prompt: str) -> None:
    started = time.process_time()

    decide(asking(prompt, earlier=(prompt, prompt)))

    # Milliseconds with bounded repetitions, minutes with one that is not.
    assert time.process_time() - started < 2
