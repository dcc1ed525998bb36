"""The program that says which files of a directory changed: run as an agent-server's host runs it, in its shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from chatgateway.agentserver import changed_files, host_script
from chatgateway.agentserver.changed_files import ChangedFile, DirectoryChanges


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "it's a root" / "7" / "conversation"
    directory.mkdir(parents=True)
    return directory


def compared(directory: Path, *, base: str = "new") -> DirectoryChanges:
    command = changed_files.command(str(directory), base=base)
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return changed_files.read(done.stdout)


def told(found: DirectoryChanges) -> dict[str, tuple[str, str, str]]:
    assert found.problem == ""
    return {file.path: (file.change, file.kind, file.diff) for file in found.files}


def test_what_is_new_changed_and_gone_is_told_with_its_diff(workspace: Path) -> None:
    (workspace / "deep").mkdir()
    (workspace / "deep" / "a.txt").write_text("one\ntwo\n")
    (workspace / "gone.txt").write_text("last words\n")
    (workspace / "same.txt").write_text("same\n")
    (workspace / "picture.bin").write_bytes(b"\x89PNG\0\1")

    first = compared(workspace)
    (workspace / "deep" / "a.txt").write_text("one\nthree\n")
    (workspace / "gone.txt").unlink()
    (workspace / "picture.bin").write_bytes(b"\x89PNG\0\1\2\3")
    (workspace / "same.txt").touch()
    second = compared(workspace)
    third = compared(workspace)

    assert told(first) == {
        "deep/a.txt": ("added", "text", "+one\n+two"),
        "gone.txt": ("added", "text", "+last words"),
        "picture.bin": ("added", "binary", ""),
        "same.txt": ("added", "text", "+same"),
    }
    assert told(second) == {
        "deep/a.txt": ("changed", "text", "@@ -1,2 +1,2 @@\n one\n-two\n+three"),
        "gone.txt": ("deleted", "text", "-last words"),
        "picture.bin": ("changed", "binary", ""),
    }
    assert next(file for file in second.files if file.kind == "binary") == ChangedFile(
        path="picture.bin", change="changed", kind="binary", size=8, was_size=6, diff="", is_compared=False,
        lines_left_out=0,
    )  # fmt: skip
    assert (told(third), first.since) == ({}, None)
    assert second.since is not None
    assert third.since > second.since


def test_files_that_git_ignores_or_that_are_in_a_repository_below_count_too(workspace: Path) -> None:
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    subprocess.run(["git", "init", "-q", str(workspace / "cloned")], check=True)
    (workspace / ".gitignore").write_text("*.log\n")
    (workspace / "out.log").write_text("x\n")
    (workspace / "cloned" / "main.py").write_text("pass\n")
    (workspace / "node_modules").mkdir()
    (workspace / "node_modules" / "a.js").write_text("x")

    found = compared(workspace)

    assert set(told(found)) == {".gitignore", "cloned/main.py", "out.log"}
    assert found.directories_left_out == (".git", "node_modules")


def test_a_directory_that_began_as_a_copy_is_compared_with_what_it_is_a_copy_of(
    workspace: Path, tmp_path: Path
) -> None:
    template = tmp_path / "template"
    template.mkdir()
    for directory in (template, workspace):
        (directory / "kept.txt").write_text("x\n")
        (directory / "edited.txt").write_text("before\n")
    (workspace / "edited.txt").write_text("after\n")

    assert told(compared(workspace, base=str(template))) == {
        "edited.txt": ("changed", "text", "@@ -1 +1 @@\n-before\n+after")
    }


def test_what_was_never_looked_at_is_not_made_up(workspace: Path) -> None:
    (workspace / "a.txt").write_text("x")

    unknown = compared(workspace, base="unknown")
    (workspace / "b.txt").write_text("y")

    assert unknown.problem == "How the directory was before is not known. From the next turn on it is."
    assert set(told(compared(workspace, base="unknown"))) == {"b.txt"}


@pytest.mark.parametrize("base", ["new", "/no/such/template"])
def test_a_directory_that_is_not_there_is_told(workspace: Path, base: str) -> None:
    if base == "new":
        workspace.rmdir()

    assert "does not exist" in compared(workspace, base=base).problem


def test_links_are_told_and_not_followed_and_what_is_no_file_is_not_waited_for(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    (workspace / "link").symlink_to(tmp_path / "secret")
    (workspace / "loop").symlink_to(workspace)
    os.mkfifo(workspace / "pipe")

    found = told(compared(workspace))

    assert found["link"] == ("added", "link", f"+{tmp_path}/secret")
    assert set(found) == {"link", "loop"}


def test_any_name_of_a_file_is_text(workspace: Path) -> None:
    (Path(os.fsdecode(os.fsencode(workspace) + b"/\xff; touch pwned\n"))).write_text("x")

    assert list(told(compared(workspace))) == ["\\udcff; touch pwned\n"]
    assert not list(workspace.parent.rglob("pwned"))


def test_everything_has_a_limit(workspace: Path) -> None:
    for number in range(host_script.LISTED_FILES + 5):
        (workspace / f"{number:04}.txt").write_text("x" * 4_000)
    (workspace / "0000.txt").write_text("".join(f"line {number}\n" for number in range(1_000)))
    (workspace / "0001.txt").write_text("y" * (host_script.TEXT_BYTES + 1))

    found = compared(workspace)

    by_path = {file.path: file for file in found.files}
    assert (len(found.files), found.files_left_out) == (host_script.LISTED_FILES, 5)
    assert by_path["0000.txt"].lines_left_out == 600
    assert (by_path["0001.txt"].kind, by_path["0001.txt"].is_compared) == ("long", False)
    assert max(len(line) for line in by_path["0002.txt"].diff.splitlines()) == host_script.LINE_CHARS
    assert sum(len(file.diff) for file in found.files) <= host_script.LISTED_CHARS


def test_what_it_keeps_is_for_its_own_user_and_a_spoiled_file_is_begun_anew(workspace: Path) -> None:
    (workspace / "a.txt").write_text("x")
    compared(workspace)
    state = Path(changed_files.state_of(str(workspace)))
    assert state == workspace.parent.parent / ".turn-files" / "conversation"
    assert (state.stat().st_mode & 0o777, state.parent.stat().st_mode & 0o777) == (0o600, 0o700)

    spoiled: list[Any] = [b"nonsense", zlib.compress(b"[]"), zlib.compress(b'{"entries": {"a": 1}, "at": 1}')]
    found = []
    for content in spoiled:
        state.write_bytes(content)
        found.append(compared(workspace, base="unknown").problem)

    assert {text[:31] for text in found} == {"How the directory was before is"}


def test_thousands_of_files_take_a_moment_and_unchanged_ones_are_not_read_again(workspace: Path) -> None:
    for number in range(3_000):
        (workspace / f"{number}.txt").write_text("x\n")
    compared(workspace)

    began_at = time.monotonic()
    again = compared(workspace)

    assert told(again) == {}
    assert time.monotonic() - began_at < 5


def test_a_host_without_python_is_told_apart(workspace: Path) -> None:
    command = changed_files.command(str(workspace), base="new")

    done = subprocess.run(["/bin/sh", "-c", command], env={"PATH": "/nowhere"}, capture_output=True, check=False)

    assert done.returncode == changed_files.NO_PYTHON


def test_without_one_on_the_path_the_agent_servers_own_is_taken(workspace: Path) -> None:
    """The shell's parent is then a Python, as an agent-server is."""
    (workspace / "a.txt").write_text("x")
    command = changed_files.command(str(workspace), base="new")
    outer = f"import subprocess; subprocess.run(['/bin/sh', '-c', {command!r}], env={{'PATH': '/bin'}}, check=True)"
    if any((Path("/bin") / name).exists() for name in ("python3", "python")):
        outer = outer.replace("'/bin'", "'/nowhere'").replace("$(readlink", "$(/bin/readlink")

    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True)

    assert [file["path"] for file in json.loads(done.stdout)["files"]] == ["a.txt"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": [{}]}', '{"since": "x", "files": []}', "null"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        changed_files.read(text)
