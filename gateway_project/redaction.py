"""Takes credentials out of text before it is logged. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable

_MASK = "••••"
# A value in quotes or without, up to where it plainly ends.
_VALUE = r"""["']?[^\s"',;&}\])]+["']?"""

_Replacement = str | Callable[[re.Match[str]], str]
_RULES: tuple[tuple[re.Pattern[str], _Replacement], ...] = (
    # Our keys: the prefix is public and finds the key in the admin.
    (re.compile(r"\bgw-([0-9a-f]{8})-[A-Za-z0-9_-]{20,}"), rf"gw-\1-{_MASK}"),
    # OpenAI, Anthropic, OpenRouter and everybody who copied them; Google; AWS; GitHub; Slack; Hugging Face; xAI; Groq
    (re.compile(r"\b(sk|rk|pk)-[A-Za-z0-9_*-]{8,}"), rf"\1-{_MASK}"),
    (
        re.compile(r"\b(AIza|AKIA|ASIA|gh[opsu]_|github_pat_|xox[abprs]-|hf_|xai-|gsk_)[A-Za-z0-9_-]{12,}"),
        rf"\1{_MASK}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {_MASK}"),
    # name: value and name=value, as headers, JSON, reprs and URLs write them
    (
        re.compile(
            r"""\b((?:[a-z0-9]+[_-])*(?:api[_-]?key|session[_-]api[_-]key|secret(?:[_-]key)?|password|passwd|"""
            rf"""access[_-]token|auth[_-]token|token)["']?\s*[:=]\s*)(?!{_MASK}){_VALUE}""",
            re.IGNORECASE,
        ),
        rf"\1{_MASK}",
    ),
    # user:password@ of a URL
    (re.compile(r"(://[^\s:/@]*:)[^\s/@]+@"), rf"\1{_MASK}@"),
)
_known: set[str] = set()


def remember(*values: str) -> None:
    """Mask these exact texts too, whatever they look like. Short ones would mask ordinary words and are left out."""
    _known.update(value for value in values if len(value) >= 8)


def redact(text: str) -> str:
    """Return `text` with credentials masked."""
    for value in _known:
        if value in text:
            text = text.replace(value, _MASK)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
