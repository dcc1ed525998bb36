"""JSON that an administrator pastes and that is stored encrypted: what it must hold. Errors never quote it."""

from __future__ import annotations

import json
import re
from typing import Any

from django.core.exceptions import ValidationError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`. The error says where it breaks, without quoting it: it holds secrets."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f" (line {error.lineno}, column {error.colno}: {error.msg})"
        raise ValidationError(f"That is not valid JSON{where}. It was not stored; paste it again.") from None
    except ValueError:  # an integer of more digits than Python reads
        raise ValidationError("That is not valid JSON. It was not stored; paste it again.") from None
    except RecursionError:
        raise ValidationError("That is nested too deeply.") from None
    if not isinstance(value, dict):
        raise ValidationError('Write a JSON object: {"name": …}.')
    return value


def validate_mcp_servers(text: str) -> None:
    """Raise unless `text` is `{"mcpServers": {name: {…}}}` where each server has a `url` or a `command`."""
    servers = read_object(text).get("mcpServers")
    if not isinstance(servers, dict):
        raise ValidationError('Write {"mcpServers": {"name": {"url": "https://…"}}}.')
    for name, server in servers.items():
        if not isinstance(server, dict) or not (server.get("url") or server.get("command")):
            raise ValidationError(f"MCP server “{name}” needs a “url” or a “command”.")


def validate_variables(text: str) -> None:
    """Raise unless `text` is an object of environment variables with texts as values."""
    for name, value in read_object(text).items():
        if not _VARIABLE.match(name):
            raise ValidationError(f"“{name[:60]}” is not a name for an environment variable.")
        if not isinstance(value, str) or not value:
            raise ValidationError(f"The value of “{name}” must be a text in quotes, and not empty.")
