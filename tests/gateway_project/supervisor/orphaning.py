"""A supervisor to be killed: keeps one program running until it dies. Run by test_guard.py."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gateway_project.supervisor.child import Child, ChildSpec, Listeners
from gateway_project.supervisor.data_dir import locked
from gateway_project.supervisor.readiness import file_appears
from gateway_project.supervisor.supervisor import Supervisor


async def main(directory: Path, script: str) -> None:
    with locked(directory, url="http://127.0.0.1:1") as lock:
        spec = ChildSpec(
            name="orphan",
            command=("/bin/sh", "-c", script),
            environment={"PATH": os.environ["PATH"]},
            directory=directory,
            log_path=directory / "orphan.log",
            is_ready=file_appears(directory / "ready"),
            grace_seconds=0.5,
        )
        child = Child(spec, Listeners(restarted=print, said=lambda *_: None), inherited=(lock,))
        supervisor = Supervisor()
        supervisor.start(child)
        await supervisor.until_ready(child)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await supervisor.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
