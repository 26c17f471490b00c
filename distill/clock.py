"""Time and memory of each step of a job, for the report. They differ from run to run, so no manifest holds them."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets VmHWM back to the present resident size


class StepClock:
    """Laps: seconds, and the most memory this process held in each (its workers' are not counted)."""

    def __init__(self) -> None:
        self.laps: dict[str, dict[str, float]] = {}
        self._restart()

    def lap(self, step: str) -> None:
        """End a step."""
        self.laps[step] = {"seconds": round(time.monotonic() - self._start, 3), "peak_mib": round(_peak_mib(), 1)}
        self._restart()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each step."""
        return {step: lap["seconds"] for step, lap in self.laps.items()}

    def _restart(self) -> None:
        self._start = time.monotonic()
        with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole run so far
            _CLEAR.write_text(_RESET_PEAK)


def _peak_mib() -> float:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
