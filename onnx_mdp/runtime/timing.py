"""Timing that survives a busy machine: interleaved, by medians, in CPU time where one thread does all the work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Median wall and CPU milliseconds of one run, the relative spread of the samples, and their number."""

    wall_ms: float
    cpu_ms: float
    spread: float
    count: int


Run = Callable[[], object]


def sample(run: Run, seconds: float, least: int = 3) -> tuple[float, float]:
    """Mean wall and CPU nanoseconds per run, over at least `seconds` and `least` runs."""
    count, wall, cpu = 0, time.perf_counter_ns(), time.thread_time_ns()
    deadline = wall + seconds * 1e9
    while count < least or time.perf_counter_ns() < deadline:
        run()
        count += 1
    return (time.perf_counter_ns() - wall) / count, (time.thread_time_ns() - cpu) / count


def interleaved(runs: Sequence[Run], passes: int, seconds: float) -> list[Timing]:
    """Time several runs in turn, `passes` times round; each turn lasts at least `seconds` and three runs."""
    for run in runs:
        run()
    samples: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(passes):
        for run, found in zip(runs, samples, strict=True):
            found.append(sample(run, seconds))
    return [_summary(found) for found in samples]


def _summary(samples: list[tuple[float, float]]) -> Timing:
    walls, cpus = zip(*samples, strict=True)
    cpu = statistics.median(cpus)
    low, high = min(cpus), max(cpus)
    return Timing(statistics.median(walls) / 1e6, cpu / 1e6, (high - low) / cpu if cpu else 0.0, len(samples))


def alternate(runs: Sequence[Run], seconds: float, least: int = 12) -> list[list[tuple[float, float]]]:
    """(wall, CPU) milliseconds of single runs, taken in turn, for about `seconds` and at least `least` rounds."""
    for run in runs:
        run()
        run()
    found: list[list[tuple[float, float]]] = [[] for _ in runs]
    deadline = time.perf_counter() + seconds
    while len(found[0]) < least or time.perf_counter() < deadline:
        for run, samples in zip(runs, found, strict=True):
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            run()
            samples.append(((time.perf_counter_ns() - wall) / 1e6, (time.thread_time_ns() - cpu) / 1e6))
    return found
