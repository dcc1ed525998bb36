"""The event feeds in `tests/recordings`, which a real agent-server sent."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "recordings" / "agent_server_1_58_0"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.jsonl"))

Frame = dict[str, Any]


def frames_of(name: str) -> list[Frame]:
    """Every frame of a recording, as received."""
    return [json.loads(line)["frame"] for line in (DIRECTORY / f"{name}.jsonl").read_text().splitlines()]


def run_of(name: str) -> list[Frame]:
    """What was sent once the run had started, with event and item ids of its own, so that it can be played often."""
    recorded = frames_of(name)
    text = json.dumps(recorded[_start_of_run(recorded) :])
    ids = {frame["event"]["id"] for frame in recorded if frame["type"] == "durable"}
    for old in ids | {frame["item_id"] for frame in recorded if "item_id" in frame}:
        text = text.replace(old, str(uuid.uuid4()))
    run: list[Frame] = json.loads(text)
    return run


def _start_of_run(recorded: list[Frame]) -> int:
    return next(
        number + 1
        for number, frame in enumerate(recorded)
        if frame["type"] == "durable" and frame["event"].get("value") == "running"
    )
