from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = (
        "Start everything: database, first login and key, an agent-server in an environment of its own, a Celery "
        "worker, a demo LLM if none is configured, and the gateway. Ctrl-C ends all of it."
    )
    requires_system_checks: list[str] = []  # checked as a step of the start, with one sentence

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--allow-tools",
            action="store_true",
            help="let profiles made by this command use tools although others can reach --host",
        )
        parser.add_argument(
            "--no-agent-server", action="store_true", help="use the agent-servers in the admin, start none here"
        )
        parser.add_argument("--logs", action="store_true", help="print what every program says, not the gateway alone")

    def handle(self, *_: Any, host: str, port: int, allow_tools: bool, logs: bool, **options: Any) -> None:
        from gateway_project.supervisor import start

        chosen = start.Options(
            host=host,
            port=port,
            allows_tools=allow_tools,
            runs_agent_server=not options["no_agent_server"],
            shows_all_logs=logs,
        )
        sys.exit(start.run(chosen))
