"""Follows one axis through a network and finds out whether it can be rotated: the rules of which operator does what.

Matrices that read a tensor of the stream absorb its scale and shift, matrices that write to the stream are rotated, and
what only moves positions passes both on. A scale that meets the stream (a LayerScale) is taken back into the matrices
it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.graph.network import Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.groups.couple import Coupling, Freeze
from onnx_mdp.streams.stream import CENTERING, PLAIN, Before, Member, Side, Stream

INSIDE = "a normalization stands inside of the stream"
SQUARED = {"ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
_NORMS = (CENTERING, "RMSNormalization", "SimplifiedLayerNormalization")
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_MOVES = {
    *("Cast", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze"),
}
_AVERAGES = {"AveragePool", "GlobalAveragePool", "ReduceMean"}  # they pass a shift that is the same everywhere
_LINEAR = {"Pad", "ReduceSum", "Resize"}


class RefusedError(Exception):
    """The axis cannot be rotated; carries the reason and the node."""

    def __init__(self, reason: str, place: Node | str) -> None:
        super().__init__(reason)
        self.freeze = Freeze(reason, place if isinstance(place, str) else place_of(place))


class AgainError(Exception):
    """Something that can be settled: a tensor to be spelled, or a normalization whose bias is added apart."""

    def __init__(self, inside: str = "", apart: int | None = None) -> None:
        super().__init__()
        self.inside = frozenset([inside] if inside else [])
        self.apart = frozenset([] if apart is None else [apart])


def place_of(node: Node) -> str:
    """How a reason names a node."""
    return f"{node.op} {node.name}"


def is_norm(node: Node) -> bool:
    """Whether a node normalizes its last axis, or those from an axis on."""
    return node.op in _NORMS and node.domain == "ai.onnx"


def is_square(coupling: Coupling, node: Node) -> bool:
    """Whether a node squares every element."""
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    exponent = coupling.network.values.get(node.inputs[1]) if node.op == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0


def _is_zero(node: Node) -> bool:
    """Whether a ConstantOfShape makes zeros, which any rotation leaves alone."""
    return not np.any(node.attributes.get("value", 0.0))


class Tracer:
    """Follows one factor through the network, node by node."""

    def __init__(self, coupling: Coupling, factor: Factor, inside: frozenset[str], apart: frozenset[int]) -> None:
        self.inside = inside
        self.apart = apart
        self.origins: dict[str, Node] = {}
        self.coupling = coupling
        self.network = coupling.network
        self.factor = factor
        self.sides: dict[str, Side] = {}
        self.squares: set[str] = set()
        self.means: list[Node] = []
        self.sums: list[Node] = []
        self.found = Stream(factor, inside=inside)

    def stream(self) -> Stream:
        """What a rotation of the factor takes.

        Raises:
            RefusedError: it cannot be rotated.
            AgainError: it might, if that is settled.
        """
        for node in self.network.nodes:
            read, wrote = self._carrying(node.inputs), self._carrying(node.outputs)
            if read or wrote:
                self._check_axes(node, [*read, *wrote])
                self._visit(node, read, wrote)
        for name in self._carrying(self.network.outputs):
            self._spell(name, self.network.producers[name])
        self._check_freezes()
        norms, centerings = self.found.norms, self.found.centerings
        centered = {node.op == CENTERING for node in norms} | {True for _ in centerings}
        if len(centered) > 1 or (centerings and norms):
            raise RefusedError("its normalizations are not all of one kind", (norms or centerings)[0])
        linear = not (norms or centerings or self.sums)
        return replace(self.found, linear=linear, centered=centered == {True})

    def _check_freezes(self) -> None:
        """Whatever locks the axis has to be something that a rotation of it settles."""
        settled = {place_of(node) for node in (*self.found.norms, *self.means, *self.sums)} | self.found.spelled.keys()
        for freeze in self.coupling.frozen.get(self.factor, ()):
            if freeze.node not in settled:
                raise RefusedError(freeze.reason, freeze.node)

    def _spell(self, name: str, node: Node) -> None:
        """Have a tensor in its own basis too."""
        if self._axes(name) != [len(self.network.shapes[name]) - 1] or len(self.network.shapes[name]) < 2:
            raise RefusedError("an output has it on an axis that no matrix can be applied to", node)
        self.found.spelled[name] = self._side(name)

    def _carrying(self, names: Iterable[str]) -> list[str]:
        return [n for n in names if n and any(self.factor in leaves(term) for term in self.coupling.axes.get(n, ()))]

    def _check_axes(self, node: Node, names: Iterable[str]) -> None:
        for name in names:
            if name in self.coupling.codes:
                raise RefusedError("a quantized weight lies along it", node)
            if name not in self.network.weights and len(self._axes(name)) > 1:
                raise RefusedError("it lies on two axes of a tensor", node)

    def _axes(self, name: str) -> list[int]:
        return [i for i, term in enumerate(self.coupling.axes[name]) if self.factor in leaves(term)]

    def _visit(self, node: Node, read: list[str], wrote: list[str]) -> None:
        data = [name for name in read if name not in self.network.weights]
        if node.op in _PRODUCTS and node.domain == "ai.onnx":
            self._product(node, data)
        elif is_norm(node):
            self._norm(node, data)
        elif any(name in self.squares for name in data):
            self._sum_of_squares(node, wrote)
        elif not wrote and self._is_mean(node):
            self._need_plain(node, data)
            self.means.append(node)
        elif node.op == "Sub" and self._centers(node):
            self._need_plain(node, data)
            self.found.centerings.append(node)
        elif wrote and is_square(self.coupling, node):
            self._need_plain(node, data)
            self.squares.update(wrote)
        elif node.op in ("Add", "Sub", "Sum"):
            self._sum(node, read, data)
        elif node.op in ("Div", "Mul"):
            self._scaling(node, read, data)
        elif node.op in _MOVES | _AVERAGES | _LINEAR and wrote:
            self._move(node, read)
        elif node.op in ("ReduceL2", "ReduceSumSquare") and not wrote:
            self._need_plain(node, data)
        elif node.op not in ("Shape", "Size") and not (node.op == "ConstantOfShape" and _is_zero(node)):
            raise RefusedError(f"{node.op} works on single units of it", node)

    def _is_mean(self, node: Node) -> bool:
        """Whether a node takes a mean over the axis that nothing but a subtraction from the same tensor reads."""
        readers = self.network.consumers.get(node.outputs[0], ())
        subtract = all(r.op == "Sub" and r.inputs == (node.inputs[0], node.outputs[0]) for r in readers)
        alone = all(
            leaf is self.factor for c in self.coupling.contractions if c.node is node for leaf in leaves(c.term)
        )
        return node.op == "ReduceMean" and bool(readers) and subtract and alone

    def _centers(self, node: Node) -> bool:
        return any(mean.outputs[0] == node.inputs[1] for mean in self.means)

    def _side(self, name: str) -> Side:
        return self.sides.get(name, PLAIN)

    def _need_plain(self, node: Node, names: Iterable[str]) -> None:
        for name in names:
            side = self._side(name)
            if side.scale is not None and side.shift is None and self._pulled(name, side.scale):
                self.sides[name] = PLAIN
            elif not side.plain:
                raise self._blocked(name, node)

    def _blocked(self, name: str, node: Node) -> Exception:
        """A normalized tensor meets the stream: a matrix can bring it there, if it is a normalization's own result."""
        last = self._axes(name) == [len(self.network.shapes[name]) - 1]
        if name not in self.origins or name in self.network.outputs or not last:
            return RefusedError(INSIDE, node)
        return AgainError(inside=name)

    def _turn(self, name: str, node: Node) -> None:
        """Rotate an initializer that writes to the stream, or is a part of it."""
        for axis in self._axes(name):
            if (name, axis) in self.found.members:
                raise RefusedError("a weight of it is used twice", node)
            self.found.members[name, axis] = Before()

    def _norm(self, node: Node, data: list[str]) -> None:
        terms = self.coupling.axes[node.inputs[0]]
        if data != [node.inputs[0]] or any(leaf is not self.factor for leaf in leaves(terms[-1])):
            raise RefusedError("a normalization runs over other axes too", node)
        last = node.attributes.get("axis", -1) in (-1, len(terms) - 1)
        parameters = [name for name in node.inputs[1:] if name]
        if not last or any(name not in self.network.weights for name in parameters) or any(node.outputs[1:]):
            raise RefusedError("a normalization is of another form", node)
        self._need_plain(node, data)
        self.found.norms.append(node)
        side = self._side_of_norm(node, len(parameters) > 1)
        if node.outputs[0] in self.inside:
            self.found.spelled[node.outputs[0]] = side
            side = PLAIN
        elif node.index in self.apart and side.shift is not None:
            self.found.added[node.index] = side.shift if side.scale is None else side.shift / side.scale
            side = Side(side.scale)
        self.sides[node.outputs[0]] = side
        self.origins[node.outputs[0]] = node

    def _side_of_norm(self, node: Node, shifts: bool) -> Side:
        scale = np.asarray(self.coupling.value(node.inputs[1]), np.float64).reshape(-1)
        shift = np.asarray(self.coupling.value(node.inputs[2]), np.float64).reshape(-1) if shifts else None
        return Side(None if np.all(scale == 1) else scale, shift if shift is not None and np.any(shift) else None)

    def _sum_of_squares(self, node: Node, wrote: list[str]) -> None:
        if wrote or node.op not in SQUARED:
            raise RefusedError("its squares are read one by one", node)
        self.sums.append(node)

    def _sum(self, node: Node, read: list[str], data: list[str]) -> None:
        constants = [name for name in read if name in self.network.weights]
        if len(read) < len([name for name in node.inputs if name]):
            raise RefusedError("the same number is added to all of it", node)
        if len(data) == 1 and not self._side(data[0]).plain and all(map(self._is_row, constants)) and node.op == "Add":
            side = self._side(data[0])
            shift = sum((self.coupling.value(name).reshape(-1) for name in constants), side.shift or 0.0)
            self.sides[node.outputs[0]] = Side(side.scale, np.asarray(shift))
            self.found.folded[node.index] = data[0]
            return
        self._need_plain(node, data)
        for name in constants:
            self._turn(name, node)

    def _is_row(self, name: str) -> bool:
        shape = self.network.shapes[name]
        return bool(shape) and int(np.prod(shape)) == max(shape)

    def _scaling(self, node: Node, read: list[str], data: list[str]) -> None:
        constants = [name for name in read if name in self.network.weights]
        if len(data) != 1:
            raise RefusedError(f"{node.op} works on single units of it", node)
        side = self._side(data[0])
        if constants:
            inverse = node.op == "Div"
            if not self._is_row(constants[0]) or (inverse and node.inputs[0] != data[0]):
                raise RefusedError(f"{node.op} works on single units of it", node)
            values = np.asarray(self.coupling.value(constants[0]), np.float64).reshape(-1)
            factor = 1 / values if inverse else values
            shift = None if side.shift is None else side.shift * factor
            self.sides[node.outputs[0]] = Side(factor if side.scale is None else side.scale * factor, shift)
            self.found.folded[node.index] = data[0]
        elif node.op == "Div" and node.inputs[0] != data[0]:
            raise RefusedError("it divides", node)
        elif side.shift is not None:
            raise RefusedError("a normalized tensor is scaled by a computed one", node)
        else:
            self.sides[node.outputs[0]] = side

    def _move(self, node: Node, read: list[str]) -> None:
        if not read:
            raise RefusedError("it is as long as a computed tensor of other content", node)
        sides = [self._side(name) for name in read]
        different = any(side is not sides[0] and not (side.plain and sides[0].plain) for side in sides[1:])
        if different:
            self._need_plain(node, read)
        side = self._side(read[0])
        if side.shift is not None and node.op in _LINEAR:
            origin = self._origin(read[0])
            if origin is None or (side.scale is not None and not np.all(side.scale)):
                raise RefusedError(f"{node.op} of a normalized tensor", node)
            raise AgainError(apart=origin.index)
        if not side.plain and any(self._length(name) != self._length(read[0]) for name in self._carrying(node.outputs)):
            raise RefusedError(f"{node.op} of a normalized tensor", node)
        for name in read:
            if name in self.network.weights:
                self._turn(name, node)
        self.sides.update((name, side) for name in node.outputs if name)

    def _origin(self, name: str) -> Node | None:
        """The normalization that a tensor was moved from."""
        while name not in self.origins and name in self.network.producers:
            data = [n for n in self._carrying(self.network.producers[name].inputs) if n not in self.network.weights]
            if len(data) != 1:
                return None
            name = data[0]
        return self.origins.get(name)

    def _length(self, name: str) -> int:
        return self.network.shapes[name][self._axes(name)[0]]

    def _product(self, node: Node, data: list[str]) -> None:
        weight, added = node.inputs[1], [name for name in node.inputs[2:] if name]
        if not self.network.is_float_weight(weight) or any(name not in self.network.weights for name in added):
            raise RefusedError("it is multiplied with a computed tensor", node)
        if node.op == "Conv" and node.attributes.get("group", 1) != 1:
            raise RefusedError("a grouped convolution works on single units of it", node)
        if node.op == "Gemm" and (node.attributes.get("transA", 0) or node.attributes.get("alpha", 1.0) != 1.0):
            raise RefusedError("a scaled or transposed product reads it", node)
        along = self._axes(weight)
        reads = {self._contracted(node)} & set(along) if data else set()
        if data and not reads:
            raise RefusedError(f"{node.op} moves over it", node)
        for axis in along:
            if (weight, axis) in self.found.members:
                raise RefusedError("a weight of it is used twice", node)
            self.found.members[weight, axis] = Before(self._side(data[0]).scale, False) if axis in reads else Before()
        if data:
            self.found.reads[weight] = data[0], self._axes(data[0])[0]
        if data and (shift := self._side(data[0]).shift) is not None:
            if any(node.attributes.get("pads", ())) or node.attributes.get("auto_pad", "NOTSET") not in (
                "NOTSET",
                "VALID",
            ):
                raise RefusedError("a convolution pads a normalized tensor", node)
            self.found.shifts[node.index] = shift
        if self._carrying(node.outputs):
            for name in self._carrying(added):
                self._turn(name, node)

    def _contracted(self, node: Node) -> int:
        """The axis of a product's weight that is summed over."""
        if node.op == "Conv":
            return 1
        rank = len(self.network.shapes[node.inputs[1]])
        return 1 if node.op == "Gemm" and node.attributes.get("transB", 0) else max(rank - 2, 0)

    def _pulled(self, name: str, scale: Array) -> bool:
        """Multiply what writes a tensor with a scale, so that the tensor needs none; whether that is possible."""
        taken: list[Member] = []
        pending = [name]
        while pending:
            tensor = pending.pop()
            node = self.network.producers.get(tensor)
            if node is None or len(self.network.consumers.get(tensor, ())) != 1 or tensor in self.network.outputs:
                return False
            if node.index in self.found.folded and node.op in ("Div", "Mul"):
                pending.append(self.found.folded[node.index])
            elif node.op in _PRODUCTS:
                taken += [
                    m for m in self.found.members if m[0] in node.inputs[1:] and m[1] in self._written(node, m[0])
                ]
            elif node.op in _MOVES | _AVERAGES | {"Add"} and self._same_length(node):
                taken += [m for m in self.found.members if m[0] in node.inputs]
                pending += [n for n in self._carrying(node.inputs) if n not in self.network.weights]
            else:
                return False
        for member in taken:
            before = self.found.members[member]
            self.found.members[member] = replace(before, scale=scale if before.scale is None else before.scale * scale)
        return True

    def _written(self, node: Node, name: str) -> set[int]:
        """The axes of a product's operand that its result carries."""
        return set(self._axes(name)) - ({self._contracted(node)} if name == node.inputs[1] else set())

    def _same_length(self, node: Node) -> bool:
        return len({self._length(name) for name in self._carrying((*node.inputs, *node.outputs))}) == 1
