"""Cuts a network into regions: an anchor operator with the pointwise and moving operators that follow it.

A region is what is timed. Runtimes fuse a convolution or matrix product with its bias, normalization, activation
and residual sum, so those join the region that computes their input; data movement joins its producer unless the
moved tensor has other readers. Concat, pools, normalizations and the rest start regions of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_mdp.axes.terms import Factor, Sum, Term, leaves
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.groups.blocks import innermost
from onnx_mdp.groups.find import Analysis

CONTRACTING = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_POINTWISE = {
    *("Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp"),
    *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg"),
    *("PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Sqrt"),
    *("Sub", "Sum", "Swish", "Tanh", "Where"),
}
_MOVING = {
    *("ConstantOfShape", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Shape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}
_GLUE = {"Concat", "Pad", "Slice", "Split"}


@dataclass(frozen=True)
class Region:
    """Some nodes that are timed together.

    Attributes:
        anchor: the node that gives the region its name.
        nodes: in graph order, with those that compute constants for them.
        inputs: computed tensors that enter; `outputs`: tensors that leave.
        variables: what its latency depends on: free factors, and sums of several free factors.
        block: name of the smallest removable block the anchor lies in.
    """

    anchor: Node
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variables: tuple[Term, ...]
    block: str | None

    @property
    def name(self) -> str:
        """The anchor's name."""
        return self.anchor.name


def find_regions(analysis: Analysis) -> tuple[Region, ...]:
    """The regions of a network, in graph order. Nodes that compute constants belong to the regions that use them.

    Nodes that no output depends on belong to none: runtimes drop them.
    """
    network = analysis.network
    idle = _constant_nodes(network) | _unused_nodes(network)
    owner = _owners(network, idle)
    members: dict[int, list[Node]] = {}
    for node in network.nodes:
        if node.index in owner:
            members.setdefault(owner[node.index], []).append(node)
    free = frozenset(group.factor for group in analysis.groups)
    return tuple(_region(analysis, nodes, idle, free) for nodes in members.values())


def _constant_nodes(network: Network) -> frozenset[int]:
    constant: set[int] = set()
    for node in network.nodes:
        sources = [name for name in (*node.inputs, *node.captured) if name and name not in network.weights]
        producers = [network.producers.get(name) for name in sources]
        if all(producer is not None and producer.index in constant for producer in producers):
            constant.add(node.index)
    return frozenset(constant)


def _unused_nodes(network: Network) -> frozenset[int]:
    needed, unused = set(network.outputs), set()
    for node in reversed(network.nodes):
        if needed.isdisjoint(node.outputs):
            unused.add(node.index)
        else:
            needed.update((*node.inputs, *node.captured))
    return frozenset(unused)


def _owners(network: Network, idle: frozenset[int]) -> dict[int, int]:
    """For each node that computes something the index of its region's anchor."""
    owner: dict[int, int] = {}
    for node in network.nodes:
        if node.index in idle:
            continue
        sources = [network.producers[name] for name in node.inputs if name in network.producers]
        owned = [source for source in sources if source.index in owner]
        owner[node.index] = _joined(network, node, owned, owner)
    return owner


def _joined(network: Network, node: Node, sources: list[Node], owner: Mapping[int, int]) -> int:
    if not sources or node.op not in _POINTWISE | _MOVING:
        return node.index
    if node.op in _MOVING:
        source = max(sources, key=lambda other: other.index)
        alone = all(len(network.consumers.get(name, ())) <= 1 for name in source.outputs if name in node.inputs)
        return owner[source.index] if alone else node.index
    fusing = [s for s in sources if network.nodes[owner[s.index]].op in CONTRACTING and s.op not in _MOVING]
    return owner[max(fusing or sources, key=lambda other: other.index).index]


def _region(analysis: Analysis, nodes: list[Node], idle: frozenset[int], free: frozenset[Factor]) -> Region:
    network = analysis.network
    inside = idle.union(node.index for node in nodes)
    made = {name for node in nodes for name in node.outputs if name}
    folded = _folded(network, nodes, idle)
    read = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.captured) if name)
    inputs = tuple(
        name
        for name in read
        if name not in made and name not in network.weights and not any(name in node.outputs for node in folded)
    )
    outputs = tuple(
        name
        for name in made
        if name in network.outputs or any(reader.index not in inside for reader in network.consumers.get(name, ()))
    )
    everything = tuple(sorted([*folded, *nodes], key=lambda node: node.index))
    return Region(
        anchor=nodes[0],
        nodes=everything,
        inputs=inputs,
        outputs=tuple(sorted(outputs)),
        variables=_variables(analysis, nodes, free),
        block=innermost(analysis.blocks, nodes[0].index),
    )


def _folded(network: Network, nodes: list[Node], idle: frozenset[int]) -> list[Node]:
    """The nodes that compute constants for these nodes."""
    found: dict[int, Node] = {}
    pending = [name for node in nodes for name in node.inputs]
    while pending:
        producer = network.producers.get(pending.pop())
        if producer is not None and producer.index in idle and producer.index not in found:
            found[producer.index] = producer
            pending += producer.inputs
    return list(found.values())


def _variables(analysis: Analysis, nodes: list[Node], free: frozenset[Factor]) -> tuple[Term, ...]:
    """Factors and sums that set the region's sizes; the parts of a sum count only where a kernel reads them alone."""
    axes = analysis.coupling.axes
    glue: dict[Term, None] = {}
    core: dict[Term, None] = {}
    for node in nodes:
        target = glue if node.op in _GLUE else core
        for name in (*node.inputs, *node.outputs):
            for term in axes.get(name, ()):
                target.update(dict.fromkeys(_dimensions(term, free)))
    sums = [term for term in {**core, **glue} if isinstance(term, Sum)]
    covered = {leaf for term in sums for leaf in leaves(term)}
    alone = [term for term in core if isinstance(term, Factor)]
    loose = [term for term in glue if isinstance(term, Factor) and term not in covered and term not in core]
    return tuple(dict.fromkeys([*sums, *alone, *loose]))


def _dimensions(term: Term, free: frozenset[Factor]) -> list[Term]:
    """The free factors of a term; a sum that is linear in several of them counts as one dimension."""
    if isinstance(term, Factor):
        return [term] if term in free else []
    inner = [dimension for part in term.parts for dimension in _dimensions(part, free)]
    linear = isinstance(term, Sum) and all(len(_dimensions(part, free)) <= 1 for part in term.parts)
    return [term] if linear and len(set(inner)) > 1 else inner
