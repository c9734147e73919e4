"""Residual streams behind sites: what a site's result is added to, and how much each row of it matters there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.statistics.positions import PositionWeights
from onnx_mdp.statistics.sites import Array, Indices, Site

_NORMALIZATIONS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


def residual(network: Network, site: Site) -> Iterator[Node]:
    """The nodes from a site's result to the sum it is added to: the last is an Add of two computed tensors."""
    found: list[Node] = []
    tensor = site.y
    while len(network.consumers.get(tensor, ())) == 1 and tensor not in network.outputs:
        node = network.consumers[tensor][0]
        found.append(node)
        computed = [name for name in node.inputs if name in network.varying]
        if node.op == "Add" and len(computed) == 2:
            yield from found
            return
        if node.op not in ("BatchNormalization", "Mul", "Add", "Identity") or len(computed) != 1:
            return
        tensor = node.outputs[0]


def normalized_stream(network: Network, site: Site) -> str | None:
    """The sum that a site's result goes into, if a layer normalization reads it."""
    path = list(residual(network, site))
    return path[-1].outputs[0] if path and is_normalized(network, path[-1].outputs[0]) else None


def is_normalized(network: Network, stream: str) -> bool:
    """Whether a layer normalization reads the stream, here or behind further sums."""
    for node in network.consumers.get(stream, ()):
        if node.op in _NORMALIZATIONS or (node.op == "Add" and is_normalized(network, node.outputs[0])):
            return True
        if node.op == "Mul" and any(reader.op == "ReduceSum" for reader in _readers(network, node)):
            return True  # one that is spelled out over units that are marked
    return False


def _readers(network: Network, node: Node) -> tuple[Node, ...]:
    return network.consumers.get(node.outputs[0], ())


def row_weights(site: Site, stream: Array, picks: Indices, positions: PositionWeights | None = None) -> Array:
    """One over the variance of each row of a stream: what a layer normalization behind it divides by.

    A few rows of huge norm, as transformers have, would otherwise be all that counts. That is times what its position
    counts.
    """
    rows = site.places(stream, picks)
    variance = rows.var(axis=(0, 2), dtype=np.float64)
    weights = np.asarray(variance.mean() / np.maximum(variance, 1e-6 * variance.mean() + 1e-30))
    return weights if positions is None else weights * np.tile(positions.picked(picks), len(weights) // len(picks))
