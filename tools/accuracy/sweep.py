"""Prunes one model to several budgets in a process of its own, and says what that took.

    python -m accuracy.sweep '{"model": "resnet20", "variant": "default", ...}'

What a pruner scores depends on no budget, so it is done once for all of them. One line of JSON is written per budget.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from coverage.memory import PeakMemory

from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import MdpError
from onnx_mdp.pipeline.case import Case
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.prune import Pruner, PruneResult

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "magnitude": {"importance": "magnitude"},
    "activation": {"importance": "activation"},
    "taylor": {"importance": "taylor"},
    "no recovery": {"recover": False},
    "no blocks": {"max_removed": 0},
    "no currency": {"effort": "fast"},
    "thorough": {"effort": "thorough"},
    "no lossless": {"lossless": False},
    "no streams": {"streams": "keep"},
}
"""Options that differ from the default's; its scorer is the reconstruction."""


@dataclass(frozen=True)
class Sweep:
    """A model, what is varied, inputs to calibrate with (none if 0), budgets in percent, and the latency table.

    `precision` is that of latencies.
    """

    model: str
    variant: str
    samples: int
    budgets: tuple[int, ...]
    lut: str
    precision: str

    def options(self, budget: int) -> PruneOptions:
        """Those of one budget."""
        common: dict[str, Any] = {"lut": Path(self.lut), "precision": self.precision, "quiet": True}
        return PruneOptions(latency=f"{budget}%", **common, **VARIANTS[self.variant])


@dataclass(frozen=True)
class Row:
    """One model at one budget: latency and top-1 as shares, damage at the outputs before and after recovery.

    `score_s` is CPU time of one thread, the same for all budgets of a sweep; `recover_s` and `total_s` are wall time.
    Without a result `reason` says why and the rest is None.
    """

    model: str
    variant: str
    samples: int
    budget: int
    ratio: float | None = None
    top1: float | None = None
    dense_top1: float | None = None
    removed: int | None = None
    unit: str = ""
    before: float | None = None
    after: float | None = None
    score_s: float | None = None
    recover_s: float | None = None
    total_s: float | None = None
    memory_mb: float | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes it one row."""
        return self.model, self.variant, self.samples, self.budget


def run(sweep: Sweep) -> Iterator[Row]:
    """Prune to each budget."""
    import real

    memory, started = PeakMemory(), time.process_time()
    pruner = Pruner(sweep.options(sweep.budgets[0]), Listener())
    case = pruner.start(real.path(sweep.model), _inputs(sweep))
    _ = case.scores  # which may be made only now, and is timed here
    scored, highest = time.process_time() - started, memory.highest()
    dense = real.top1(real.path(sweep.model), sweep.model, threads=1)
    for budget in sweep.budgets:
        row = Row(sweep.model, sweep.variant, sweep.samples, budget, dense_top1=dense, score_s=round(scored, 1))
        yield _finished(row, sweep, case, highest)


def _inputs(sweep: Sweep) -> dict[str, Any] | None:
    import real

    if not sweep.samples:
        return None
    session = ort.InferenceSession(str(real.path(sweep.model)), providers=["CPUExecutionProvider"])
    return {session.get_inputs()[0].name: real.calibration(sweep.model, sweep.samples)}


def _finished(row: Row, sweep: Sweep, case: Case, highest: int) -> Row:
    """The row with what one budget makes of the case."""
    import real

    memory, started = PeakMemory(), time.perf_counter()
    try:
        result = Pruner(sweep.options(row.budget), Listener()).finish(case)
    except MdpError as error:
        return Row(**{**asdict(row), "reason": str(error)})
    total, peak = time.perf_counter() - started, max(highest, memory.highest())
    top1 = real.top1(result.model.SerializeToString(), row.model, threads=1)
    found = {"top1": top1, "total_s": round(total, 1), "memory_mb": round(peak / 1e6), **_facts(result)}
    return Row(**{**asdict(row), **found})


def _facts(result: PruneResult) -> dict[str, Any]:
    report = result.report
    recovery = {name: report.recovery[name] for name in ("unit", "before", "after") if name in report.recovery}
    return {
        "ratio": report.latency.ratio,
        "removed": sum(block["removed"] for block in report.blocks),
        "recover_s": round(report.seconds.get("recover", 0.0), 1),
        "reason": report.reason,
        **recovery,
    }


def main(text: str) -> None:
    """Run what the JSON text asks for, and print a row for each budget."""
    asked = json.loads(text)
    sys.path.append(asked.pop("real"))
    for row in run(Sweep(**{**asked, "budgets": tuple(asked["budgets"])})):
        print(json.dumps(asdict(row), default=np.ndarray.tolist), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
