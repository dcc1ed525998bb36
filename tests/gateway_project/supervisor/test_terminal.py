from __future__ import annotations

import io
import threading

import pytest

from gateway_project.supervisor.terminal import Terminal


class Screen(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        return True


class Stopped(io.StringIO):
    """A terminal that takes nothing until it is let go on, as after Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        assert self.goes_on.wait(10)
        return super().write(text)


class Gone(io.StringIO):
    """Whoever read it has ended, as in `up | head`."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def _printed(stream: io.StringIO) -> str:
    terminal = Terminal(stream)
    terminal.step("database", 1.25, "up to date")
    terminal.warn("tmux was not found")
    terminal.fail("the port is taken")
    terminal.line_of("gateway", "hello")
    terminal.close()
    return stream.getvalue()


def _say(terminal: Terminal, lines: list[str]) -> None:
    for line in lines:
        terminal.say(line)


def test_each_step_is_a_line_with_its_seconds() -> None:
    assert _printed(io.StringIO()) == (
        "  ✓ database                1.2 s  up to date\n"
        "  ! tmux was not found\n"
        "error: the port is taken\n"
        "gateway | hello\n"
    )


def test_colours_are_for_people_only() -> None:
    assert "\033[" in _printed(Screen())
    assert "\033[" not in _printed(io.StringIO())


def test_a_terminal_that_is_stopped_stops_nobody() -> None:
    stopped = Stopped()
    terminal = Terminal(stopped)
    _say(terminal, [str(number) for number in range(20_000)])
    terminal.close(within_seconds=0.1)

    assert stopped.getvalue() == ""
    stopped.goes_on.set()


def test_a_reader_that_has_gone_is_no_error() -> None:
    assert _printed(Gone()) == ""


def test_a_terminal_without_the_character_shows_the_rest() -> None:
    raw = io.BytesIO()
    latin = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
    terminal = Terminal(latin)
    terminal.step("database", 1)
    terminal.close()

    assert raw.getvalue().split() == [b"?", b"database", b"1.0", b"s"]


def test_a_timed_step_is_printed_when_it_is_done_with_what_came_of_it() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    with terminal.timed("profile") as notes:
        notes += ["openhands_demo", "demo"]
    terminal.close()

    assert stream.getvalue().endswith("0.0 s  openhands_demo, demo\n")


def test_a_step_that_fails_is_not_printed_as_done() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    with pytest.raises(ValueError, match="wrong"), terminal.timed("profile"):
        raise ValueError("wrong")
    terminal.close()

    assert stream.getvalue() == ""
