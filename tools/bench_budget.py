"""Whether a budget asked is a budget met: prunes to several budgets and measures the results again elsewhere.

    python tools/bench_budget.py                       # all real models, writes bench_budget.json
    python tools/bench_budget.py vit_tiny digits_cnn   # some of them
    python tools/bench_budget.py --busy compute        # beside a process that keeps one core busy
    python tools/bench_budget.py --busy memory         # beside one that also fills the caches that cores share
    python tools/bench_budget.py --no-recover          # sooner: weights stay as they are, which no latency depends on

Each result is written to a file; then a fresh process runs it in turn with the dense model and compares the ratio with
the budget. What else runs on a machine, seen from it or not, changes that ratio along with the dense model's time: so
another process is asked, some times at most, while the dense model takes longer there than it took when it was pruned,
or while those that find it as fast do not agree on the ratio; what they find in the mean is shown.
All budgets share one latency table, which the first of them fills.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from bench_real import source
from rich.console import Console

from onnx_mdp.config import PruneOptions
from onnx_mdp.engine.base import Duel
from onnx_mdp.engine.local import LocalEngine
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.shapes import input_shapes
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.prune import Pruner
from onnx_mdp.pipeline.stopwatch import standard_error
from onnx_mdp.report.facts import Report
from onnx_mdp.report.text import table
from onnx_mdp.runtime.base import RuntimeSpec

BUNDLED = ("digits_cnn", "digits_vit")
MODELS = ("resnet20", "resnet56", "mobilenet_v2", "vit_tiny", "cifar_vit", "resnet50_probe", "yolox_nano", *BUNDLED)
BUDGETS = (85, 70, 55, 40)
LOW, HIGH = 0.97, 1.00
CALM, TRIES = 1.02, 8
SURE = 0.004  # standard error of the ratio that ends a comparison


@dataclass(frozen=True)
class Row:
    """One model at one budget: the part of the budget used as reported and as measured again, with what it took.

    `slowdown` is how long the dense model took when it was measured again, relative to when it was pruned, and
    `processes` how many were asked for that.
    """

    model: str
    budget: str
    used: float
    used_again: float
    precision: float
    slowdown: float
    processes: int
    faster: bool
    rounds: int
    predicted: float
    reused: int
    measured: int
    seconds: float
    reason: str


def run(name: str, folder: Path, *, recover: bool = True) -> Iterator[Row]:
    """Prune a model to shares of its latency and measure each result in a fresh process."""
    path, inputs = source(name)
    case = None
    for percent in BUDGETS:
        output = folder / f"{name}-{percent}.onnx"
        options = PruneOptions(latency=f"{percent}%", lut=folder / "lut.sqlite", output=output, recover=recover)
        started, pruner = time.perf_counter(), Pruner(options, Listener())
        case = case or pruner.start(path, inputs)  # which depends on no budget
        report = pruner.finish(case).report
        seconds = time.perf_counter() - started
        yield _row(name, percent, report, seconds, again(path, output, report.latency.dense_ms))


def _row(name: str, percent: int, report: Report, seconds: float, duels: list[Duel]) -> Row:
    calm, share = fastest(duels), percent / 100
    ratio = statistics.geometric_mean(duel.busy_ratio for duel in calm)
    return Row(
        model=name,
        budget=f"{percent}%",
        used=report.latency.ratio / share,
        used_again=ratio / share,
        precision=1.96 * _error(calm),
        slowdown=min(duel.busy[0] for duel in calm) / report.latency.dense_ms,
        processes=len(duels),
        faster=ratio < 1,
        rounds=report.latency.rounds,
        predicted=(report.latency.predicted_ms or 0) / report.latency.dense_ms / share,
        reused=report.lut.get("reused", 0),
        measured=report.lut.get("measured", 0),
        seconds=seconds,
        reason=report.reason,
    )


def again(dense: Path, pruned: Path, expected_ms: float) -> list[Duel]:
    """Comparisons of two files by processes that have seen neither.

    Until the dense one takes as long as expected, and until those that find it fastest agree on the ratio.
    """
    proto = onnx.load(str(dense))
    feeds = random_feeds(proto, input_shapes(proto.graph, {}), 7)
    duels: list[Duel] = []
    while len(duels) < TRIES:
        engine = LocalEngine(RuntimeSpec())
        duels.append(engine.duel((str(dense), feeds), (str(pruned), feeds), (3.0, 10.0), 0.004))
        engine.close()
        if min(duel.busy[0] for duel in duels) <= CALM * expected_ms and _error(fastest(duels)) <= SURE:
            break
    return duels


def fastest(duels: list[Duel]) -> list[Duel]:
    """Those in which the dense model is as fast as in any of them."""
    least = min(duel.busy[0] for duel in duels)
    return [duel for duel in duels if duel.busy[0] <= CALM * least]


def _error(duels: list[Duel]) -> float:
    """The standard error of the mean of the ratios, as a share of it: of one process, what it says itself."""
    if len(duels) == 1:
        return duels[0].precision / 1.96
    return standard_error(duel.busy_ratio for duel in duels)


def compute() -> None:
    """Keep a core busy with products of matrices that its own cache holds."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    values = np.full((256, 256), 1 / 256)
    with threadpool_limits(1):
        while True:
            values = values @ values


def stream() -> None:
    """Keep a core busy, and with it the caches and the memory that all cores share."""
    import numpy as np

    values = np.ones(1 << 21)
    while True:
        values = values * 1.0000001


NEIGHBORS = {"compute": compute, "memory": stream}


def shown(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    met = "uncut" if row.rounds == 0 else "yes" if LOW <= row.used_again <= HIGH else "no"
    return (
        row.model,
        row.budget,
        f"{100 * row.used:.1f}",
        f"{100 * row.used_again:.1f} ± {100 * row.precision:.1f}",
        met,
        f"{row.slowdown:.2f} / {row.processes}",
        str(row.rounds),
        f"{100 * row.predicted:.1f}",
        f"{row.seconds:.0f}",
        row.reason,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, help=f"of {', '.join(MODELS)}")
    parser.add_argument("--busy", choices=NEIGHBORS, help="beside a process that keeps one core, or memory, busy")
    parser.add_argument("--no-recover", action="store_true", help="leave weights as they are")
    parser.add_argument("--json", type=Path, default=Path("bench_budget.json"))
    arguments = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "shared" / "real"))
    neighbor = multiprocessing.Process(target=NEIGHBORS.get(arguments.busy), daemon=True)
    if arguments.busy:
        neighbor.start()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            for row in run(name, Path(folder), recover=not arguments.no_recover):
                rows.append(row)
                print(*shown(row), file=sys.stderr, flush=True)
    columns = (
        "model",
        "budget",
        "used %",
        "again %",
        "0.97-1.00",
        "dense, processes",
        "rounds",
        "predicted %",
        "s",
        "why not closer",
    )
    Console(width=150).print(table("", columns, map(shown, rows)))
    cut = [row for row in rows if row.rounds]  # what meets a budget with nothing cut has nothing to come closer with
    met = sum(LOW <= row.used_again <= HIGH for row in cut)
    slower = sum(not row.faster for row in rows)
    print(f"{met} of {len(cut)} within {LOW:.2f} and {HIGH:.2f} of the budget; {slower} slower than dense; ", end="")
    print(f"most rounds {max(row.rounds for row in rows)}")
    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if arguments.busy:
        neighbor.kill()


if __name__ == "__main__":
    main()
