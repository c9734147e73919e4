"""`bench`: interleaved latency of several models, in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_mdp.config import BenchOptions
from onnx_mdp.engine.turns import counted, turns
from onnx_mdp.errors import OptionError
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.load import load
from onnx_mdp.graph.shapes import input_shapes
from onnx_mdp.quantities import parse_shapes
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime


@dataclass(frozen=True)
class BenchRow:
    """One model: wall and CPU milliseconds, interquartile range over these, ratio to the first, bytes.

    Milliseconds are medians of the turns that count (`onnx_mdp.engine.turns`), the range is that of all.
    `note` says where the runtime leaves nodes to the CPU.

    `ratio` compares CPU time where the runtime's is the latency, which at one thread it mostly is, and wall time else.
    """

    model: str
    wall_ms: float
    cpu_ms: float
    spread: float
    ratio: float
    parameters: int
    size: int
    note: str = ""


def bench(models: tuple[str | Path, ...], options: BenchOptions | None = None) -> list[BenchRow]:
    """Run all models in turn and compare them with the first.

    Raises:
        OptionError: the time per model is not positive.
        ModelError: a model cannot be read, or needs --shape.
    """
    options = options or BenchOptions()
    if options.seconds <= 0:
        raise OptionError(f"--seconds {options.seconds:g}: must be more than zero")
    runtime = open_runtime(RuntimeSpec(options.runtime, options.threads, options.runtime_option))
    sources, sessions = [], []
    for path in models:
        source, proto = load(path)
        shapes = input_shapes(proto.graph, parse_shapes(options.shape))
        session = runtime.open(source.reference)
        session.bind(random_feeds(proto, shapes, 0))
        sessions.append(session)
        sources.append(source)
    samples = turns(sessions, options.threads, options.seconds * len(sessions))
    clock = 1 if runtime.trusts_busy else 0
    medians = np.median(counted(samples, clock), axis=1)
    low, high = np.percentile(samples[:, :, 0], (25, 75), axis=1)
    return [
        BenchRow(
            model=source.name,
            wall_ms=float(medians[i, 0]),
            cpu_ms=float(medians[i, 1]),
            spread=float((high[i] - low[i]) / medians[i, 0]),
            ratio=float(medians[i, clock] / medians[0, clock]),
            parameters=source.parameters,
            size=source.size,
            note=sessions[i].note,
        )
        for i, source in enumerate(sources)
    ]
