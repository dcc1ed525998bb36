from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from gateway_project import logs

KEY = "gw-0123abcd-" + "x" * 43


def _record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("chatgateway.turns")
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 1, message, arguments, None, extra=extra)
    logs.RequestIdFilter().filter(record)
    return record


def _failed() -> logging.LogRecord:
    record = _record("it failed")
    try:
        raise ValueError(f"the key {KEY} is wrong")
    except ValueError:
        record.exc_info = sys.exc_info()
    return record


def test_a_line_is_an_object_with_the_fields_that_were_given() -> None:
    line = json.loads(logs.JsonFormatter().format(_record("turn %s closed", 7, outcome="answered", seconds=1.5)))

    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "chatgateway.turns",
        "message": "turn 7 closed",
        "outcome": "answered",
        "seconds": 1.5,
    }


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
@pytest.mark.parametrize(
    "record", [_record("key %s", KEY), _record("key", key=KEY), _record("key", key={"nested": KEY}), _failed()]
)
def test_no_credential_is_logged_in_message_field_or_traceback(
    formatter: logging.Formatter, record: logging.LogRecord
) -> None:
    line = formatter.format(record)

    assert "x" * 43 not in line
    assert "gw-0123abcd-••••" in line


def test_a_json_line_stays_one_line_with_a_traceback_in_it() -> None:
    line = logs.JsonFormatter().format(_failed())

    assert "\n" not in line
    assert json.loads(line)["exception"].startswith("Traceback")


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
def test_a_record_carries_the_id_of_the_request_it_belongs_to(formatter: logging.Formatter) -> None:
    token = logs.request_id.set("req_0123")
    try:
        within = formatter.format(_record("in a request"))
    finally:
        logs.request_id.reset(token)

    assert "req_0123" in within
    assert "req_" not in formatter.format(_record("outside"))


@pytest.mark.parametrize(("chosen", "is_json"), [("json", True), ("text", False), ("auto", True)])
def test_the_format_is_as_chosen_and_json_where_nobody_looks(chosen: str, is_json: bool) -> None:
    program = (
        "import logging; from gateway_project import logs; logs.configure({'format': '%s'});"
        "logging.getLogger('chatgateway').info('heard'); logging.getLogger('aiohttp').info('not heard')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program % chosen], capture_output=True, text=True, timeout=100, check=True
    )

    assert ended.stderr.startswith("{") is is_json
    assert ended.stderr.count("heard") == 1
