"""Finds the channel grid of a device: the widths below which a kernel runs no faster."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from onnx_mdp.graph.sample import conv_chain, matmul_chain
from onnx_mdp.latency.levels import Grid
from onnx_mdp.latency.measure import Meter, Model

_STEPS = (32, 16, 8, 4)
_WIDTHS = (64, 96, 128)


def find_grid(meter: Meter) -> Grid:
    """The largest step, per kind of kernel, such that widths between its multiples are not worth their loss.

    A width half a step below a multiple does (step/2)/width less work. If it saves less than half of that, the
    device rounds it up.
    """
    return Grid(conv=_step(meter, "conv", conv_chain), matmul=_step(meter, "matmul", matmul_chain))


def _step(meter: Meter, kind: str, make: Callable[[int], Model]) -> int:
    widths = sorted({width - step // 2 * part for width in _WIDTHS for step in _STEPS for part in (0, 1)})
    texts = {width: f"probe {kind} inner width {width}" for width in widths}
    meter.fill({text: partial(make, width) for width, text in texts.items()})
    times = {width: meter.latency(text) or 0.0 for width, text in texts.items()}
    for step in _STEPS:
        worth = [(1 - times[width - step // 2] / times[width]) / (step / 2 / width) for width in _WIDTHS]
        if statistics.median(worth) < 0.5:
            return step
    return 1
