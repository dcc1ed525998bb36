"""What the code says of itself that readers rely on: variables, error codes, headers, routes, options."""

from __future__ import annotations

import ast
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from django.core.management import get_commands, load_command_class

from chatgateway.urls import urlpatterns
from tests.laws.pages import ROOT

_VARIABLE = re.compile(r"(?:GATEWAY|LLM|OH)_[A-Z0-9_]*[A-Z0-9]")
# Shell variables of printed examples.
EXAMPLES = {"GATEWAY_KEY"}
OUR_COMMANDS = (
    "up",
    "serve",
    "llm",
    "bootstrap",
    "mint_key",
    "doctor",
    "export_config",
    "import_config",
    "reset_admin_password",
    "rotate_secrets",
    "delete_end_user",
    "backup",
)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _nodes(*patterns: str) -> Iterator[ast.AST]:
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            yield from ast.walk(_tree(path))


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def variables() -> set[str]:
    """Environment variables by the texts that name them and nothing else."""
    texts = (_text(node) for node in _nodes("gateway_project/**/*.py"))
    return {text for text in texts if text and _VARIABLE.fullmatch(text)} - EXAMPLES


def error_codes() -> set[str]:
    """`code="…"` of calls and of error classes."""
    found: set[str | None] = set()
    for node in _nodes("chatgateway/*.py", "chatgateway/openai_api/*.py", "gateway_project/asgi.py"):
        match node:
            case ast.keyword(arg="code", value=value):
                found.add(_text(value))
            case ast.AnnAssign(target=ast.Name(id="code"), value=value):
                found.add(_text(value))
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                found.add(_text(value))
    return {code for code in found if code}


def reply_headers() -> set[str]:
    """Names of headers that the API's code sets, in lower case."""
    found: set[str | None] = set()
    for node in _nodes("chatgateway/*.py", "chatgateway/openai_api/*.py", "gateway_project/asgi.py"):
        match node:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="response"), slice=name)]):
                found.add(_text(name))
            case ast.keyword(arg="headers", value=ast.Dict(keys=names)):
                found |= {_text(name) for name in names}
            case ast.Call(func=ast.Attribute(attr="setdefault", value=ast.Attribute(attr="headers")), args=[name, *_]):
                found.add(_text(name))
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.endswith("_HEADER"):
                found.add(_text(value))
    return {name.lower() for name in found if name}


def routes() -> set[str]:
    """`GET /v1/models/{}` and so on: every route with a path of its own, and the methods its view answers."""
    found = set()
    for pattern in urlpatterns:
        path = re.sub(r"\(\?P<\w+>[^)]*\)", "{}", str(pattern.pattern).removeprefix("^").removesuffix("/?$"))
        if not re.fullmatch(r"[\w/{}]+", path):
            continue  # the root, and what catches all other paths
        view: Any = getattr(pattern.callback, "cls", None)
        methods = [name for name in ("get", "post", "delete") if hasattr(view, name)] if view else ["get"]
        found |= {f"{method.upper()} /{path}" for method in methods}
    return found


def parser_of(command: str) -> ArgumentParser:
    made = load_command_class(get_commands()[command], command)
    parser: ArgumentParser = made.create_parser("manage.py", command)
    return parser


def own_options(command: str) -> set[str]:
    """The options that a command adds to Django's."""
    common = {option for action in parser_of("check")._actions for option in action.option_strings} | {"--skip-checks"}
    options = {option for action in parser_of(command)._actions for option in action.option_strings}
    return {option for option in options - common if option.startswith("--")}


def pages_named_in_code() -> set[str]:
    """Pages of the documentation that programs print or comments name."""
    texts = (
        path.read_text()
        for app in ("gateway_project", "chatgateway", "profiles")
        for path in (ROOT / app).rglob("*.py")
    )
    return {page for text in texts for page in re.findall(r"\bdocs/[\w/.-]+\.md\b", text)}
