"""Rows for a measurement: tenant, key, profile and agent-servers. Run by `targets` with the gateway's environment.

`python -m benchmarks.seed`, a JSON object on standard input (`agent_servers`, each with `url`, `session_api_key`
and `workspace_root`; `capacity`, the slots of each; `llm_url`; `tools`), the caller's key on standard output.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")
    import django

    django.setup()
    from chatgateway.models import AgentServer
    from profiles import issuing
    from profiles.models import Profile, Tenant

    asked = json.load(sys.stdin)
    Profile.objects.create(
        slug="bench",
        llm_model="openai/scripted",
        llm_api_key="sk-bench",
        llm_base_url=asked["llm_url"],
        input_price="1",
        output_price="2",
        tools=asked["tools"],
    )
    for number, agent_server in enumerate(asked["agent_servers"], 1):
        AgentServer.objects.create(name=f"bench-{number}", capacity=asked["capacity"], **agent_server)
    _, text = issuing.create_key(tenant=Tenant.objects.create(name="bench"), name="bench")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
