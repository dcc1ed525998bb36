"""`manage.py serve` with a profiler in it: `python -m benchmarks.sampled_serve STACKS --port PORT`.

A thread looks at every other thread's stack a thousand times a second and charges it with the CPU time that the
thread has used since the last look. So a thread that waits costs nothing, and C code is charged to its caller. What
was charged is counted from the first SIGUSR1 to the next one, and written to STACKS at the second.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

PERIOD_SECONDS = 0.001
# A thread that wants to look must get its turn before what it looks at has moved on.
SWITCH_SECONDS = 0.0001


class Sampler:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stacks: Counter[str] = Counter()  # microseconds of CPU
        self._used: dict[int, int] = {}
        self._is_counting = False

    def start(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        signal.signal(signal.SIGUSR1, self._toggle)
        threading.Thread(target=self._sample, name="sampler", daemon=True).start()

    def _toggle(self, number: int, frame: FrameType | None) -> None:
        if self._is_counting:
            self._path.write_text("".join(f"{stack} {used}\n" for stack, used in self._stacks.items()))
        self._stacks.clear()
        self._is_counting = not self._is_counting

    def _sample(self) -> None:
        me = threading.get_ident()
        while True:
            time.sleep(PERIOD_SECONDS)
            frames = sys._current_frames()
            seen = [
                (thread.native_id, f"{_group(thread.name)};{_stack(frames[thread.ident])}")
                for thread in threading.enumerate()
                if thread.ident in frames and thread.ident != me
            ]
            for native_id, stack in seen:
                used = _cpu_microseconds(native_id)
                spent = used - self._used.get(native_id, used)
                self._used[native_id] = used
                if spent > 0 and self._is_counting:
                    self._stacks[stack] += spent


def _group(name: str) -> str:
    return name.rstrip("0123456789_-")


def _stack(frame: FrameType | None) -> str:
    names = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{Path(code.co_filename).parent.name}/{Path(code.co_filename).name}:{code.co_qualname}")
        frame = frame.f_back
    return ";".join(reversed(names))


def _cpu_microseconds(native_id: int | None) -> int:
    """From the scheduler, to the nanosecond; the clocks of /proc/*/stat tick only every 10 ms."""
    try:
        return int(Path(f"/proc/self/task/{native_id}/schedstat").read_bytes().split()[0]) // 1000
    except OSError:
        return 0


def main() -> None:
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")
    Sampler(Path(sys.argv[1])).start()
    execute_from_command_line(["manage.py", "serve", *sys.argv[2:]])


if __name__ == "__main__":
    main()
