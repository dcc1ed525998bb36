"""The limit of open files, in processes of their own: a process cannot take back what it has set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.processes import GatewayProcess

PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from gateway_project import open_files
print(open_files.raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [(256, 900, 900), (900, 900, 900)],
)
def test_the_limit_becomes_what_the_system_allows(soft: int, hard: int, then: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)

    assert ended.stdout.split() == [str(then), str(then), str(hard)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_gateway_process_raises_its_own(tmp_path: Path) -> None:
    gateway = GatewayProcess(data_dir=tmp_path)
    try:
        gateway.wait_until_ready()
        limits = Path(f"/proc/{gateway.process.pid}/limits").read_text()
    finally:
        gateway.kill()

    [line] = [line.split() for line in limits.splitlines() if line.startswith("Max open files")]
    assert line[3] == line[4]
