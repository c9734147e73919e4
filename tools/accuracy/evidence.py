"""Accuracies that others reached, read from the tables of ../shared/evidence/accuracy.md.

The page has a table of all measured variants for each model, under a heading with the model's short name; a line that
begins with `Names here` says which model that is. Variants of simplifiers and pruning libraries are peers; all others,
the dense model aside, are the prototype's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

_PEERS = ("sim_", "slim", "tp_", "tpI_")
_NOISE = 0.04  # difference of latencies that means nothing, by the page


@dataclass(frozen=True)
class Point:
    """A variant: latency relative to the dense model, and top-1 in percent."""

    variant: str
    latency: float
    top1: float

    @property
    def is_peer(self) -> bool:
        """Whether it is another tool's."""
        return self.variant.startswith(_PEERS)


@dataclass(frozen=True)
class Evidence:
    """All variants of one model, dense among them at latency 1."""

    points: tuple[Point, ...]

    def prototype(self, latency: float) -> float | None:
        """The best top-1 on a line between two of the prototype's points; None where it has none that is as fast.

        All lines count, and not only those between neighbors: a bad point between two good ones takes nothing away.
        """
        ours = [point for point in self.points if not point.is_peer]
        slow = [point for point in ours if point.latency >= latency] or ours
        fast = [point for point in ours if point.latency <= latency]
        lines = product(fast, slow)
        found = (float(np.interp(latency, [p.latency, q.latency], [p.top1, q.top1])) for p, q in lines)
        return max(found, default=None)

    def peer(self, latency: float) -> Point | None:
        """The best peer that is as fast, give or take what latencies are uncertain by.

        Nothing is interpolated: peers have few points, and collapse between them.
        """
        found = (p for p in self.points if p.is_peer and p.latency <= latency + _NOISE)
        return max(found, key=lambda p: p.top1, default=None)


def read_evidence(page: Path) -> dict[str, Evidence]:
    """What the page has on each model, by the model's name in ../shared/real."""
    text = page.read_text()
    sections = re.split(r"^### (\w+)\n", text, flags=re.MULTILINE)[1:]
    tables = dict(zip(sections[::2], sections[1::2], strict=True))
    return {name: Evidence(tuple(_points(tables[short]))) for short, name in _names(text) if short in tables}


def _names(text: str) -> Iterator[tuple[str, str]]:
    """Short names and those of ../shared/real, from `a/b = `name`/`name`, c = `name``."""
    line = next((line for line in text.splitlines() if line.startswith("Names here")), "")
    for shorts, names in re.findall(r"([\w/]+) = (`[\w`/]+`)", line):
        yield from zip(shorts.split("/"), re.findall(r"\w+", names), strict=True)


def _points(table: str) -> Iterator[Point]:
    """The rows of a table, by its header's columns."""
    cells = [_cells(line) for line in table.splitlines() if line.startswith("|")]
    variant, latency, top1 = (cells[0].index(title) for title in ("variant", "latency", "top-1"))
    for row in cells[2:]:
        if row[variant] == "dense" or row[latency] != "-":
            yield Point(row[variant], 1.0 if row[variant] == "dense" else float(row[latency]), float(row[top1]))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
