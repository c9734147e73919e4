"""Keeps a measuring process on the least busy cores, one hardware thread per core."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WATCHED_SECONDS = 0.05


def pin(threads: int) -> None:
    """Move all threads of this process to the `threads` cores that were least busy just now, where the system can."""
    move(places(threads)[0])


def move(cores: Iterable[int]) -> None:
    """Move all threads of this process to some cores; where there are none to name, they stay where they are."""
    chosen = set(cores)
    for task in os.listdir("/proc/self/task") if chosen else []:
        try:
            os.sched_setaffinity(int(task), chosen)
        except OSError:  # the thread ended, or the container forbids it: measuring unpinned is only noisier
            continue


@contextmanager
def moved_back() -> Iterator[None]:
    """Where this process may run is afterwards what it was."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    try:
        yield
    finally:
        move(before)


def places(threads: int, most: int = 1) -> list[tuple[int, ...]]:
    """Sets of `threads` cores that share none, the least busy first; at most `most` of them, and at least one.

    Cores come by the time they idled over a short while, the first hardware thread of each before its siblings. One
    empty set where the system does not say.
    """
    if not hasattr(os, "sched_setaffinity"):
        return [()]
    order = _by_idling(_allowed())
    count = min(most, len(order) // threads)
    return [tuple(order[i * threads : (i + 1) * threads]) for i in range(count)] or [tuple(order)]


def _by_idling(cores: set[int]) -> list[int]:
    if len(cores) <= 1:
        return list(cores)
    before = _idle()
    time.sleep(_WATCHED_SECONDS)
    after = _idle()
    idled = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in cores}
    order = sorted(cores, key=lambda cpu: (-sum(idled.get(other, 0) for other in _siblings(cpu)), -idled[cpu], cpu))
    first: list[int] = []
    for cpu in order:
        if not any(other in first for other in _siblings(cpu)):
            first.append(cpu)
    return first + [cpu for cpu in order if cpu not in first]


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
