"""The `messages` and `tools` of a chat completion, sorted into what the user said before, what is asked now, and what
the tools gave.

The agent tells its story in three ways that matter here: user messages that got no answer come merged, as parts of
one message; earlier turns that a client resent come inside the first user message, between tags that share a random
id; and the directory it works in stands only in the descriptions of its tools.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool call gave, as the agent words it. `has_image`: a picture came with it."""

    text: str
    has_image: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """`parameters` are the names of its arguments."""

    description: str
    parameters: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One request.

    `earlier` are the user's texts before the newest message, oldest first. `asked` is the newest in its possible
    readings, likeliest first; empty if there is none. `images` counts its pictures. `results` are those of the tool
    calls made for it so far, oldest first.
    """

    earlier: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    images: int = 0
    results: tuple[ToolResult, ...] = ()
    tools: Mapping[str, Tool]

    @property
    def workspace(self) -> str | None:
        """The absolute path that the agent works in, None if no tool tells it.

        agent-server 1.58 writes "Your current working directory is: <path>" into the descriptions of its file tools
        and nowhere else.
        """
        for tool in self.tools.values():
            if found := _WORKSPACE.search(tool.description):
                return found["path"].strip()
        return None


_WORKSPACE = re.compile(r"working directory(?: is)?: (?P<path>/[^\n]*)")


def conversation_of(*, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Conversation:
    """`messages` and `tools` as in a checked request of `/v1/chat/completions`."""
    earlier: list[str] = []
    asked = _UserMessage(texts=(), history=(), images=0)
    results: list[ToolResult] = []
    for message in messages:
        content = message.get("content")
        if message["role"] == "user":
            earlier += (*asked.history, *asked.texts)
            asked, results = _user_message(content), []
        elif message["role"] == "tool":
            results.append(ToolResult(text="".join(_texts(content)), has_image=_image_count(content) > 0))
    return Conversation(
        earlier=(*earlier, *asked.history),
        asked=asked.readings(),
        images=asked.images,
        results=tuple(results),
        tools={tool["function"]["name"]: _tool(tool["function"]) for tool in tools},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _UserMessage:
    """`history` are the user's earlier texts that the message replays."""

    texts: tuple[str, ...]
    history: tuple[str, ...]
    images: int

    def readings(self) -> tuple[str, ...]:
        """The last part alone comes first: the parts before it may be prompts of turns that were stopped."""
        if len(self.texts) < 2:
            return self.texts
        return (self.texts[-1], "\n".join(self.texts))


def _user_message(content: Any) -> _UserMessage:
    history, rest = _unfold(_DIVIDER.join(_texts(content)))
    # Pictures of replayed messages follow the tags as parts of this message; their places are numbered.
    replayed_images = sum(len(_REPLAYED_IMAGE.findall(text)) for text in history)
    return _UserMessage(
        texts=tuple(text for part in rest.split(_DIVIDER) if (text := part.strip())),
        history=history,
        images=max(0, _image_count(content) - replayed_images),
    )


# A control character that no client has reason to send; should it come, it divides a text in two, no more.
_DIVIDER = "\x1e"
_REPLAYED_IMAGE = re.compile(r"^\[image \d+\]$", re.MULTILINE)


# --- earlier turns inside a user message ---------------------------------------------------------------------------

_FENCED_TAG = re.compile(
    r"<(?P<slash>/?)[a-z_-]+?(?P<fence>(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f]))(?P<attributes>[^<>]*)>"
)
_ROLE = re.compile(r'\brole="(?P<role>[a-z]+)"')


def _unfold(text: str) -> tuple[tuple[str, ...], str]:
    """The user's texts among the earlier turns that `text` replays, and what is left of it.

    Turns stand between tags that end in one id, such as `<message-0123456789abcdef role="user">`. The first id is
    the only one that counts: the id of a replay occurs in none of its texts, so any other is a user's own.
    """
    first = _FENCED_TAG.search(text)
    if first is None or first["slash"]:
        return (), text
    tags = [tag for tag in _FENCED_TAG.finditer(text) if tag["fence"] == first["fence"]]
    if not tags[-1]["slash"]:
        return (), text
    history: list[str] = []
    for tag, following in itertools.pairwise(tags):
        role = _ROLE.search(tag["attributes"])
        said = text[tag.end() : following.start()].replace(_DIVIDER, "\n").strip()
        if role and role["role"] == "user" and not tag["slash"] and said:
            history.append(said)
    # What introduces the tags names their id; anything else before them is the user's.
    before = text[: first.start()]
    return tuple(history), ("" if first["fence"] in before else before) + text[tags[-1].end() :]


# --- parts ---------------------------------------------------------------------------------------------------------


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _image_count(content: Any) -> int:
    if not isinstance(content, list):
        return 0
    return sum(part.get("type") == "image_url" for part in content)


def _tool(function: Mapping[str, Any]) -> Tool:
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return Tool(
        description=str(function.get("description") or ""),
        parameters=frozenset(properties) if isinstance(properties, dict) else frozenset(),
    )
