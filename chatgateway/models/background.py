"""What the background tasks did last, and how far they have got."""

from __future__ import annotations

from django.db import models


class TaskRun(models.Model):
    """The last run of a background task, one row per task; written by the worker as the task begins and ends."""

    class Outcome(models.TextChoices):
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"

    name = models.CharField(max_length=100, unique=True)
    outcome = models.CharField(max_length=10, choices=Outcome)
    message = models.CharField(max_length=300, blank=True)
    # How often it should run: a run that began much longer ago than this died with its worker.
    every_seconds = models.PositiveIntegerField(default=0)
    runs = models.PositiveBigIntegerField(default=0)
    failures = models.PositiveBigIntegerField(default=0)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "background task"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Watermark(models.Model):
    """How far a task has got that walks through the turns, oldest first; written by that task."""

    name = models.CharField(primary_key=True, max_length=40)
    at = models.DateTimeField(help_text="Turns opened before this moment are done.")

    def __str__(self) -> str:
        return self.name
