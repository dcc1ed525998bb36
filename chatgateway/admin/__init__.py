"""The pages on which operators and auditors see agent-servers, conversations and turns."""

from chatgateway.admin import conversation_pages, server_pages, turn_pages

__all__ = ["conversation_pages", "server_pages", "turn_pages"]
