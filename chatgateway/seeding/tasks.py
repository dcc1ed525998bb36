"""Last runs of the background tasks, where none has run yet."""

from __future__ import annotations

from chatgateway import task_log
from chatgateway.models import TaskRun

# (task, seconds between its runs, what its last run did)
_RUNS = (
    ("chatgateway.tasks.probe_servers", 10, "3 of 4 agent-servers answered"),
    ("chatgateway.tasks.recover_turns", 15, "0 turns taken over"),
    ("chatgateway.tasks.expire_conversations", 60, "2 idle for too long, 0 beyond a server's limit"),
    ("chatgateway.tasks.remove_leftovers", 60, "2 removed, 0 in use again, 0 failed"),
    ("chatgateway.tasks.remove_strays", 3600, "0 conversations without a turn removed"),
    ("chatgateway.tasks.sum_up_hours", 300, "0 hours summed"),
    ("chatgateway.tasks.release_idempotency_keys", 3600, "0 keys released"),
    ("profiles.tasks.refresh_catalogues", 86_400, "5 profiles looked up"),
    ("profiles.tasks.sweep_keys", 86_400, "0 secrets deleted"),
)


def note_runs() -> None:
    """Write that each task ran just now, unless a worker has run one."""
    if TaskRun.objects.exists():
        return
    for name, every_seconds, message in _RUNS:
        task_log.begin(name, every_seconds=every_seconds)
        task_log.end(name, message=message, is_failure=False)
