"""The gateway's settings with a SQLite database that may not grow: `PRAGMA max_page_count` is what a full disk does."""

from __future__ import annotations

import os

from gateway_project.settings import *  # noqa: F403
from gateway_project.settings import DATABASES

DATABASES["default"]["OPTIONS"]["init_command"] += f"PRAGMA max_page_count={os.environ['FAULTS_SQLITE_PAGES']};"
