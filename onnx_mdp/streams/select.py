"""Finds the axes of which single units can go where nothing but the statistics of normalizations is in the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.streams.bridge import shows
from onnx_mdp.streams.operators import is_square, place_of
from onnx_mdp.streams.stream import CENTERING


def selectable(coupling: Coupling) -> dict[Factor, tuple[Node, ...]]:
    """The axes that only normalizations over them lock, or outputs that show them, by what has to be spelled out.

    That is a LayerNormalization, or the mean that one begins with which is made of several operators.
    """
    norms = {node: places for node in coupling.network.nodes if (places := tuple(_locked_by(coupling, node)))}
    settled = {place for places in norms.values() for place in places}
    found: dict[Factor, tuple[Node, ...]] = {}
    for node in norms:
        for leaf in dict.fromkeys(leaves(coupling.axes[node.inputs[0]][-1])):
            reasons = {freeze.node for freeze in coupling.frozen.get(leaf, ())}
            only = not reasons.isdisjoint(settled) and all(shows(coupling, leaf, name) for name in reasons - settled)
            if only and leaf.size > 1 and leaf in coupling.members:
                found[leaf] = (*found.get(leaf, ()), node)
    return found


def shown(coupling: Coupling, results: Collection[str]) -> set[str]:
    """The outputs that show axes of which units can go once these are spelled out."""
    chosen = [
        factor
        for factor, norms in selectable(coupling).items()
        if not {node.outputs[0] for node in norms}.isdisjoint(results)
    ]
    return {name for name in coupling.network.outputs if any(shows(coupling, factor, name) for factor in chosen)}


def _locked_by(coupling: Coupling, node: Node) -> Iterator[str]:
    """The places that lock an axis for as long as a node is not spelled out; none if it cannot be."""
    network = coupling.network
    if node.domain != "ai.onnx":
        return
    if node.op == CENTERING and _is_last(network, node) and network.is_float_weight(node.inputs[1]):
        yield place_of(node)
    elif node.op == "ReduceMean" and network.shapes.get(node.outputs[0]) == (*_shape(network, node)[:-1], 1):
        readers = network.consumers.get(node.outputs[0], ())
        if all(reader.op == "Sub" and reader.inputs == (node.inputs[0], node.outputs[0]) for reader in readers):
            for reader in readers:
                yield from map(place_of, _variances(coupling, reader))


def _is_last(network: Network, node: Node) -> bool:
    rank = len(_shape(network, node))
    return rank > 0 and node.attributes.get("axis", -1) in (-1, rank - 1) and not any(node.outputs[1:])


def _shape(network: Network, node: Node) -> tuple[int, ...]:
    return network.shapes.get(node.inputs[0], ())


def _variances(coupling: Coupling, centered: Node) -> Iterator[Node]:
    """The means of squares of what a node has centered."""
    for square in coupling.network.consumers.get(centered.outputs[0], ()):
        if square.op in ("Mul", "Pow") and is_square(coupling, square):
            readers = coupling.network.consumers.get(square.outputs[0], ())
            yield from (reader for reader in readers if reader.op == "ReduceMean")
