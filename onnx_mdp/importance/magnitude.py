"""Magnitude: squared norms of the weights, no data.

After Li et al., Pruning Filters for Efficient ConvNets (2017), with every weight of a group counted, each normalized
by its own mean.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnx_mdp.axes.terms import fold
from onnx_mdp.graph.network import Network
from onnx_mdp.groups.blocks import Block
from onnx_mdp.groups.couple import Contraction
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.base import Scorer, Vector, weight_energy


class MagnitudeScorer(Scorer):
    """A unit is worth the mean squared norm of its weights; a block its place in the sum it adds to."""

    name: ClassVar[str] = "magnitude"
    needs_inputs: ClassVar[bool] = False

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._units: dict[str, Vector] = {}
        self._depth = _depths(analysis)

    def energy(self, contraction: Contraction, group: Group) -> Vector:
        """The same for every contraction of the group: without data, layers cannot be told apart."""
        if group.name not in self._units:
            self._units[group.name] = self._norms(group)
        return self._units[group.name]

    def share(self, block: Block) -> float:
        """1 / (1 + d) for the d-th block of a chain: at initialization every branch adds the same variance."""
        return 1.0 / (1.0 + self._depth[block.name])

    def _norms(self, group: Group) -> Vector:
        network, axes = self._analysis.network, self._analysis.coupling.axes
        total = np.zeros(group.units)
        count = 0
        for name, axis in group.members:
            if len(network.shapes[name]) < 2 and not self._scales(name):
                continue
            energy = fold(axes[name][axis], group.factor, weight_energy(self._analysis.coupling.value(name), axis))
            if energy.sum() > 0:
                total += energy / energy.mean()
                count += 1
        return total / max(count, 1)

    def _scales(self, name: str) -> bool:
        """Whether a vector is a normalization's scale, which bounds its channel."""
        readers = self._analysis.network.consumers[name]
        return any(node.op.endswith("Normalization") and node.inputs[1] == name for node in readers)


def _depths(analysis: Analysis) -> dict[str, int]:
    """For each block its place in its chain of blocks, from 1."""
    ends = {block.output: block.name for block in analysis.blocks}
    depth: dict[str, int] = {}
    for block in analysis.blocks:
        tensor: str | None = block.entry
        while tensor is not None and tensor not in ends:
            tensor = _passed_through(analysis.network, tensor)
        depth[block.name] = 1 + (depth.get(ends[tensor], 0) if tensor else 0)
    return depth


def _passed_through(network: Network, tensor: str) -> str | None:
    """The tensor that an activation or normalization made this one from; None after any other operator."""
    producer = network.producers.get(tensor)
    if producer is None or any(len(network.shapes[name]) > 1 for name in producer.inputs if name in network.weights):
        return None
    computed = [name for name in producer.inputs if name and name not in network.weights]
    return computed[0] if len(computed) == 1 else None
