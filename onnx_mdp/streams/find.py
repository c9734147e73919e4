"""Finds the streams whose basis can be changed: axes that every operator is linear in, or a normalization over."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

from onnx_mdp.axes.terms import Factor, Term, leaves
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Node
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.streams.operators import COSTLY, SQUARED, AgainError, RefusedError, is_norm, is_square
from onnx_mdp.streams.stream import Fixed, Stream
from onnx_mdp.streams.trace import Tracer

_SPELLING = 0.02  # of a model's multiply-accumulates may be spent on matrices that bring tensors into the stream


def find_streams(coupling: Coupling, others: Container[Factor] = ()) -> tuple[tuple[Stream, ...], tuple[Fixed, ...]]:
    """The streams that can be rotated, and the normalized ones that cannot; but for `others`."""
    found: list[Stream] = []
    fixed: list[Fixed] = []
    normalized = dict.fromkeys(_normalized(coupling))
    free = [leaf for leaf in coupling.members if leaf not in coupling.frozen and leaf.size > 1]
    for factor in (leaf for leaf in dict.fromkeys([*normalized, *free]) if leaf not in others):
        try:
            stream = _trace(coupling, factor)
        except RefusedError as error:
            if factor in normalized:
                fixed.append(Fixed(factor, error.freeze))
            continue
        if stream.turns:
            found.append(stream)
    return tuple(found), tuple(fixed)


def _trace(coupling: Coupling, factor: Factor) -> Stream:
    """Follow a factor, again and again, until what stands in the way is settled."""
    inside, apart = frozenset[str](), frozenset[int]()
    while True:
        try:
            return Tracer(coupling, factor, inside, apart).stream()
        except AgainError as again:
            inside, apart = inside | again.inside, apart | again.apart
            spent = sum(math.prod(coupling.network.shapes[name]) * factor.size for name in inside)
            if spent > _SPELLING * sum(node_macs(coupling.network).values()):
                node = coupling.network.producers[max(inside)]
                raise RefusedError(COSTLY, node) from again


def _normalized(coupling: Coupling) -> Iterable[Factor]:
    """The factors that normalizations run over, in graph order."""
    found: dict[Factor, None] = {}
    for node in coupling.network.nodes:
        if is_norm(node) or node.op in SQUARED:
            gone = coupling.axes.get(node.inputs[0], ())[-1:] if is_norm(node) else _summed(coupling, node)
            found.update((leaf, None) for term in gone for leaf in leaves(term) if leaf.size > 1)
    return [leaf for leaf in found if leaf in coupling.members]


def _summed(coupling: Coupling, node: Node) -> list[Term]:
    """The axes that a sum of squares runs over."""
    source = coupling.network.producers.get(node.inputs[0])
    square = node.op in ("ReduceL2", "ReduceSumSquare") or (source is not None and is_square(coupling, source))
    return [c.term for c in coupling.contractions if c.node is node] if square else []
