"""What may not be in the repository: addresses of anybody's package mirror, and paths of anybody's machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org", "registry.npmjs.org"}
LOCK_FILES = (
    "uv.lock",
    "agent_env/uv.lock",
    "tests/clients_env/uv.lock",
    "tests/clients_env/openai_2/uv.lock",
    "tests/open_webui_env/uv.lock",
    "tests/node/package-lock.json",
)


def main() -> int:
    findings = [*_foreign_addresses(), *_machine_paths()]
    for finding in findings:
        sys.stderr.write(f"{finding}\n")
    return 1 if findings else 0


def _foreign_addresses() -> list[str]:
    found = []
    for name in LOCK_FILES:
        # Only where something is fetched from: a package may name any place as that of its sponsors.
        fetched = re.findall(r'(?:url = |registry = |"resolved": )"[a-z+]+://([^/"]*)', (ROOT / name).read_text())
        hosts = set(fetched) - PUBLIC_HOSTS
        found += [f"{name}: locked from {host or 'a file'}; lock again without mirrors" for host in sorted(hosts)]
    return found


def _machine_paths() -> list[str]:
    """Lines with this checkout's or this user's directory: whoever writes them runs this on the machine they are of."""
    paths = [f"{ROOT}/", f"{Path.home()}/"]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)  # noqa: S607  git
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        file = ROOT / name
        if name in LOCK_FILES or not file.is_file():
            continue
        try:
            lines = file.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name}:{number}: a path of this machine ({path})"
            for number, line in enumerate(lines, 1)
            for path in paths
            if path in line
        ]
    return found


if __name__ == "__main__":
    sys.exit(main())
