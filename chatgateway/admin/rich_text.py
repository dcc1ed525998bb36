"""Markdown that callers and models wrote, shown as they meant it to look, on a page of the admin.

Its HTML is never part of the page. It stands in a frame of its own that runs no script (`sandbox` without
`allow-scripts`), sends no form, opens no window and may load one style sheet of ours and nothing else; the frame keeps
the page's origin only so that the page can give it its height. Before that, raw HTML was escaped, and what is left was
cleaned. A link shows where it would lead and leads nowhere; a picture is told, not loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nh3
from django.template.loader import render_to_string
from django.utils.html import escape
from django.utils.safestring import SafeString
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

_TAGS = frozenset(
    {"p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "s", "code", "pre", "blockquote"}
    | {"ul", "ol", "li", "span", "table", "thead", "tbody", "tr", "th", "td"}
)
_ATTRIBUTES = {"ol": {"start"}}
_CLASSES = {"span": {"link", "url", "picture"}}
# A table has as many cells in each row as in its first: the square of what was written.
_MAXIMUM_CELLS = 100_000
# What a text without any markup consists of.
_PLAIN = frozenset({"paragraph_open", "paragraph_close", "inline"})


class _Renderer(RendererHTML):
    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<span class="link">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        opened = next(token for token in reversed(tokens[:idx]) if token.type == "link_open")
        return f'</span> <span class="url">({escape(opened.attrGet("href") or "")})</span>'

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        picture = tokens[idx]
        return (
            f'<span class="picture">[picture: {escape(picture.content)}, {escape(picture.attrGet("src") or "")}]</span>'
        )


# Definitions of references would not be seen, and an auditor is to see everything: they stay text.
_markdown = (
    MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer)
    .enable(["table", "strikethrough"])
    .disable("reference")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A text as it was written, and as a whole HTML document if it has any markup."""

    text: str
    document: str = ""

    def __bool__(self) -> bool:
        return bool(self.text)


def told(text: str) -> Told:
    """Return how a text is shown: as it is, or as Markdown if it is written in it."""
    if text.count("|") * (text.count("\n") + 1) > _MAXIMUM_CELLS:
        return Told(text=text)
    tokens = _markdown.parse(text)
    if _is_plain(tokens):
        return Told(text=text)
    html = nh3.clean(
        _markdown.renderer.render(tokens, _markdown.options, {}),
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        allowed_classes=_CLASSES,
    )
    context = {"html": SafeString(html)}  # cleaned just above, and shown where nothing runs
    return Told(text=text, document=render_to_string("chatgateway/admin/rich_text_frame.html", context))


def _is_plain(tokens: list[Token]) -> bool:
    return all(token.type in _PLAIN and not _has_markup(token.children or []) for token in tokens)


def _has_markup(tokens: Sequence[Any]) -> bool:
    return any(token.type not in {"text", "softbreak", "text_special"} for token in tokens)
