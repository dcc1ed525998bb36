"""The log format: one line per record, JSON or plain, without credentials.

Our own records carry the id of the request they belong to, so that a reply's `x-request-id`, the turn in the admin and
the log lines find each other.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import json
import logging
import logging.config
import sys
import traceback
from typing import Any

from gateway_project import redaction

# Set by whoever begins to work on a request; empty elsewhere.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

OWN_LOGGERS = ("gateway_project", "chatgateway", "profiles")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "request_id", "request"}


def configure(options: dict[str, Any]) -> None:
    """Set up the process's logging; Django calls it with LOGGING.

    `format`: "json", "text", or "auto", which is text on a terminal and JSON elsewhere. `level` is that of our own
    loggers; other libraries are heard from WARNING on. `secrets` are texts masked wherever they occur.
    """
    redaction.remember(*options.get("secrets", ()))
    chosen = options.get("format", "auto")
    is_text = chosen == "text" or (chosen == "auto" and sys.stderr.isatty())
    level = options.get("level", "INFO")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": RequestIdFilter}},
            "formatters": {"line": {"()": TextFormatter if is_text else JsonFormatter}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]},
            },
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {
                **{name: {"level": level} for name in OWN_LOGGERS},
                "celery": {"level": "WARNING"},
                # Django's defaults send mail and print to a console of their own.
                "django": {"level": "WARNING", "handlers": [], "propagate": True},
                "django.server": {"level": "WARNING", "handlers": [], "propagate": True},
                # A refused request is the caller's affair and stands in the record.
                "django.request": {"level": "ERROR"},
            },
        }
    )


class RequestIdFilter(logging.Filter):
    """Puts the current request's id on each record that does not bring one."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(record, "request_id", ""):
            record.request_id = request_id.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line; fields given with `extra=` stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redaction.redact(record.getMessage()),
        }
        if identity := getattr(record, "request_id", ""):
            line["request_id"] = identity
        line |= _extra_fields(record)
        if record.exc_info:
            line["exception"] = _exception_text(record)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """For people: time, level, message; where it came from when it is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        parts = [moment, f"{record.levelname.lower():<7}", redaction.redact(record.getMessage())]
        parts += [f"{name}={value}" for name, value in _extra_fields(record).items()]
        if identity := getattr(record, "request_id", ""):
            parts.append(f"[{identity}]")
        if record.levelno >= logging.WARNING:
            parts.append(f"({record.name})")
        text = " ".join(parts)
        return f"{text}\n{_exception_text(record)}" if record.exc_info else text


def _extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD and name[:1] != "_"}
    return {
        name: value if isinstance(value, int | float | None) else redaction.redact(str(value))
        for name, value in fields.items()
    }


def _exception_text(record: logging.LogRecord) -> str:
    assert record.exc_info
    return redaction.redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
