"""From a profile to the agent that an agent-server is asked to run."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from functools import lru_cache
from typing import Any

from chatgateway.agentserver.schemas import AgentSpec, LlmSpec
from chatgateway.models import AgentServer, Conversation
from chatgateway.openai_api.chat_request import LlmOverrides
from profiles.fields import load_json
from profiles.models import Profile


def llm_for(profile: Profile, overrides: LlmOverrides) -> LlmSpec:
    """Return the LLM of the agent: the profile's, with what the caller may and did override."""
    per_token = {name: _per_token(price) for name, price in profile.prices().items()}
    allowed = overrides if profile.allows_overrides else LlmOverrides()
    return LlmSpec(
        model=profile.llm_model,
        api_key=profile.llm_api_key.reveal() or "none",  # LiteLLM refuses an empty key even where none is needed
        base_url=profile.llm_base_url or None,
        stream=profile.llm_streams,
        timeout_seconds=profile.llm_timeout_seconds,
        stream_idle_timeout_seconds=profile.llm_idle_timeout_seconds,
        reasoning_effort=_either(allowed.reasoning_effort, profile.reasoning_effort or None),
        max_output_tokens=_either(allowed.max_output_tokens, profile.max_output_tokens),
        temperature=_either(allowed.temperature, profile.temperature),
        top_p=_either(allowed.top_p, profile.top_p),
        supports_vision=profile.sees_images,
        input_cost_per_token=per_token.get("input"),
        output_cost_per_token=per_token.get("output"),
    )


@lru_cache(256)
def _per_token(price: str) -> float:
    # Remembered, because `decimal` makes a context for each task that it is used in: one for every open stream.
    return float(Decimal(price) / 1_000_000)


def agent_for(
    *,
    profile: Profile,
    conversation: Conversation,
    server: AgentServer,
    overrides: LlmOverrides,
    instructions: str = "",
) -> AgentSpec:
    """Return the whole agent, as it goes inline into the start of a conversation. `instructions` is a system text of
    the turn that it is made for."""
    system_texts = (profile.system_suffix, conversation.system_suffix, instructions)
    return AgentSpec(
        llm=llm_for(profile, overrides),
        tools=tuple(profile.tools),
        system_prompt=profile.system_prompt or None,
        system_suffix="\n\n".join(text for text in system_texts if text),
        mcp_config=load_json(profile.mcp_config),
        secrets={name: str(value) for name, value in load_json(profile.terminal_secrets).items()},
        max_iterations=profile.max_iterations,
        working_dir=working_dir(profile=profile, conversation=conversation, server=server),
        tags={
            "gateway": "turns",
            "incarnation": str(conversation.incarnation),
            "tenant": str(conversation.tenant_id),
            "profile": profile.slug,
        },
        user_id=f"tenant-{conversation.tenant_id}",
    )


def working_dir(*, profile: Profile, conversation: Conversation, server: AgentServer) -> str:
    """Return the absolute directory on `server` in which the agent works. Callers never choose any part of it."""
    match profile.workspace:
        case Profile.Workspace.FIXED:
            return profile.workspace_path
        case Profile.Workspace.PER_KEY:
            return f"{server.workspace_root.rstrip('/')}/keys/{conversation.api_key_id}"
        case _:
            return own_directory(conversation=conversation, server=server)


def own_directory(*, conversation: Conversation, server: AgentServer) -> str:
    """Return the directory on `server` that is the conversation's alone, whether it is used or not."""
    return f"{server.workspace_root.rstrip('/')}/{conversation.tenant_id}/{conversation.id}"


def agent_digest(profile: Profile) -> str:
    """Cover what cannot be changed on a live conversation; a different digest means a new one."""
    return _digest(
        [
            profile.pk,
            profile.system_prompt,
            profile.system_suffix,
            sorted(profile.tools),
            profile.mcp_config.reveal(),
            profile.terminal_secrets.reveal(),
            profile.max_iterations,
            profile.workspace,
            profile.workspace_path,
        ]
    )


def llm_digest(llm: LlmSpec) -> str:
    """Cover what `switch_llm` can change on a live conversation, the key included."""
    return _digest(llm.to_json())


def snapshot(profile: Profile) -> dict[str, Any]:
    """Return what the audit keeps of the profile: everything that explains an answer, no secret."""
    return {
        "slug": profile.slug,
        "llm_model": profile.llm_model,
        "llm_base_url": profile.llm_base_url,
        "utility_llm_model": profile.utility_llm_model,
        "temperature": profile.temperature,
        "top_p": profile.top_p,
        "max_output_tokens": profile.max_output_tokens,
        "reasoning_effort": profile.reasoning_effort,
        "tools": list(profile.tools),
        "mcp_servers": sorted(load_json(profile.mcp_config).get("mcpServers", {})),
        "max_iterations": profile.max_iterations,
        "time_limit_seconds": profile.time_limit_seconds,
        "workspace": profile.workspace,
        "thoughts": profile.thoughts,
        "activity": profile.activity,
        "is_demo": profile.is_demo,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _either[T](first: T | None, second: T | None) -> T | None:
    return second if first is None else first
