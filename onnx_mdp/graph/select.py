"""Nodes that pick constant positions of one axis, and moving them to other places of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.precompute import drop_dead
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import array

END = 2**63 - 1  # the stop of a range that goes to the end of its axis
_OPEN = 2**31 - 1  # exporters write this, or anything above, for "to the end"


@dataclass(frozen=True)
class Pick:
    """Positions of an axis, negative ones from its end: a range (start, stop, step), or a list where that is None."""

    range: tuple[int, int, int] | None
    positions: tuple[int, ...] = ()

    def count(self, size: int) -> int:
        """How many positions it picks of an axis."""
        return len(range(*slice(*self.range).indices(size))) if self.range else len(self.positions)

    def within(self, other: Pick) -> Pick:
        """The same positions, counted in what another range of them and more left."""
        if self.range is None or other.range is None:
            return self
        return Pick((self.range[0] - other.range[0], self.range[1] - other.range[0], 1))


def hull(picks: Sequence[Pick]) -> Pick | None:
    """The shortest range that has all positions of some picks; None where that depends on the size of the axis."""
    if len(set(picks)) == 1:
        return picks[0]
    ranges = [pick.range for pick in picks]
    if any(bounds is None or not 0 <= bounds[0] < bounds[1] < END or bounds[2] != 1 for bounds in ranges):
        return None
    return Pick((min(b[0] for b in ranges if b), max(b[1] for b in ranges if b), 1))


@dataclass(frozen=True)
class Selection:
    """A node that picks positions of one axis of its first input; `drops` where its result lacks the axis."""

    node: Node
    axis: int
    pick: Pick
    drops: bool


@dataclass(frozen=True)
class Integer:
    """A new value of an element of a node's integer input."""

    node: int
    position: int
    index: int
    value: int


@dataclass(frozen=True)
class Move:
    """Selections of one tensor that go elsewhere.

    Attributes:
        selections: what picks positions of the tensor.
        pick: the positions that go elsewhere, all that the selections pick.
        above: indices of the nodes that they now come before.
        places: tensor -> the axis along which the positions are picked there.
        readers: those of `above` and their inputs that read the picked positions.
        integers: sizes that nodes of `above` are given as integers.
    """

    selections: tuple[Selection, ...]
    pick: Pick
    above: frozenset[int]
    places: Mapping[str, int]
    readers: frozenset[tuple[int, int]]
    integers: tuple[Integer, ...]


def read_selection(network: Network, node: Node) -> Selection | None:
    """The selection a node is; None for any other node."""
    shape = network.shapes.get(node.inputs[0]) if node.inputs else None
    if shape is None or node.domain != "ai.onnx" or node.inputs[0] in network.weights:
        return None
    match node.op:
        case "Gather":
            return _gather(network, node, len(shape))
        case "Slice":
            return _slice(network, node, len(shape))
    return None


def _gather(network: Network, node: Node, rank: int) -> Selection | None:
    picked = node.inputs[1]
    values = network.values.get(picked) if picked in network.weights else None
    if values is None or values.ndim > 1:
        return None
    positions, axis = [int(v) for v in values.reshape(-1)], node.attributes.get("axis", 0) % rank
    return Selection(node, axis, _pick_of(positions), drops=values.ndim == 0)


def _pick_of(positions: Sequence[int]) -> Pick:
    """The range that positions make up, as runtimes copy ranges faster; else the list."""
    first, stop = positions[0] if positions else 0, positions[-1] + 1 if positions else 0
    if list(positions) == list(range(first, stop)) and (first < 0) == (stop <= 0):
        return Pick((first, stop or END, 1))
    return Pick(None, tuple(positions))


def _slice(network: Network, node: Node, rank: int) -> Selection | None:
    """A Slice of one axis; others may be sliced whole."""
    cut = read_slice(network, node, rank)
    if cut is None or len(cut) != 1:
        return None
    ((axis, bounds),) = cut.items()
    return Selection(node, axis, Pick(bounds), drops=False)


