"""The pages on which operators and auditors see agent-servers, conversations, turns and background tasks."""

from chatgateway.admin import (
    alert_pages,
    conversation_pages,
    governance_pages,
    server_pages,
    task_pages,
    turn_pages,
)

__all__ = ["alert_pages", "conversation_pages", "governance_pages", "server_pages", "task_pages", "turn_pages"]
