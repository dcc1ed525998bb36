"""Filling in the admin's forms as a browser does: everything on the page is sent, not what changed alone."""

from __future__ import annotations

from typing import Any

from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from chatgateway.models import AgentServer
from profiles.models import Profile

# Django's test client adds `context` and `wsgi_request` to what it returns; no class says so.
Response = Any


def profile_form(profile: Profile | None = None, **changed: Any) -> dict[str, Any]:
    """What the profile form sends, secrets empty. A value of None leaves the input out, as an unticked box is."""
    row = profile or Profile(slug="new", llm_model="openai/gpt-5")
    sent = {
        "slug": row.slug, "description": row.description, "is_enabled": "on", "llm_model": row.llm_model,
        "llm_base_url": row.llm_base_url, "tools": row.tools, "system_prompt": "", "system_suffix": "",
        "max_iterations": row.max_iterations, "time_limit_seconds": row.time_limit_seconds, "workspace": row.workspace,
        "workspace_path": row.workspace_path, "workspace_template": row.workspace_template, "thoughts": row.thoughts,
        "activity": row.activity, "client_tools": row.client_tools, "on_disconnect": row.on_disconnect,
        "disconnect_grace_seconds": row.disconnect_grace_seconds, "when_busy": row.when_busy,
        "conversation_idle_hours": row.conversation_idle_hours, "workspace_keep_days": row.workspace_keep_days,
        "accepts_images": "unknown", "llm_timeout_seconds": row.llm_timeout_seconds,
        "llm_idle_timeout_seconds": row.llm_idle_timeout_seconds, "llm_retries": row.llm_retries,
        "llm_streams": "on", "answer_holdback_chars": row.answer_holdback_chars, "llm_api_key": "", "mcp_config": "",
        "terminal_secrets": "",
    }  # fmt: skip
    return {name: value for name, value in (sent | changed).items() if value is not None}


def save_profile(admin: Client, profile: Profile | None = None, **changed: Any) -> Response:
    url = reverse("admin:profiles_profile_add")
    if profile is not None:
        url = reverse("admin:profiles_profile_change", args=[profile.pk])
    return admin.post(url, profile_form(profile, **changed))


def save_server(admin: Client, server: AgentServer, **changed: Any) -> Response:
    sent = {
        "name": server.name, "url": server.url, "session_api_key": "", "workspace_root": server.workspace_root,
        "state": server.state, "capacity": server.capacity, "max_conversations": server.max_conversations,
    }  # fmt: skip
    return admin.post(reverse("admin:chatgateway_agentserver_change", args=[server.pk]), sent | changed)


def errors(response: Response) -> dict[str, list[str]]:
    """The errors of a form that was not saved, by field; {} when it was."""
    if response.status_code == 302:
        return {}
    assert response.status_code == 200
    return {name: list(texts) for name, texts in response.context["adminform"].form.errors.items()}


def told(response: Response) -> str:
    """The messages shown after the form was saved."""
    return " ".join(str(message) for message in get_messages(response.wsgi_request))
