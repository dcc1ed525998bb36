from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = (
        "Make the first administrator, tenant and API key if there are none, keep the profile of LLM_MODEL up to date, "
        "and name an agent-server. For set-ups that do not use `up`; run it after `migrate`, as often as you like."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--agent-server", metavar="URL", help="an agent-server that is running")
        parser.add_argument("--agent-server-name", default="agent-server")
        parser.add_argument("--session-api-key-file", type=Path, help="a file with its OH_SESSION_API_KEYS_0")
        parser.add_argument("--workspace-root", help="an absolute directory on it, for the agents' work")

    def handle(self, *_: Any, **options: Any) -> None:
        from gateway_project import bootstrap

        made = bootstrap.set_up_access(public_url=settings.GATEWAY_PUBLIC_URL)
        if made.password or made.key:
            self.stdout.write(f"The first login and key are in {bootstrap.first_login_path()}.")
        else:
            self.stdout.write("An administrator and a key exist already.")
        if options["agent_server"]:
            self._name_server(options)
        if settings.LLM_MODEL:
            profile, sentences = bootstrap.set_up_default()
            self.stdout.write(" ".join((f"{profile.model_id} uses {profile.llm_model}.", *sentences)))

    def _name_server(self, options: dict[str, Any]) -> None:
        from gateway_project import bootstrap

        key_file, root = options["session_api_key_file"], options["workspace_root"]
        if key_file is None or root is None:
            raise CommandError("--agent-server needs --session-api-key-file and --workspace-root.")
        try:
            session_api_key = key_file.read_text().strip()
        except OSError as error:
            raise CommandError(f"--session-api-key-file {key_file}: {error.strerror}") from error
        server = bootstrap.set_up_server(
            name=options["agent_server_name"],
            url=options["agent_server"],
            session_api_key=session_api_key,
            workspace_root=root,
        )
        self.stdout.write(f"The agent-server {server} is at {server.url}.")
