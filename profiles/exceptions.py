"""What can be wrong with a caller's key or profile. No HTTP here: `chatgateway` translates.

ProfileError
├── UnknownKey              unknown, wrong, revoked or expired: the caller is told the same
├── TooManyFailedAttempts   an address has tried too many unknown keys
├── InvalidKey              a key cannot be made or changed as asked
├── UnknownProfile          no such profile for this caller
├── InvalidProfile          a profile cannot be saved as described
│   └── ProfileNameTaken
├── UnknownProvider         LiteLLM cannot tell which provider a model string means
├── LlmCallFailed           a provider was asked and did not answer
└── LlmProcessDown          the process that has LiteLLM loaded did not answer
"""

from __future__ import annotations


class ProfileError(Exception):
    """The base of all of them."""


class UnknownKey(ProfileError):
    """No key of ours, or not any more. `reason` is for counters and logs; callers are not told which it was.

    malformed: no key could look so. unknown: no key has this prefix. wrong: the prefix is right, the secret is not.
    """

    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    WRONG = "wrong"
    REVOKED = "revoked"
    EXPIRED = "expired"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooManyFailedAttempts(ProfileError):
    """The address has tried too many unknown keys; nothing is looked up for `retry_after_seconds` (1 to 60)."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"retry after {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class InvalidKey(ProfileError):
    """A key cannot be made or changed as asked; `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class UnknownProfile(ProfileError):
    """No such profile, a disabled one, or one this caller may not use: deliberately the same."""


class InvalidProfile(ProfileError):
    """A profile cannot be saved as described; `param` names the field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ProfileNameTaken(InvalidProfile):
    """The name belongs to a profile this caller may not change. Whose it is stays unsaid."""


class UnknownProvider(ProfileError):
    """LiteLLM cannot tell from the model string which provider to call."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class LlmCallFailed(ProfileError):
    """A provider refused or failed a call. `kind` is LiteLLM's class name, such as `RateLimitError`.

    `message` may quote the provider, without the API key: for administrators, never for callers.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


class LlmProcessDown(ProfileError):
    """The process that has LiteLLM loaded is not there, is full, or did not answer in time."""
