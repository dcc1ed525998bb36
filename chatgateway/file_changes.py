"""After a turn in which the agent used a tool: which files of its conversation's directory changed.

Nobody waits for it: the caller has the answer, the place on the agent-server is free. What it finds is compared with
what the last comparison saw, so that nothing has to be looked at when a turn begins. A comparison that fails is
recorded as such, and what it would have found is found by the next one.

The only writer of `FileChanges` rows.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from dataclasses import asdict, replace

from django.db.utils import Error as DatabaseError

from chatgateway import message_store, sql
from chatgateway.agentserver.changed_files import ChangedFile, DirectoryChanges
from chatgateway.agentserver.client import AgentServerClient
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.models import AgentServer, Conversation, Event, FileChanges, Turn
from chatgateway.writer import writer
from profiles.fields import load_json
from profiles.models import Profile

logger = logging.getLogger(__name__)

# The program gives up after 10 s of looking.
COMPARE_SECONDS = 20.0
# How long a conversation's next turn waits for it: it takes 0.1 s, and without it both turns' changes are one.
WAIT_SECONDS = 2.0
# As the agent-server writes in outputs of tools.
_HIDDEN = "<secret-hidden>"


class Comparisons:
    """Those of one process. `client` makes a client of an agent-server."""

    def __init__(self, client: Callable[[AgentServer], AgentServerClient]) -> None:
        self._client = client
        self._under_way: dict[str, asyncio.Task[None]] = {}  # by directory

    def begin(self, turn: Turn, conversation: Conversation, profile: Profile) -> None:
        """Compare, later. Nothing is done where the directory is not the conversation's own."""
        directory, server = conversation.working_dir, turn.agent_server
        if profile.workspace != Profile.Workspace.PER_CONVERSATION or not directory or server is None:
            return
        before = self._under_way.get(directory)
        work = self._compare(turn, conversation, profile, server, before)
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._under_way[directory] = task
        task.add_done_callback(lambda done: self._ended(directory, done))

    async def settled(self, conversation: Conversation) -> None:
        """Wait a little for what compares this conversation's directory: its agent is about to change it again."""
        task = self._under_way.get(conversation.working_dir)
        if task is not None:
            await asyncio.wait({task}, timeout=WAIT_SECONDS)

    def cancel(self) -> None:
        """The process ends. What was not compared is by the next turn of the conversation."""
        for task in self._under_way.values():
            task.cancel()

    def _ended(self, directory: str, task: asyncio.Task[None]) -> None:
        if self._under_way.get(directory) is task:
            del self._under_way[directory]
        if not task.cancelled() and task.exception() is not None:
            logger.error("what changed in %s could not be recorded", directory, exc_info=task.exception())

    async def _compare(
        self,
        turn: Turn,
        conversation: Conversation,
        profile: Profile,
        server: AgentServer,
        before: asyncio.Task[None] | None,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            has_acted_before = await writer.run(lambda: _has_acted_before(turn))
            base = _base(conversation, profile, has_acted_before=has_acted_before)
            found = await self._client(server).changed_files(
                conversation.working_dir, base=base, timeout_seconds=COMPARE_SECONDS
            )
        except AgentServerError as error:
            logger.warning("what turn %s changed could not be read: %s", turn.pk, error)
            found = DirectoryChanges(problem=f"{type(error).__name__}: {error}"[:300])
        except DatabaseError:
            logger.exception("what turn %s changed was not compared", turn.pk)
            return
        hidden = without_secrets(found, [str(value) for value in load_json(profile.terminal_secrets).values()])
        await writer.run_patiently(lambda: write(turn, hidden))


def _has_acted_before(turn: Turn) -> bool:
    """Whether the agent called a tool in an earlier turn of the conversation, as it is on its agent-server now."""
    calls = Event.objects.filter(conversation=turn.conversation_id, incarnation=turn.incarnation, kind="ActionEvent")
    return calls.exclude(turn=turn).exists()


def write(turn: Turn, found: DirectoryChanges) -> None:
    """Write which files a turn changed, unless its texts were removed meanwhile."""
    kept = Turn.objects.select_for_update().filter(pk=turn.pk, content_removed_at__isnull=True)
    if not kept.values_list("pk", flat=True).first():
        return
    row = FileChanges(
        turn=turn,
        since=found.since,
        files=message_store.storable([asdict(file) for file in found.files]),
        files_left_out=found.files_left_out,
        directories_left_out=message_store.storable(list(found.directories_left_out)),
        is_whole=found.is_whole,
        problem=message_store.storable_text(found.problem),
    )
    sql.insert([row], ignore_conflicts=True)


def _base(conversation: Conversation, profile: Profile, *, has_acted_before: bool) -> str:
    """What the directory is compared with if it was never looked at: `new`, `unknown`, or its template's path."""
    if has_acted_before or conversation.branched_at_id is not None:
        return "unknown"
    return profile.workspace_template or "new"


def without_secrets(found: DirectoryChanges, secrets: list[str]) -> DirectoryChanges:
    """Return it without the values that the agent's terminal was given: an agent may have written them into a file."""
    longest_first = sorted((one for one in secrets if one), key=len, reverse=True)

    def hidden(file: ChangedFile) -> ChangedFile:
        path, diff = file.path, file.diff
        for secret in longest_first:
            path, diff = path.replace(secret, _HIDDEN), diff.replace(secret, _HIDDEN)
        return replace(file, path=path, diff=diff)

    return replace(found, files=tuple(hidden(file) for file in found.files))
