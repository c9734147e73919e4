"""Timing that survives a busy machine: interleaved, by medians, in CPU time where one thread does all the work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from onnx_mdp.runtime.base import Session


def sample(session: Session, seconds: float, least: int = 3) -> tuple[float, float]:
    """Mean wall and busy nanoseconds per run, over at least `seconds` and `least` runs."""
    count, wall, busy = 0, time.perf_counter_ns(), session.busy_ns()
    deadline = wall + seconds * 1e9
    while count < least or time.perf_counter_ns() < deadline:
        session.tick()
        count += 1
    return (time.perf_counter_ns() - wall) / count, (session.busy_ns() - busy) / count


def interleaved(sessions: Sequence[Session], passes: int, seconds: float) -> list[list[tuple[float, float]]]:
    """(wall, busy) nanoseconds per run of bound sessions, in turn, `passes` times round.

    Each turn lasts at least `seconds` and three runs; the first run of each warms up.
    """
    for session in sessions:
        session.tick()
    found: list[list[tuple[float, float]]] = [[] for _ in sessions]
    for _ in range(passes):
        for session, samples in zip(sessions, found, strict=True):
            samples.append(sample(session, seconds))
    return found


def alternate(sessions: Sequence[Session], seconds: float, least: int = 12) -> list[list[tuple[float, float]]]:
    """(wall, busy) milliseconds of single runs of bound sessions, in turn, for about `seconds` and `least` rounds."""
    for session in sessions:
        session.tick()
        session.tick()
    found: list[list[tuple[float, float]]] = [[] for _ in sessions]
    deadline = time.perf_counter() + seconds
    while len(found[0]) < least or time.perf_counter() < deadline:
        for session, samples in zip(sessions, found, strict=True):
            wall, busy = sample(session, 0, 1)
            samples.append((wall / 1e6, busy / 1e6))
    return found
