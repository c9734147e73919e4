"""Peak memory of a piece of work, by the operating system's own count.

`tracemalloc` sees Python and numpy, but not protobuf, where most of a model lives. The kernel's high-water mark of
resident memory sees all of it. On Linux the mark can be set back before the work starts; elsewhere it is the process's
peak so far, which in a fresh worker is nearly the same.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """Bytes by which the work since construction raised resident memory at its highest."""

    def __init__(self) -> None:
        if _RESET.exists():
            _RESET.write_text("5")
        self._before = _kilobytes("VmRSS") if _STATUS.exists() else _maximum()
        self._code = _code()

    def bytes(self) -> int:
        """The rise so far, without pages of programs and libraries that were read meanwhile."""
        return max(self.highest() - (self._before + _code() - self._code) * 1024, 0)

    def highest(self) -> int:
        """Bytes of resident memory at their highest since construction, with what was there before."""
        return 1024 * (_kilobytes("VmHWM") if _STATUS.exists() else _maximum())


def _kilobytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def _code() -> int:
    return _kilobytes("RssFile") if _STATUS.exists() else 0


def _maximum() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak
