"""Where one axis lies in a network: on which tensors, and in which role on weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnx_mdp.axes.terms import Factor, Term, leaves
from onnx_mdp.graph.network import Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.groups.couple import Coupling


class Places:
    """The tensors of a network that a factor lies on."""

    def __init__(self, coupling: Coupling, factor: Factor) -> None:
        self.coupling = coupling
        self.network = coupling.network
        self.factor = factor

    def carrying(self, names: Iterable[str]) -> list[str]:
        """Those of some tensors that have the axis."""
        return [n for n in names if n and any(self.factor in leaves(term) for term in self.coupling.axes.get(n, ()))]

    def axes(self, name: str) -> list[int]:
        """On which axes of a tensor it lies."""
        return [i for i, term in enumerate(self.coupling.axes[name]) if self.factor in leaves(term)]

    def term(self, name: str) -> Term:
        """The axis of a tensor that it lies on."""
        return self.coupling.axes[name][self.axes(name)[0]]

    def is_row(self, name: str) -> bool:
        """Whether a weight is long on one axis only."""
        shape = self.network.shapes[name]
        return bool(shape) and int(np.prod(shape)) == max(shape)

    def constant(self, name: str) -> Array | None:
        """The numbers of a weight, None for what is no weight."""
        return np.asarray(self.coupling.value(name), np.float64) if self.network.is_float_weight(name) else None

    def is_inner(self, node: Node) -> bool:
        """Whether a product with a vector is summed over the axis: an inner product."""
        readers = self.network.consumers.get(node.outputs[0], ())
        sums = [c.term for c in self.coupling.contractions if c.node in readers and c.node.op == "ReduceSum"]
        terms = self.coupling.axes[node.outputs[0]]
        along = [term for term in terms if self.factor in leaves(term)]
        vectors = [name for name in node.inputs if self.network.is_float_weight(name)]
        return node.op == "Mul" and len(vectors) == 1 and bool(sums) and sums == along * len(readers)

    def is_mean(self, node: Node) -> bool:
        """Whether a node takes a mean over the axis that nothing but a subtraction from the same tensor reads."""
        readers = self.network.consumers.get(node.outputs[0], ())
        subtract = all(r.op == "Sub" and r.inputs == (node.inputs[0], node.outputs[0]) for r in readers)
        alone = all(c.term is self.factor for c in self.coupling.contractions if c.node is node)
        return node.op == "ReduceMean" and bool(readers) and subtract and alone

    def mixes(self, node: Node) -> bool:
        """Whether a node multiplies two computed tensors, and either keeps the axis or sums over it on both."""
        computed = node.op == "MatMul" and all(name in self.network.varying for name in node.inputs)
        return computed and (len(self.carrying(node.inputs)) == 1) == bool(self.carrying(node.outputs))

    def length(self, name: str) -> int:
        """How long the axis it lies on is."""
        return self.network.shapes[name][self.axes(name)[0]]

    def contracted(self, node: Node) -> int:
        """The axis of a product's weight that is summed over."""
        if node.op == "Conv":
            return 1
        rank = len(self.network.shapes[node.inputs[1]])
        return 1 if node.op == "Gemm" and node.attributes.get("transB", 0) else max(rank - 2, 0)

    def written(self, node: Node, name: str) -> set[int]:
        """The axes of a product's operand that its result carries."""
        return set(self.axes(name)) - ({self.contracted(node)} if name == node.inputs[1] else set())

    def same_length(self, node: Node) -> bool:
        """Whether it lies on axes of one length in all tensors of a node."""
        return len({self.length(name) for name in self.carrying((*node.inputs, *node.outputs))}) == 1

    def is_shared(self, name: str) -> bool:
        """Whether several nodes read a weight."""
        return len(self.network.consumers[name]) > 1
