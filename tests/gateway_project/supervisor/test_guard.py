from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from gateway_project.supervisor import process_tree
from gateway_project.supervisor.data_dir import locked
from tests.gateway_project.supervisor.test_child import STUBBORN_TREE
from tests.gateway_project.supervisor.tiny_programs import eventually, living

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted by the guard on Linux only")


async def _supervisor_process(directory: Path, script: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway_project.supervisor.orphaning", str(directory), script),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
    return process


@linux_only
async def test_when_the_supervisor_is_killed_everything_is_gone_in_a_few_seconds(tmp_path: Path) -> None:
    supervisor = await _supervisor_process(tmp_path, STUBBORN_TREE)
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    alive = living(pids)

    supervisor.kill()
    await supervisor.wait()

    assert len(alive) == 4
    assert await eventually(lambda: living(pids) == [], within_seconds=5)


@linux_only
async def test_when_a_guard_is_killed_its_program_goes_with_it(tmp_path: Path) -> None:
    supervisor = await _supervisor_process(tmp_path, "echo $$ >> pids; touch ready; exec sleep 300")
    program = int((tmp_path / "pids").read_text())
    [guard] = process_tree.descendants(supervisor.pid) - {program}

    os.kill(guard, 9)

    gone = await eventually(lambda: living([program]) == [], within_seconds=5)
    supervisor.kill()
    await supervisor.wait()
    assert gone


@linux_only
async def test_the_next_start_waits_for_what_a_killed_one_left(tmp_path: Path) -> None:
    supervisor = await _supervisor_process(tmp_path, STUBBORN_TREE)
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    supervisor.kill()
    await supervisor.wait()

    with locked(tmp_path, url="http://127.0.0.1:2"):
        left = living(pids)

    assert left == []


@linux_only
def test_a_guard_shows_its_environment_to_nobody(tmp_path: Path) -> None:
    """Not even to root, for whom the kernel makes an exception: what was there is overwritten."""
    command = [sys.executable, "-S", "-E", "-m", "gateway_project.supervisor.guard", "--directory", str(tmp_path)]
    script = f"cat /proc/$PPID/environ > {tmp_path}/seen 2>/dev/null; echo $LLM_API_KEY > {tmp_path}/own"
    read_end, write_end = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [*command, "--grace", "1", "--", "/bin/sh", "-c", script],
        {"PATH": os.environ["PATH"], "LLM_API_KEY": "sk-provider", "PYTHONPATH": str(Path.cwd())},
        file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 0)],
    )
    os.waitpid(pid, 0)
    os.close(read_end)
    os.close(write_end)

    assert (tmp_path / "own").read_text() == "sk-provider\n"
    assert b"sk-provider" not in (tmp_path / "seen").read_bytes()
