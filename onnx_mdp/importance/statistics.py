"""Statistics of activations over calibration inputs, in chunks that respect a memory limit.

Two kinds are asked for: the mean square at every position of an axis, and the share of a block's branch in the sum it
ends in. A share is taken position by position along the feature axis and then averaged: a few tokens of huge norm,
common in transformers, would otherwise hide what the block does to all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_mdp.axes.terms import leaves
from onnx_mdp.graph.expose import exposed
from onnx_mdp.graph.external import loadable
from onnx_mdp.groups.blocks import Block
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.base import Vector
from onnx_mdp.inputs.base import Array, Inputs
from onnx_mdp.runtime.base import Runtime

_CHUNK_BYTES = 48 << 20
_TINY = 1e-30


@dataclass(frozen=True)
class AxisSquares:
    """Asks for the mean square at each position of an axis."""

    tensor: str
    axis: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """What has to be computed for it."""
        return (self.tensor,)

    def of(self, found: dict[str, Array]) -> Vector:
        """The statistic of one run."""
        values = found[self.tensor]
        others = tuple(i for i in range(values.ndim) if i != self.axis)
        mean: Vector = np.square(values, dtype=np.float64).mean(axis=others)
        return mean


@dataclass(frozen=True)
class BranchShare:
    """Asks for the mean of |f|^2 / (|x|^2 + |f|^2) over all positions beside the feature axis."""

    branch: str
    entry: str
    axis: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """What has to be computed for it."""
        return self.branch, self.entry

    def of(self, found: dict[str, Array]) -> Vector:
        """The statistic of one run; a vector of one."""
        branch, entry = (np.square(found[name], dtype=np.float64).sum(axis=self.axis) for name in self.tensors)
        return np.array([np.mean(branch / (branch + entry + _TINY))])


Request = AxisSquares | BranchShare


@dataclass
class Moments:
    """Sums of statistics over runs; `mean` averages them."""

    sums: dict[Request, Vector] = field(default_factory=dict)
    runs: int = 0

    def mean(self, request: Request) -> Vector:
        """The statistic averaged over all inputs."""
        return self.sums[request] / max(self.runs, 1)


def share_request(analysis: Analysis, block: Block) -> BranchShare:
    """The share of a block; its feature axis is the one that its last weights produce."""
    axes = analysis.coupling.axes
    produced = {leaf for name in block.silenced for term in axes[name] for leaf in leaves(term)}
    shared = [i for i, term in enumerate(axes[block.branch]) if not produced.isdisjoint(leaves(term))]
    return BranchShare(block.branch, block.entry, shared[0] if shared else len(axes[block.branch]) - 1)


def collect_moments(
    analysis: Analysis, inputs: Inputs, runtime: Runtime, progress: Callable[[int, int], None]
) -> Moments:
    """Run the network over all inputs and sum up what the activation scorer asks for."""
    moments = Moments()
    chunks = list(_chunks(analysis, list(_requests(analysis)), inputs.batch))
    for number, chunk in enumerate(chunks):
        names = list(dict.fromkeys(name for request in chunk for name in request.tensors))
        with loadable(exposed(analysis.network.model, names)) as reference:
            session = runtime.open(reference)
        moments.runs = 0
        for feeds in inputs.batches():
            found = dict(zip(names, session.run(feeds, names), strict=True))
            for request in chunk:
                moments.sums[request] = moments.sums.get(request, np.zeros(1)) + request.of(found)
            moments.runs += 1
            progress(number * inputs.steps + moments.runs, len(chunks) * inputs.steps)
    return moments


def _requests(analysis: Analysis) -> Iterator[Request]:
    free = {group.factor for group in analysis.groups}
    asked: dict[Request, None] = {}
    for contraction in analysis.coupling.contractions:
        if not free.isdisjoint(leaves(contraction.term)):
            for tensor, axis in contraction.operands:
                if tensor not in analysis.network.weights:
                    asked[AxisSquares(tensor, axis)] = None
    yield from asked
    yield from (share_request(analysis, block) for block in analysis.blocks)


def _chunks(analysis: Analysis, requests: Sequence[Request], batch: int) -> Iterator[list[Request]]:
    """Requests whose tensors fit into memory together at the given batch."""
    chunk: list[Request] = []
    held: dict[str, int] = {}
    for request in requests:
        sizes = {name: math.prod(analysis.network.shapes[name]) * 4 * batch for name in request.tensors}
        if chunk and sum({**held, **sizes}.values()) > _CHUNK_BYTES:
            yield chunk
            chunk, held = [], {}
        chunk.append(request)
        held |= sizes
    if chunk:
        yield chunk
