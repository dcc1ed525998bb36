"""What became of the files an agent works on."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from chatgateway.models.turns import Turn


class FileChanges(models.Model):
    """Which files changed while a turn went on, in the directory that is its conversation's own; whatever tool did it.

    Written by `file_changes` alone, after the turn has ended and its caller has the answer, for turns in which a tool
    was called.
    Never changed; goes with the turn's texts.
    """

    turn = models.OneToOneField(Turn, models.CASCADE, primary_key=True, related_name="file_changes")
    compared_at = models.DateTimeField(default=timezone.now)
    since = models.DateTimeField(
        null=True, help_text="When the directory was looked at before; empty: it was new, or a copy of its template."
    )
    files = models.JSONField(
        default=list,
        help_text="Of each: path, change (added, changed, deleted), kind (text, long, binary, link), size and was_size "
        "in bytes, diff, is_compared, lines_left_out.",
    )
    files_left_out = models.PositiveIntegerField(default=0, help_text="So many more files changed.")
    directories_left_out = models.JSONField(default=list, help_text="Names of directories that were not looked into.")
    is_whole = models.BooleanField(default=True, help_text="Off: there were more files than are looked at.")
    problem = models.CharField(max_length=300, blank=True, help_text="Why it is not known what changed.")

    class Meta:
        verbose_name = "changes of files"
        verbose_name_plural = "changes of files"

    def __str__(self) -> str:
        return f"files of turn {self.turn_id}"
