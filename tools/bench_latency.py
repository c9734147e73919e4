"""How well tables predict whole models: random plans that no measurement has seen, before any feedback from them.

    python tools/bench_latency.py                          # all models, writes bench_latency.json
    python tools/bench_latency.py resnet50 vit_tiny        # some of them
    python tools/bench_latency.py --fill isolated --fill exhaustive --runtime openvino

Each way of filling starts from an empty table. Then twelve random plans per model, with random widths on the grid and
random removed blocks, are built and run in turn with the dense model. The zoo's models are expected in ../shared/zoo,
the real ones in ../shared/real; the bundled ones are in models/.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from onnx_mdp.engine.local import LocalEngine
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.load import load
from onnx_mdp.groups.find import Analysis
from onnx_mdp.latency.design import Variant
from onnx_mdp.latency.levels import Floor
from onnx_mdp.latency.lut import LatencyTable
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.stages import analyze_or_refuse, prepare
from onnx_mdp.pipeline.tabulate import Tables, tabulate, whole_builder
from onnx_mdp.report.text import table
from onnx_mdp.runtime.base import RuntimeSpec

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
ZOO = {"resnet50": "resnet50__L17", "deit_small": "deit_small_patch16_224__L17"}
BUNDLED = ("digits_cnn", "digits_vit")
REAL = ("resnet20", "resnet56", "mobilenet_v2", "vit_tiny", "cifar_vit", "resnet50_probe", "yolox_nano")
MODELS = (*ZOO, *REAL, *BUNDLED)
PLANS = 12
SECONDS = 1.5  # per model and plan


@dataclass(frozen=True)
class Row:
    """One model filled in one way; errors are relative, over the held-out plans."""

    model: str
    fill: str
    entries: int
    fill_seconds: float
    dense_ms: float
    fastest: float
    median_error: float
    worst_error: float
    within: float
    spearman: float


def read(name: str) -> Analysis:
    """The analysis of a model by name."""
    sys.path[:0] = [str(SHARED / "real"), str(SHARED / "zoo")]
    if name in ZOO:
        from inflate import inflate

        proto = load(inflate(SHARED / "zoo" / "open" / f"{ZOO[name]}.onnx"))[1]
    elif name in BUNDLED:
        proto = load(ROOT / "models" / f"{name}.onnx")[1]
    else:
        import real

        proto = load(real.path(name))[1]
    network = prepare(proto, {}, lossless=True).network
    return analyze_or_refuse(network, (), name)


def random_plan(analysis: Analysis, tables: Tables, rng: np.random.Generator) -> Variant:
    """Widths around a random share of each group, and blocks removed at random."""
    share = rng.uniform(0.3, 1.0)
    widths = {}
    for group in analysis.groups:
        levels = [w for w in tables.levels[group.factor] if w and abs(w / group.units - share) < 0.3]
        widths[group.factor] = int(rng.choice(levels or [group.units]))
    removed = tuple(block.name for block in analysis.blocks if rng.random() < 0.15)
    return Variant(widths, removed)


def measure(name: str, way: str, spec: RuntimeSpec, lut: Path) -> Row:
    """Fill the tables of a model, then compare predictions with measurements."""
    analysis = read(name)
    engine = LocalEngine(spec)
    meter = Meter(engine, LatencyTable(lut, engine.fingerprint))
    feeds = random_feeds(analysis.network.model, analysis.network.inputs, 0)
    started = time.perf_counter()
    tables = tabulate(analysis, meter, feeds, Floor(), way)
    seconds = time.perf_counter() - started
    rng = np.random.default_rng(1)
    plans = [random_plan(analysis, tables, rng) for _ in range(PLANS)]
    correction = tables.correction()
    promised = [correction.predict(tables.sums_of(plan)).share for plan in plans]
    build = whole_builder(analysis)
    dense = build(Variant({})).SerializeToString()
    clock = 1 if engine.facts.trusts_busy else 0
    duels = [
        engine.duel((dense, feeds), (build(p).SerializeToString(), feeds), (SECONDS, SECONDS), 0.01) for p in plans
    ]
    pairs = [duel.busy if clock else duel.wall for duel in duels]
    dense_ms = float(np.median([pair[0] for pair in pairs]))
    # shares of the dense model in the same turn: a machine that others use is not as fast now as it was at the fill
    found = np.array([duel.busy_ratio if clock else duel.wall_ratio for duel in duels])
    errors = np.abs(np.array(promised) / found - 1)
    engine.close()
    return Row(
        model=name,
        fill=way,
        entries=meter.measured,
        fill_seconds=seconds,
        dense_ms=dense_ms,
        fastest=float(found.min()),
        median_error=float(np.median(errors)),
        worst_error=float(errors.max()),
        within=float((errors <= 0.03).mean()),
        spearman=spearman(promised, found.tolist()),
    )


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def shown(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row.model,
        row.fill,
        str(row.entries),
        f"{row.fill_seconds:.0f}",
        f"{row.dense_ms:.2f}",
        f"{row.fastest:.2f}",
        f"{100 * row.median_error:.1f}",
        f"{100 * row.worst_error:.1f}",
        f"{row.spearman:.3f}",
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, help=f"of {', '.join(MODELS)}")
    ways = ("isolated", "in-situ", "exhaustive")
    parser.add_argument("--fill", action="append", choices=ways, help="repeatable; default: the first two")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("bench_latency.json"))
    arguments = parser.parse_args()
    spec = RuntimeSpec(arguments.runtime, arguments.threads)
    rows = []
    for name in arguments.models:
        for way in arguments.fill or ("isolated", "in-situ"):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(name, way, spec, Path(folder) / "lut.sqlite"))
            print(*shown(rows[-1]), file=sys.stderr, flush=True)
    headers = ("model", "fill", "entries", "fill s", "dense ms", "fastest", "median error %", "worst %", "Spearman")
    Console(width=120).print(table("held-out plans", headers, [shown(row) for row in rows]))
    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
