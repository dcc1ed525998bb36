"""What can go wrong between the gateway and an agent-server.

    AgentServerError
    ├── Unreachable         no answer, or a 5xx: nothing is known to have happened
    ├── Unauthorized        the session API key is wrong
    ├── TooOld              the server cannot do what the gateway needs
    ├── Rejected            the server understood the request and said no (any other 4xx)
    ├── ConversationMissing the server does not have this conversation (any more)
    ├── CapacityReached     all of the server's run slots are taken
    ├── AlreadyRunning      the conversation has a run already
    ├── SendDoubtful        the message may or may not stand in the conversation
    ├── CommandFailed       a command on the agent-server's host did not succeed
    └── FeedLost            the event feed could not be re-established in time

They know nothing of OpenAI or of the gateway's own API: whoever catches them decides what a caller is told.
`detail` is for logs and the admin. It never holds a key (the client takes known secrets out), but may hold host names.
"""

from __future__ import annotations


class AgentServerError(Exception):
    """The agent-server did not do what was asked. `detail` says why, in one line."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class Unreachable(AgentServerError):
    """Connection refused, time-out, dropped connection or 5xx."""


class Unauthorized(AgentServerError):
    """The agent-server refused the session API key (401, or close code 4001 of a socket)."""


class TooOld(AgentServerError):
    """The agent-server's version has no session socket; it came with 1.45."""

    def __init__(self, version: str) -> None:
        super().__init__(f"The agent-server has version {version}; at least 1.45 is needed.")
        self.version = version


class Rejected(AgentServerError):
    """The agent-server answered with a status that has no class of its own. Asking again will not help."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}"


class ConversationMissing(AgentServerError):
    """The agent-server does not know the conversation: never created, deleted, or its log began anew."""


class CapacityReached(AgentServerError):
    """The agent-server runs as many conversations as it may (429).

    `message_saved`: the message stands in the conversation; only `run()` is to be repeated, never the message.
    """

    def __init__(self, detail: str = "", *, message_saved: bool = False) -> None:
        super().__init__(detail)
        self.message_saved = message_saved


class AlreadyRunning(AgentServerError):
    """A run of this conversation is going on (409 on `run`)."""


class SendDoubtful(AgentServerError):
    """The request that carried a message broke off: only the event log can tell whether the message arrived.

    Sending again without looking could make the agent act twice.
    """


class CommandFailed(AgentServerError):
    """A command on the agent-server's host ended with `exit_code` (-1: it was stopped at its time limit)."""

    def __init__(self, exit_code: int, detail: str = "") -> None:
        super().__init__(detail)
        self.exit_code = exit_code


class FeedLost(AgentServerError):
    """The event feed broke and could not be re-established within its deadline. The run may be going on."""
