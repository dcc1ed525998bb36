from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Serve the gateway and its admin until SIGTERM. `up` starts this together with everything it needs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *_: Any, host: str, port: int, **__: Any) -> None:
        from gateway_project import server

        server.run(host=host, port=port)
