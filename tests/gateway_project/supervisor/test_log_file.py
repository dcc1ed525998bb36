from __future__ import annotations

from pathlib import Path

from gateway_project.supervisor.log_file import LogFile


def _write(path: Path, *lines: bytes, maximum_bytes: int = 1000) -> None:
    log = LogFile(path, maximum_bytes=maximum_bytes)
    for line in lines:
        log.write(line)
    log.close()


def test_a_full_file_makes_room_and_the_one_before_is_kept(tmp_path: Path) -> None:
    lines = (b"first line\n", b"second line\n", b"third line\n")
    _write(tmp_path / "logs" / "worker.log", *lines, maximum_bytes=20)

    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["worker.log", "worker.log.1"]
    assert (tmp_path / "logs" / "worker.log").read_text() == "third line\n"
    assert (tmp_path / "logs" / "worker.log.1").read_text() == "second line\n"


def test_a_new_start_goes_on_in_the_same_file(tmp_path: Path) -> None:
    _write(tmp_path / "worker.log", b"one\n")
    _write(tmp_path / "worker.log", b"two\n")

    assert (tmp_path / "worker.log").read_text() == "one\ntwo\n"


def test_bytes_that_are_no_text_do_not_stop_the_log(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "worker.log")

    assert log.write(b"caf\xe9\r\n") == "caf�"
    log.close()
