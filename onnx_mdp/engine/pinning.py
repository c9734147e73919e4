"""Keeps a measuring process on the least busy cores, one hardware thread per core."""

from __future__ import annotations

import os
import time
from pathlib import Path

_WATCHED_SECONDS = 0.05


def pin(threads: int) -> None:
    """Move all threads of this process to the `threads` cores that were least busy just now, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = _least_busy(threads)
    for task in os.listdir("/proc/self/task") if cores else []:
        try:
            os.sched_setaffinity(int(task), cores)
        except OSError:  # the thread ended, or the container forbids it: measuring unpinned is only noisier
            continue


def _least_busy(threads: int) -> set[int]:
    """CPUs by the time they idled over a short while, the first of each core before its siblings."""
    allowed = _allowed()
    if len(allowed) <= threads:
        return allowed
    before = _idle()
    time.sleep(_WATCHED_SECONDS)
    after = _idle()
    idled = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in allowed}
    order = sorted(allowed, key=lambda cpu: (-sum(idled.get(other, 0) for other in _siblings(cpu)), -idled[cpu], cpu))
    chosen: list[int] = []
    for cpu in order:
        if not any(other in chosen for other in _siblings(cpu)):
            chosen.append(cpu)
    return set((chosen + [cpu for cpu in order if cpu not in chosen])[:threads])


_ALLOWED: set[int] = set()


def _allowed() -> set[int]:
    """The CPUs this process had when it started: what a later pin chooses from."""
    if not _ALLOWED:
        _ALLOWED.update(os.sched_getaffinity(0))
    return _ALLOWED


def _idle() -> dict[int, int]:
    """Ticks that each CPU has idled."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
    return {int(row[0][3:]): int(row[4]) + int(row[5]) for row in rows}


def _siblings(cpu: int) -> set[int]:
    """The hardware threads of a CPU's core, itself included."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        text = path.read_text().strip()
    except OSError:
        return {cpu}
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found
