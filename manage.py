#!/usr/bin/env python
"""Django's command-line entry point. Wrong settings end every command with one sentence and status 2."""

import os
import sys

if sys.version_info < (3, 12):  # noqa: UP036  whoever runs it with another Python is told
    sys.exit("Python 3.12 or newer is needed. With uv it is found or installed: uv run python manage.py up")

# These hold secrets for as long as they run.
LONG_LIVED = {"up", "serve", "llm"}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")
    if LONG_LIVED & set(sys.argv[1:2]):
        from gateway_project.hardening import protect_process

        protect_process()
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit(
            "Django is not installed in this Python. Start with uv, which sees to that: uv run python manage.py up"
        )
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
