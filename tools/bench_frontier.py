"""How long a frontier takes once the latency table is there: the 12 points of `onnx-mdp pareto`, without measuring.

    python tools/bench_frontier.py                         # resnet50 and deit_small of the zoo, and the bundled models
    python tools/bench_frontier.py resnet50 --points 12 --runs 3 --lut lut.sqlite

The first run of a model fills its table and refines what its plans rest on; the others, of which the fastest and the
slowest are shown, start from that table with nothing known in memory. Models are those of tools/bench_latency.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_latency import BUNDLED, MODELS, ZOO, read
from rich.console import Console

from onnx_mdp.engine.local import LocalEngine
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.magnitude import MagnitudeScorer
from onnx_mdp.latency.levels import Floor
from onnx_mdp.latency.lut import LatencyTable
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.frontier import FrontierSearch
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.tabulate import tabulate
from onnx_mdp.report.text import table
from onnx_mdp.runtime.base import RuntimeSpec

_FROM, _TO = 0.9, 0.3
_COLUMNS = ("model", "groups", "blocks", "points", "proven", "programs", "CPU s", "seconds", "measured")


@dataclass(frozen=True)
class Run:
    """One search of a frontier; `measured` are table entries that it had to measure."""

    points: int
    proven: int
    programs: int
    cpu: float
    seconds: float
    measured: int


def search(analysis: Analysis, engine: LocalEngine, lut: Path, points: int) -> Run:
    """Search a frontier from a table."""
    feeds = random_feeds(analysis.network.model, analysis.network.inputs, 0)
    with closing(LatencyTable(lut, engine.fingerprint)) as opened:
        meter = Meter(engine, opened)
        tables = tabulate(analysis, meter, feeds, Floor())
        scores = MagnitudeScorer(analysis).score(analysis)
        program = Program(analysis, scores, tables.tables, tables.levels, tables.sums)
        before, started, cpu = meter.measured, time.perf_counter(), time.process_time()
        frontier = FrontierSearch(program, tables.fill, tables.correction(), 1.0, "decomposition")
        found = [one for one in frontier.frontier(np.linspace(_FROM, _TO, points).tolist()) if one]
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
        proven = sum(answer.gap <= 1e-6 for answer in found)
        return Run(len(found), proven, frontier.solved, cpu, seconds, meter.measured - before)


def row(name: str, analysis: Analysis, runs: Sequence[Run]) -> tuple[str, ...]:
    """A row of the table."""
    first = runs[0]
    cpu, seconds = sorted(run.cpu for run in runs), sorted(run.seconds for run in runs)
    times = (f"{cpu[0]:.2f}-{cpu[-1]:.2f}", f"{seconds[0]:.2f}-{seconds[-1]:.2f}")
    counts = (len(analysis.groups), len(analysis.blocks), first.points, first.proven, first.programs)
    return (name, *map(str, counts), *times, str(max(run.measured for run in runs)))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*ZOO, *BUNDLED], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3, help="with the table there")
    parser.add_argument("--lut", type=Path, help="the table; by default a new one")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, closing(LocalEngine(RuntimeSpec())) as engine:
        for name in arguments.models:
            analysis, lut = read(name), arguments.lut or Path(folder) / "lut.sqlite"
            search(analysis, engine, lut, arguments.points)
            runs = [search(analysis, engine, lut, arguments.points) for _ in range(arguments.runs)]
            rows.append(row(name, analysis, runs))
            print(*rows[-1], file=sys.stderr, flush=True)
    Console(width=120).print(table("frontiers", _COLUMNS, rows, numbers=len(_COLUMNS) - 1))


if __name__ == "__main__":
    main()
