from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway_project.supervisor.data_dir import AlreadyRunning, locked, stored_secret


def test_a_second_start_on_the_same_directory_is_told_who_has_it(tmp_path: Path) -> None:
    with (
        locked(tmp_path, url="http://127.0.0.1:8000"),
        pytest.raises(AlreadyRunning) as refused,
        locked(tmp_path, url="http://127.0.0.1:9000"),
    ):
        pass

    assert str(refused.value) == (
        f"The data directory {tmp_path} is in use by another `manage.py up` (process {os.getpid()}, "
        f"http://127.0.0.1:8000). Stop it, or set GATEWAY_DATA_DIR to another."
    )


def test_the_directory_is_free_again_after_a_start_has_ended(tmp_path: Path) -> None:
    with locked(tmp_path, url="http://127.0.0.1:8000"):
        pass
    with locked(tmp_path, url="http://127.0.0.1:9000") as descriptor:
        assert not os.get_inheritable(descriptor)


def test_a_stored_secret_is_the_same_at_every_start_and_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "agent-server"

    first, second = stored_secret(path), stored_secret(path)

    assert first == second
    assert len(first) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
