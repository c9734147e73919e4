"""Scales: a normalization's scale and bias, seen as a product of one column for every unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.statistics.sites import Array, Indices, VectorSite, added_vector, is_owned, picked_vectors

SCALE_WORK = 1e8  # rows times units that moments are given: there are but two numbers to find for each unit


@dataclass(frozen=True)
class ScaleSite(VectorSite):
    """A Mul with a vector along the last axis: every unit is a group of one column and one output."""

    def matrix(self, weight: Array) -> Array:
        """One number for each unit."""
        return np.asarray(weight, np.float64).reshape(-1, 1, 1)

    def weight_of(self, matrix: Array, like: Array) -> Array:
        """Undo `matrix`."""
        return np.asarray(matrix.reshape(like.shape), like.dtype)

    def rows(self, x: Array, picks: Indices) -> Array:
        """The units at the picked positions."""
        return np.ascontiguousarray(picked_vectors(x, picks)[0].T[:, :, None])

    def places(self, y: Array, picks: Indices) -> Array:
        """The units at the picked positions."""
        return self.rows(y, picks)


def find_scales(network: Network) -> tuple[ScaleSite, ...]:
    """The scales of normalizations that are spelled out: what is divided by one number for all units."""
    return tuple(site for node in network.nodes if node.op == "Mul" and (site := _scale(network, node)))


def _scale(network: Network, node: Node) -> ScaleSite | None:
    x, weight = node.inputs
    shape = network.shapes.get(x, ())
    if not is_owned(network, weight) or not shape or network.shapes[weight] != shape[-1:]:
        return None
    if not _is_normalized(network, x):
        return None
    bias, y = added_vector(network, node.outputs[0]) or (None, node.outputs[0])
    return ScaleSite(node, x, weight, bias, y, False)


def _is_normalized(network: Network, name: str) -> bool:
    """Whether a tensor is what was divided by a root that its last axis has none of."""
    node = network.producers.get(name)
    while node is not None and node.op == "Cast":
        node = network.producers.get(node.inputs[0])
    if node is None or node.op != "Div" or node.inputs[1] not in network.producers:
        return False
    divisor = node.inputs[1]
    return network.producers[divisor].op == "Sqrt" and network.shapes[divisor][-1:] == (1,)
