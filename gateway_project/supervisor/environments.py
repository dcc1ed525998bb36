"""What each program finds in its environment. The agent-server and whatever its agents start get nothing of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# What programs need to run at all, to find certificates, and to reach a provider through a proxy.
_PLAIN = (
    *("LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "SHELL", "USER", "LOGNAME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
# More runs than that one agent-server process does not carry well; how many it gets is the row's capacity.
AGENT_SERVER_MAX_RUNS = 100


def plain(source: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed part of an environment: no variable that could hold a credential of ours.

    The gateway's own virtual environment is taken off PATH, so that an agent's `python` is the machine's.
    """
    kept = {name: source[name] for name in _PLAIN if name in source}
    kept |= {name: value for name, value in source.items() if name.startswith("LC_")}
    own = {Path(sys.prefix, "bin"), Path(sys.executable).parent}
    directories = source.get("PATH", os.defpath).split(os.pathsep)
    kept["PATH"] = os.pathsep.join(directory for directory in directories if Path(directory) not in own)
    return kept


def agent_server(
    source: Mapping[str, str], *, directory: Path, secret_key: str, session_api_key: str
) -> dict[str, str]:
    """For openhands-agent-server 1.58: its files under `directory`, nothing preloaded, JSON logs.

    Without LOG_JSON an unhandled error in the server stops its loop for 4 s while a traceback is drawn.
    """
    return plain(source) | {
        "HOME": str(directory / "home"),
        "OH_CONVERSATIONS_PATH": str(directory / "conversations"),
        "OH_WORKSPACE_PATH": str(directory / "workspaces"),
        "OH_BASH_EVENTS_DIR": str(directory / "bash"),
        "OH_SECRET_KEY": secret_key,
        "OH_SESSION_API_KEYS_0": session_api_key,
        "OH_ENABLE_VSCODE": "0",
        "OH_PRELOAD_TOOLS": "0",
        "OH_WEBHOOKS": "[]",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "OH_MAX_CONCURRENT_RUNS": str(AGENT_SERVER_MAX_RUNS),
        "LOG_JSON": "1",
        "LOG_LEVEL": "WARNING",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONUNBUFFERED": "1",
    }


def demo_llm(source: Mapping[str, str], *, key: str) -> dict[str, str]:
    return plain(source) | {"GATEWAY_DEMO_LLM_KEY": key, "PYTHONUNBUFFERED": "1"}


def gateway(
    source: Mapping[str, str], *, public_url: str, allowed_hosts: list[str], log_format: str, grace_seconds: float
) -> dict[str, str]:
    """For our own Django processes: all of it, because that is where settings come from, with what `up` knows better.

    Variables that somebody set stay as they are.
    """
    known = {
        "GATEWAY_PUBLIC_URL": public_url,
        "GATEWAY_ALLOWED_HOSTS": ",".join(allowed_hosts),
        "GATEWAY_LOG_FORMAT": log_format,
        "PYTHONUNBUFFERED": "1",
    }
    return known | dict(source) | {"GATEWAY_SHUTDOWN_GRACE_SECONDS": f"{grace_seconds:g}"}