def read_slice(network: Network, node: Node, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """The constant (start, stop, step) of every axis that a Slice does not take whole; None if one is not constant."""
    lists = [read_integers(network, node, i, name) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)]
    starts, ends, axes, steps = lists
    if (
        starts is None
        or ends is None
        or (axes is None and len(starts) < rank)
        or None in lists[2 : len(node.inputs) - 1]
    ):
        return None
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    ranges = {
        axis % rank: (start, END if end >= _OPEN else end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    return {axis: bounds for axis, bounds in ranges.items() if bounds != (0, END, 1)}


def read_integers(network: Network, node: Node, place: int, name: str) -> list[int] | None:
    """Constant integers that a node is given: its attribute, or from newer operator sets on its input."""
    if len(node.inputs) <= 1:
        return node.attributes.get(name)
    given = node.inputs[place] if place < len(node.inputs) else ""
    values = network.values.get(given) if given in network.weights else None
    return None if values is None else [int(v) for v in values.reshape(-1)]


@dataclass(frozen=True)
class Glued:
    """An element of a list that is glued together: the Concat, the weight among its parts, and the index in that."""

    node: Node
    part: int
    index: int


def glued(network: Network, name: str, index: int) -> Glued | None:
    """Where an element of a computed list is stored; None if no Concat of a weight made it."""
    node = network.producers.get(name)
    if node is None or node.op != "Concat":
        return None
    for part, given in enumerate(node.inputs):
        length = network.shapes[given][0]
        if index < length:
            return Glued(node, part, index) if given in network.weights else None
        index -= length
    return None


def move_selections(network: Network, moves: Sequence[Move]) -> None:
    """Rewrite the network's model, in place; the moves have no node in common."""
    _Mover(network).run(moves)


class _Mover:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = network.model.graph
        self.opset = network.opsets["ai.onnx"]
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.names = {*self.tensors, *network.inputs, *network.producers}
        self.before: dict[int, list[onnx.NodeProto]] = {}
        self.instead: dict[int, list[onnx.NodeProto]] = {}
        self.renamed: dict[str, str] = {}

    def run(self, moves: Sequence[Move]) -> None:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.graph.node]
        for move in moves:
            self._select(move, nodes)
            for integer in move.integers:
                self._set(nodes[integer.node], integer)
            for selection in move.selections:
                self._replace(selection, move.pick)
            self._forget_shapes({name for i in move.above for name in nodes[i].output})
        del self.graph.node[:]
        self.graph.node.extend(self._ordered(nodes))
        drop_dead(self.graph)

    def _select(self, move: Move, nodes: Sequence[onnx.NodeProto]) -> None:
        """Pick the positions of each tensor just before the first node that reads them."""
        node = move.selections[0].node
        for tensor, axis in move.places.items():
            readers = sorted((i, k) for i, k in move.readers if nodes[i].input[k] == tensor)
            picked = self._fresh(f"{tensor}/picked")
            made = self._picking(tensor, picked, axis, move.pick)
            made.name = self._fresh(f"{node.name}/{tensor}")
            self.before.setdefault(readers[0][0], []).append(made)
            for i, k in readers:
                nodes[i].input[k] = picked

    def _picking(self, tensor: str, picked: str, axis: int, pick: Pick) -> onnx.NodeProto:
        if pick.range is None:
            positions = self._literal(f"{picked}/positions", pick.positions)
            return helper.make_node("Gather", [tensor, positions], [picked], axis=axis)
        start, stop, step = pick.range
        lists = {"starts": [start], "ends": [stop], "axes": [axis]} | ({"steps": [step]} if step != 1 else {})
        node = helper.make_node("Slice", [tensor], [picked])
        if self.opset < 10:
            node.attribute.extend(helper.make_attribute(name, values) for name, values in lists.items())
        else:
            node.input.extend(self._literal(f"{picked}/{name}", values) for name, values in lists.items())
        return node

    def _set(self, node: onnx.NodeProto, integer: Integer) -> None:
        """Give a node an integer of its own; one glued into a list is replaced among what is glued."""
        name, own = node.input[integer.position], self._fresh(f"{node.output[0]}/sizes")
        node.input[integer.position] = own
        glue = glued(self.network, name, integer.index)
        if glue is None:
            self._changed(own, name, integer.index, integer.value)
            return
        parts = list(glue.node.inputs)
        parts[glue.part] = self._changed(self._fresh(f"{own}/part"), parts[glue.part], glue.index, integer.value)
        made = helper.make_node("Concat", parts, [own], own, axis=0)
        self.before.setdefault(integer.node, []).append(made)

    def _changed(self, own: str, name: str, index: int, value: int) -> str:
        values = array(self.tensors[name]).copy()
        values.reshape(-1)[index] = value
        return self._add(own, values)

    def _replace(self, selection: Selection, pick: Pick) -> None:
        """What is left of a selection where the tensor has the picked positions alone."""
        node, tensor, output = selection.node, selection.node.inputs[0], selection.node.outputs[0]
        if selection.pick == pick:
            self._drop(selection, tensor)
            return
        narrow = self._fresh(f"{output}/narrow") if selection.drops else output
        made = self._picking(tensor, narrow, selection.axis, selection.pick.within(pick))
        made.name = self._fresh(f"{node.name}/narrow") if selection.drops else node.name
        if selection.drops:
            self._drop(selection, narrow)
        self.instead.setdefault(node.index, []).insert(0, made)

    def _drop(self, selection: Selection, tensor: str) -> None:
        """Drop the axis of a tensor whose positions are those of a selection, or do nothing if that keeps it."""
        node, output = selection.node, selection.node.outputs[0]
        readers = self.network.consumers.get(output, ())
        kept = output in self.network.outputs or any(output in reader.captured for reader in readers)
        self.instead[node.index] = []
        if selection.drops:
            made = helper.make_node("Squeeze", [tensor], [output], node.name)
            if self.opset < 13:
                made.attribute.append(helper.make_attribute("axes", [selection.axis]))
            else:
                made.input.append(self._literal(f"{output}/axes", [selection.axis]))
            self.instead[node.index] = [made]
        elif kept:
            self.instead[node.index] = [helper.make_node("Identity", [tensor], [output], node.name)]
        else:
            self.renamed[output] = tensor

    def _ordered(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        for i, node in enumerate(nodes):
            for made in (*self.before.get(i, ()), *self.instead.get(i, [node])):
                for k, name in enumerate(made.input):
                    made.input[k] = self._final(name)
                yield made

    def _final(self, name: str) -> str:
        while name in self.renamed:
            name = self.renamed[name]
        return name

    def _forget_shapes(self, names: set[str]) -> None:
        for value in [value for value in self.graph.value_info if value.name in names]:
            self.graph.value_info.remove(value)

    def _literal(self, name: str, values: Sequence[int]) -> str:
        return self._add(self._fresh(name), np.array(values, np.int64))

    def _add(self, name: str, values: Array) -> str:
        tensor = numpy_helper.from_array(values, name)
        self.tensors[name] = tensor
        self.graph.initializer.append(tensor)
        return name

    def _fresh(self, name: str) -> str:
        """The name, with a number if it is taken."""
        fresh, k = name, 1
        while fresh in self.names:
            fresh, k = f"{name}{k}", k + 1
        self.names.add(fresh)
        return fresh
