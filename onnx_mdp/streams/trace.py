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
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.streams.basis import transferred
from onnx_mdp.streams.operators import (
    AVERAGES,
    INSIDE,
    MEAN,
    MOVES,
    SQUARED,
    AgainError,
    RefusedError,
    is_linear,
    is_norm,
    is_square,
    is_zero,
    keeps_shift,
    place_of,
)
from onnx_mdp.streams.places import Places
from onnx_mdp.streams.products import of_products
from onnx_mdp.streams.stream import CENTERING, PLAIN, PRODUCTS, Before, Member, Side, Stream


class Tracer(Places):
    """Follows one factor through the network, node by node."""

    def __init__(self, coupling: Coupling, factor: Factor, inside: frozenset[str], apart: frozenset[int]) -> None:
        super().__init__(coupling, factor)
        self.inside = inside
        self.apart = apart
        self.origins: dict[str, Node] = {}
        self.sides: dict[str, Side] = {}
        self.squares: set[str] = set()
        self.divided: set[str] = set()
        self.free: set[str] = set()  # tensors without the stream's mean
        self.needs: list[tuple[str, Node]] = []  # tensors that are read as they are
        self.merged: list[Node] = []
        self.inner: set[str] = set()  # products of units that a sum turns into an inner product
        self.means: list[Node] = []
        self.mixed: list[Node] = []  # products with computed tensors
        self.sums: list[Node] = []
        self.found = Stream(factor, inside=inside)

    def stream(self) -> Stream:
        """What a rotation of the factor takes.

        Raises:
            RefusedError: it cannot be rotated.
            AgainError: it might, if that is settled.
        """
        for node in self.network.nodes:
            read, wrote = self.carrying(node.inputs), self.carrying(node.outputs)
            if read or wrote:
                self._check_axes(node, [*read, *wrote])
                self._visit(node, read, wrote)
        for name in self.carrying(self.network.outputs):
            self._spell(name, self.network.producers[name])
        self._check_freezes()
        norms, centerings = self.found.norms, self.found.centerings
        if self.mixed and (norms or centerings or self.sums or self.found.spelled):
            raise RefusedError("it is multiplied with a computed tensor", self.mixed[0])
        centered = {node.op == CENTERING for node in norms} | {True for _ in centerings}
        if len(centered) > 1 or (centerings and norms):
            raise RefusedError("its normalizations are not all of one kind", (norms or centerings)[0])
        if centered != {True}:
            return self.found if norms or self.sums else of_products(self, self.found, self.mixed)
        keeps = [*self.merged, *(node for name, node in self.needs if name not in self.free)]
        if keeps and centerings:
            raise RefusedError(MEAN, keeps[0])
        return replace(self.found, centered=not keeps, projected=bool(keeps))

    def _check_freezes(self) -> None:
        """Whatever locks the axis has to be something that a rotation of it settles."""
        settled = {place_of(node) for node in (*self.found.norms, *self.means, *self.sums)} | self.found.spelled.keys()
        for freeze in self.coupling.frozen.get(self.factor, ()):
            if freeze.node not in settled:
                raise RefusedError(freeze.reason, freeze.node)

    def _spell(self, name: str, node: Node) -> None:
        """Have a tensor in its own basis too."""
        rank = len(self.network.shapes[name])
        if self.axes(name) not in ([rank - 1], [1]) or rank < 2:
            raise RefusedError("an output has it on an axis that no matrix can be applied to", node)
        self.found.spelled[name] = self._side(name)
        self.needs.append((name, node))

    def _check_axes(self, node: Node, names: Iterable[str]) -> None:
        for name in names:
            if name in self.coupling.codes:
                raise RefusedError("a quantized weight lies along it", node)
            if name not in self.network.weights and len(self.axes(name)) > 1:
                raise RefusedError("it lies on two axes of a tensor", node)

    def _visit(self, node: Node, read: list[str], wrote: list[str]) -> None:
        data = [name for name in read if name not in self.network.weights]
        if node.op in PRODUCTS and node.domain == "ai.onnx":
            self._product(node, data)
        elif is_norm(node):
            self._norm(node, data)
        elif node.op == "ReduceSum" and self.inner.issuperset(data):
            pass
        elif any(name in self.squares for name in data):
            self._sum_of_squares(node, wrote)
        elif not wrote and self.is_mean(node):
            self._need_plain(node, data)
            self.means.append(node)
        elif node.op == "Sub" and self._centers(node):
            self._need_plain(node, data)
            self.found.centerings.append(node)
            self.free.update(node.outputs)
        elif wrote and is_square(self.coupling, node):
            self._need_plain(node, data)
            self.squares.update(wrote)
            self.needs += [(name, node) for name in data]
        elif node.op in ("Add", "Sub", "Sum"):
            self._sum(node, read, data)
        elif node.op == "BatchNormalization" and not node.attributes.get("training_mode", 0):
            self._batch_norm(node, data)
        elif node.op in ("Div", "Mul"):
            self._scaling(node, read, data)
        elif wrote and (node.op in MOVES or is_linear(node) or (node.op == "Where" and read == [*node.inputs[1:]])):
            self._move(node, read)
        elif node.op in ("ReduceL2", "ReduceSumSquare") and not wrote:
            self._need_plain(node, data)
            self.needs += [(name, node) for name in data]
        elif node.op not in ("Shape", "Size") and not (node.op == "ConstantOfShape" and is_zero(node)):
            raise RefusedError(f"{node.op} works on single units of it", node)

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
        last = self.axes(name) == [len(self.network.shapes[name]) - 1]
        if self._origin(name) is None:
            return RefusedError("its units are scaled or shifted, each on its own", node)
        if name not in self.origins or name in self.network.outputs or not last:
            return RefusedError(INSIDE, node)
        return AgainError(inside=name)

    def _turn(self, name: str, node: Node) -> None:
        """Rotate an initializer that writes to the stream, or is a part of it."""
        for axis in self.axes(name):
            self._claim(name, axis, Before(), node)

    def _claim(self, name: str, axis: int, before: Before, node: Node) -> None:
        """Note what is to be done to a weight; one that several nodes read has to be the same for all of them."""
        if not self.found.members.setdefault((name, axis), before).agrees(before) and self.is_shared(name):
            raise RefusedError("a weight of it is used in two ways", node)

    def _norm(self, node: Node, data: list[str]) -> None:
        terms = self.coupling.axes[node.inputs[0]]
        if data != [node.inputs[0]] or any(leaf is not self.factor for leaf in leaves(terms[-1])):
            raise RefusedError("a normalization runs over other axes too", node)
        last = node.attributes.get("axis", -1) in (-1, len(terms) - 1)
        parameters = [name for name in node.inputs[1:] if name]
        if not last or any(name not in self.network.weights for name in parameters) or any(node.outputs[1:]):
            raise RefusedError("a normalization is of another form", node)
        if node.op == CENTERING and terms[-1] is not self.factor:
            self.merged.append(node)  # each part keeps how its own mean differs from that of all
        self._need_plain(node, data)
        self.found.norms.append(node)
        side = self._side_of_norm(node, len(parameters) > 1)
        if node.outputs[0] in self.inside:
            self.found.spelled[node.outputs[0]] = side
            side = PLAIN
        else:
            self.free.add(node.outputs[0])
        if node.index in self.apart and side.shift is not None:
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
        if len(data) == 1 and not self._side(data[0]).plain and all(map(self.is_row, constants)) and node.op == "Add":
            side = self._side(data[0])
            shift = sum((self.coupling.value(name).reshape(-1) for name in constants), side.shift or 0.0)
            self.sides[node.outputs[0]] = Side(side.scale, np.asarray(shift))
            self.found.folded[node.index] = data[0]
            self._pass_free(node, data)
            return
        self._need_plain(node, data)
        self._pass_free(node, read)
        for name in constants:
            self._turn(name, node)

    def _pass_free(self, node: Node, names: Iterable[str]) -> None:
        if self.free.issuperset(names):
            self.free.update(node.outputs)

    def _scaling(self, node: Node, read: list[str], data: list[str]) -> None:
        if node.op == "Mul" and not data:  # an outer product
            for name in read:
                self._turn(name, node)
            return
        if len(data) != 1:
            raise RefusedError(f"{node.op} works on single units of it", node)
        if self.is_inner(node):
            self._inner(node, data[0])
            return
        if node.op == "Div" and node.inputs[0] != data[0]:
            raise RefusedError("it divides", node)
        side, other = self._side(data[0]), next((name for name in node.inputs if name != data[0]), data[0])
        values = self.constant(other)
        if values is None and other in read:
            raise RefusedError(f"{node.op} works on single units of it", node)
        if values is None and side.shift is not None:
            raise self._unshifted(data[0], "a normalized tensor is scaled by a computed one", node)
        if values is None:
            self.divided.add(node.outputs[0])
        elif np.all(values == values.flat[0]):  # such a scale commutes with every rotation
            number = values.flat[0] if node.op == "Mul" else 1 / values.flat[0]
            side = Side(side.scale, None if side.shift is None else side.shift * number)
        else:
            side = self._scaled(node, data[0], other, values)
        self._pass_free(node, data)
        self.sides[node.outputs[0]] = side

    def _batch_norm(self, node: Node, data: list[str]) -> None:
        """A scale and a shift of every unit."""
        if data != [node.inputs[0]] or self.axes(data[0]) != [1]:
            raise RefusedError(f"{node.op} works on single units of it", node)
        scale, bias, mean, variance = (np.asarray(self.coupling.value(name), np.float64) for name in node.inputs[1:])
        factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        side = self._side(data[0])
        shift = bias + ((0.0 if side.shift is None else side.shift) - mean) * factor
        self.sides[node.outputs[0]] = Side(factor if side.scale is None else side.scale * factor, shift)
        self.found.folded[node.index] = data[0]
        self._pass_free(node, data)

    def _inner(self, node: Node, name: str) -> None:
        side, vector = self._side(name), next(n for n in node.inputs if n != name)
        if side.shift is not None:
            raise self._unshifted(name, f"{node.op} of a normalized tensor", node)
        self.needs.append((name, node))
        self.inner.add(node.outputs[0])
        for axis in self.axes(vector):
            self._claim(vector, axis, Before(side.scale, False), node)

    def _scaled(self, node: Node, name: str, other: str, values: Array) -> Side:
        if not self.is_row(other):
            raise RefusedError(f"{node.op} works on single units of it", node)
        factor, side = values.reshape(-1), self._side(name)
        factor = 1 / factor if node.op == "Div" else factor
        self.found.folded[node.index] = name
        if name in self.divided:
            self.found.neutral.add(node.index)
        shift = None if side.shift is None else side.shift * factor
        return Side(factor if side.scale is None else side.scale * factor, shift)

    def _unshifted(self, name: str, reason: str, node: Node) -> Exception:
        """Something shifts or scales the positions of a normalized tensor: its bias has to be added apart."""
        origin, scale = self._origin(name), self._side(name).scale
        settled = origin is not None and origin.index in self.apart
        if origin is None or settled or (scale is not None and not np.all(scale)):
            return RefusedError(reason, node)
        return AgainError(apart=origin.index)

    def _move(self, node: Node, read: list[str]) -> None:
        if not read:
            raise RefusedError("it is as long as a computed tensor of other content", node)
        sides = [self._side(name) for name in read]
        different = any(side is not sides[0] and not (side.plain and sides[0].plain) for side in sides[1:])
        if different:
            self._need_plain(node, read)
        side = self._side(read[0])
        if node.op == "Cast" and read[0] in self.divided:
            self.divided.update(node.outputs)
        grows = self.network.shapes[read[0]] != self.network.shapes[node.outputs[0]]
        if side.shift is not None and grows and not keeps_shift(node):
            raise self._unshifted(read[0], f"{node.op} of a normalized tensor", node)
        moved = {name: self._moved(side, read[0], name, node) for name in self.carrying(node.outputs)}
        self._pass_free(node, read)
        for name in read:
            if name in self.network.weights:
                self._turn(name, node)
        self.sides.update(moved)

    def _moved(self, side: Side, name: str, moved: str, node: Node) -> Side:
        """The side of a tensor whose axis another one may hold among others."""
        if side.plain or self.length(name) == self.length(moved):
            return side
        terms = self.term(name), self.term(moved)
        found = [None if v is None else transferred(v, *terms, self.factor) for v in (side.scale, side.shift)]
        if [v is None for v in found] != [side.scale is None, side.shift is None]:
            raise RefusedError(f"{node.op} of a normalized tensor", node)
        return Side(*found)

    def _origin(self, name: str) -> Node | None:
        """The normalization that all of a tensor was moved from."""
        pending, found = [name], set[Node]()
        while pending:
            tensor = pending.pop()
            if tensor in self.origins:
                found.add(self.origins[tensor])
                continue
            node = self.network.producers.get(tensor)
            if node is None or not (node.op in MOVES or node.op in ("Div", "Mul") or is_linear(node)):
                return None
            pending += self.carrying(node.inputs)
        return found.pop() if len(found) == 1 else None

    def _product(self, node: Node, data: list[str]) -> None:
        weight, added = node.inputs[1], [name for name in node.inputs[2:] if name]
        if self.mixes(node):
            self._need_plain(node, data)
            self.mixed.append(node)
            return
        if not self.network.is_float_weight(weight) or any(name not in self.network.weights for name in added):
            raise RefusedError("it is multiplied with a computed tensor", node)
        if node.op == "Conv" and node.attributes.get("group", 1) != 1:
            raise RefusedError("a grouped convolution works on single units of it", node)
        if node.op == "Gemm" and (node.attributes.get("transA", 0) or node.attributes.get("alpha", 1.0) != 1.0):
            raise RefusedError("a scaled or transposed product reads it", node)
        along = self.axes(weight)
        reads = {self.contracted(node)} & set(along) if data else set()
        if data and not reads:
            raise RefusedError(f"{node.op} moves over it", node)
        for axis in along:
            before = Before(self._side(data[0]).scale, False) if axis in reads else Before()
            self._claim(weight, axis, before, node)
        if data:
            self.found.reads[weight] = data[0], self.axes(data[0])[0]
            self.needs.append((data[0], node))
        if data and (shift := self._side(data[0]).shift) is not None:
            pads = any(node.attributes.get("pads", ()))
            if pads or node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
                raise self._unshifted(data[0], "a convolution pads a normalized tensor", node)
            self.found.shifts[node.index] = shift
        if self.carrying(node.outputs):
            for name in self.carrying(added):
                self._turn(name, node)

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
            elif node.op in PRODUCTS:
                taken += [m for m in self.found.members if m[0] in node.inputs[1:] and m[1] in self.written(node, m[0])]
            elif node.op in MOVES | AVERAGES | {"Add"} and self.same_length(node):
                taken += [m for m in self.found.members if m[0] in node.inputs]
                pending += [n for n in self.carrying(node.inputs) if n not in self.network.weights]
            else:
                return False
        if any(self.is_shared(name) for name, _ in taken):
            return False
        for member in taken:
            before = self.found.members[member]
            self.found.members[member] = replace(before, scale=scale if before.scale is None else before.scale * scale)
        return True
