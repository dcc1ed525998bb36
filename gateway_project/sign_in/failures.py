"""Why somebody was not signed in."""

from __future__ import annotations


class SignInFailed(Exception):
    """The message is for the person; `reason` for the log."""

    def __init__(self, message: str, *, reason: str, status: int = 403) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
