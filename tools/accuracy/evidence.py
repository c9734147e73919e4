"""Accuracies that others reached, read from the tables of ../shared/evidence/accuracy.md.

The page has a table of all measured variants for each model, under a heading with the model's short name; a line that
begins with `Names here` says which model that is. Variants of simplifiers and pruning libraries are peers; all others,
the dense model aside, are the prototype's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
        """Top-1 between the prototype's best points on either side; None where it has none that is as fast."""
        best = _frontier(point for point in self.points if not point.is_peer)
        if not best or latency < best[0].latency:
            return None
        return float(np.interp(latency, [p.latency for p in best], [p.top1 for p in best]))

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


def _frontier(points: Iterable[Point]) -> Sequence[Point]:
    """Points with none that is as fast and better, from the fastest on."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency, -p.top1)):
        if not found or point.top1 > found[-1].top1:
            found.append(point)
    return found
