"""Brings a stream into a form in which any rotation of it is a rotation of weights.

Normalizations keep neither scale nor bias, nor do they subtract a mean: matrices absorb the first two, and what is
written to the stream has no mean. The model computes the same; its stream is then one orthogonal change of basis away
from any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnx_mdp.axes.terms import Term, leaves
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.precompute import drop_dead
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.unshare import COPY_MARK, is_copy
from onnx_mdp.graph.weights import array, put, with_weights
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.streams.basis import along, centering
from onnx_mdp.streams.stream import CENTERING, PRODUCTS, Before, Member, Side, Stream

MEAN_FREE = "SimplifiedLayerNormalization"
PROJECTED = "/projected"


def fold(coupling: Coupling, streams: Sequence[Stream]) -> onnx.ModelProto:
    """A model that computes the same, in which `streams` may be rotated."""
    folder = _Folder(coupling, streams)
    for stream in streams:
        folder.shift(stream)  # by weights as they were
    for stream in streams:
        folder.fold(stream)
    folder.finish()
    return folder.model


class _Folder:
    def __init__(self, coupling: Coupling, streams: Sequence[Stream]) -> None:
        self.coupling = coupling
        self.terms: dict[Member, Term] = {}
        self.members = {stream: dict(stream.members) for stream in streams}
        self.network: Network = coupling.network
        self.model = with_weights(self.network.model, self.network.model.graph.initializer)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.protos = dict(enumerate(self.model.graph.node))
        self.ahead: dict[int, list[onnx.NodeProto]] = {}
        self.behind: dict[int, list[onnx.NodeProto]] = {}
        self.passed: dict[str, str] = {}  # tensors that are not computed any more -> what is read in their stead

    def shift(self, stream: Stream) -> None:
        """Add what products make of the shifts of their inputs to their results."""
        for index, shift in stream.shifts.items():
            self._shift(self.network.nodes[index], shift)

    def fold(self, stream: Stream) -> None:
        """Let matrices absorb what normalizations do, and take the mean of what they write."""
        for (name, axis), before in self.members[stream].items():
            self._member(stream, name, axis, before)
        for node in stream.norms:
            self._norm(node)
            if stream.projected:
                self._project(node)
            if node.index in stream.added:
                self._add_apart(node, stream.added[node.index])
        for index in stream.neutral:
            self._neutral(self.network.nodes[index])
        folded = {i: name for i, name in stream.folded.items() if i not in stream.neutral}
        passed = {self.network.nodes[i].outputs[0]: name for i, name in folded.items()}
        passed |= {node.outputs[0]: node.inputs[0] for node in stream.centerings}
        for name, side in stream.spelled.items():
            self._spell(name, side, stream)
        self.passed |= passed

    def _member(self, stream: Stream, name: str, axis: int, before: Before) -> None:
        values = np.asarray(self._value(name), np.float64)
        if before.scale is not None:
            values = values * np.reshape(before.scale, [-1 if i == axis else 1 for i in range(values.ndim)])
        if stream.centered and before.writes:
            term = self.terms.get((name, axis)) or self.coupling.axes[name][axis]
            values = along(values, axis, term, stream.factor, centering(stream.width))
        self._put(name, values)

    def _value(self, name: str) -> Array:
        return array(self.tensors[name])

    def _put(self, name: str, values: Array) -> None:
        put(self.tensors[name], np.asarray(values, self._value(name).dtype), name)

    def _add(self, name: str, values: Array, like: str) -> str:
        tensor = self.model.graph.initializer.add()
        put(tensor, np.asarray(values, self.network.dtype(like)), name)
        self.tensors[name] = tensor
        return name

    def _norm(self, node: Node) -> None:
        proto = self.protos[node.index]
        self._put(node.inputs[1], np.ones(self.network.shapes[node.inputs[1]]))
        del proto.input[2:]
        if node.op == CENTERING:
            proto.op_type = MEAN_FREE
            if "epsilon" not in node.attributes:
                proto.attribute.append(helper.make_attribute("epsilon", 1e-5))

    def _project(self, node: Node) -> None:
        """Subtract the mean before a normalization by products with a vector, which follows rotations of the stream."""
        (name, width), mark = (node.inputs[0], self.network.shapes[node.inputs[0]][-1]), node.outputs[0]
        ones = np.full(width, width**-0.5)
        read, written = (self._add(f"{mark}/{use}", ones, node.inputs[1]) for use in ("read", "written"))
        axes = self.model.graph.initializer.add()
        put(axes, np.array([-1]), f"{mark}/last")
        nodes = [
            helper.make_node("Mul", [name, read], [f"{mark}/parts"]),
            helper.make_node("ReduceSum", [f"{mark}/parts", axes.name], [f"{mark}/mean"], keepdims=1),
            helper.make_node("Mul", [f"{mark}/mean", written], [f"{mark}/means"]),
            helper.make_node("Sub", [name, f"{mark}/means"], [f"{mark}{PROJECTED}"]),
        ]
        for made in nodes:
            made.name = made.output[0]
        self._insert(node, nodes, before=True)
        self.protos[node.index].input[0] = f"{mark}{PROJECTED}"

    def _neutral(self, node: Node) -> None:
        """Let a product with a vector stand: runtimes know a normalization by it."""
        for name in node.inputs:
            if name in self.tensors:
                self._put(name, np.ones(self.network.shapes[name]))

    def _shift(self, node: Node, shift: Array) -> None:
        """Add what a product makes of the shift of its input to its result."""
        weight = np.asarray(self._value(node.inputs[1]), np.float64)
        data = shift.reshape(-1)
        if node.op == "Conv":
            self._bias(node, np.tensordot(weight.sum(axis=tuple(range(2, weight.ndim))), data, (1, 0)), 0)
        elif node.op == "Gemm":
            turned = bool(node.attributes.get("transB", 0))
            self._bias(node, weight @ data if turned else data @ weight, 0 if turned else 1)
        else:
            self._added(node, data @ weight)

    def _bias(self, node: Node, values: Array, axis: int) -> None:
        """Add to the vector that a product adds already, or give it one; `axis` is that of its weight."""
        proto = self.protos[node.index]
        old = node.inputs[2] if len(node.inputs) > 2 else ""
        values = values / (node.attributes.get("beta", 1.0) if node.op == "Gemm" else 1.0)
        if old and len(self.network.consumers[old]) == 1:
            self._raise(old, values)
        else:
            values = values + np.asarray(self._value(old), np.float64) if old else values
            del proto.input[2:]
            proto.input.append(self._vector(f"{node.inputs[1]}/shift", values, node.inputs[1], axis))

    def _raise(self, name: str, values: Array) -> None:
        self._put(name, np.asarray(self._value(name), np.float64) + values)

    def _vector(self, name: str, values: Array, weight: str, axis: int) -> str:
        """A new vector along an axis of a weight, which follows the streams as that does."""
        last = values.ndim - 1
        self.terms[name, last] = self.coupling.axes[weight][axis]
        for members in self.members.values():
            if (weight, axis) in members:
                members[name, last] = members[weight, axis]
        return self._add(name, values, weight)

    def _added(self, node: Node, values: Array) -> None:
        """Add to the vector that the result's only reader adds already, or by one more node."""
        output, weight = node.outputs[0], node.inputs[1]
        if (vector := self._added_already(output, values)) is not None:
            self._raise(vector, values)
            return
        axis = len(self.network.shapes[weight]) - 1
        shift = self._vector(f"{output}/shift", values, weight, axis)
        proto = self.protos[node.index]
        proto.output[0] = f"{output}/unshifted"
        self._insert(node, [helper.make_node("Add", [proto.output[0], shift], [output], name=f"{output}/shifted")])

    def _added_already(self, output: str, values: Array) -> str | None:
        readers = self.network.consumers.get(output, ())
        if len(readers) != 1 or readers[0].op != "Add" or output in self.network.outputs:
            return None
        given = (name for name in readers[0].inputs if name in self.network.weights)
        fits = (n for n in given if self.network.shapes[n] == values.shape and len(self.network.consumers[n]) == 1)
        return next(fits, None)

    def _add_apart(self, node: Node, values: Array) -> None:
        """Add a vector to a normalization's result."""
        name = node.outputs[0]
        source = self._renamed(name, "unshifted")
        vector = self._add(f"{name}/shift", values, node.inputs[1])
        added = helper.make_node("Add", [source, vector], [name], name=f"{name}/shifted")
        self._insert(node, [added])

    def _spell(self, name: str, side: Side, stream: Stream) -> None:
        """Compute a tensor in the basis it was in from its rotated form, for an output or to write it to the stream."""
        node, rank = self.network.producers[name], len(self.network.shapes[name])
        axis = next(i for i, term in enumerate(self.coupling.axes[name]) if stream.factor in leaves(term))
        width = self.network.shapes[name][axis]
        inside = name in stream.inside
        source = self._renamed(name, "stream")
        for reader in () if inside else self.network.consumers.get(name, ()):
            for other in (self.protos[reader.index], *self.ahead.get(reader.index, ())):
                other.input[:] = [source if given == name else given for given in other.input]
        scale = np.ones(width) if side.scale is None else side.scale
        writes = centering(width) if inside and stream.centered else np.eye(width)
        shift = None if side.shift is None else writes @ side.shift
        like = next(n for n, _ in stream.members)
        if axis + 1 == rank:
            nodes = self._times(name, source, scale[:, None] * writes, shift, like)
        else:
            kernel = self._add(f"{name}/basis", (scale * writes).reshape(width, width, *[1] * (rank - 2)), like)
            bias = [] if shift is None else [self._add(f"{name}/shift", shift, like)]
            nodes = [helper.make_node("Conv", [source, kernel, *bias], [name], name=f"{name}/spelled")]
        self._insert(node, nodes)

    def _times(self, name: str, source: str, matrix: Array, shift: Array | None, like: str) -> list[onnx.NodeProto]:
        """What multiplies the last axis of a tensor with a matrix and shifts the result."""
        inputs = [source, self._add(f"{name}/basis", matrix, like)]
        if shift is None:
            return [helper.make_node("MatMul", inputs, [name], name=f"{name}/spelled")]
        raw, vector = f"{name}/unshifted", self._add(f"{name}/shift", shift, like)
        product = helper.make_node("MatMul", inputs, [raw], name=f"{name}/spelled")
        return [product, helper.make_node("Add", [raw, vector], [name], name=f"{name}/shifted")]

    def _renamed(self, name: str, suffix: str) -> str:
        """Let a tensor's producer write it under another name."""
        index = self.network.producers[name].index
        for proto in (self.protos[index], *self.behind.get(index, ())):
            proto.output[:] = [f"{name}/{suffix}" if output == name else output for output in proto.output]
        return f"{name}/{suffix}"

    def _insert(self, place: Node, nodes: Sequence[onnx.NodeProto], *, before: bool = False) -> None:
        """Put nodes behind one, or before it."""
        (self.ahead if before else self.behind).setdefault(place.index, []).extend(nodes)

    def finish(self) -> None:
        """Put every new node in its place, and drop what nothing needs any more."""
        nodes: list[onnx.NodeProto] = []
        for i, proto in self.protos.items():
            nodes += [*self.ahead.get(i, ()), proto, *self.behind.get(i, ())]
        for node in nodes:
            for i, name in enumerate(node.input):
                while name in self.passed:
                    name = self.passed[name]
                node.input[i] = name
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        drop_dead(self.model.graph)
        self._rename()

    def _rename(self) -> None:
        """Give members names of their own: copies of one weight are merged by their names where they are equal."""
        uses = self.network.uses
        names = {name for members in self.members.values() for name, _ in members if name in uses}
        new = {name: name.replace(COPY_MARK, "/use") if is_copy(name) else f"{name}/use0" for name in names}
        for tensor in self.model.graph.initializer:
            tensor.name = new.get(tensor.name, tensor.name)
        for node in self.model.graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]


def own_operands(model: onnx.ModelProto) -> None:
    """Give products that read a weight of others a weight of their own, in place: a tied table is read twice.

    Products that share a weight among each other alone are one layer that is applied twice; they keep it.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    moved: list[onnx.NodeProto] = []
    for node in graph.node:
        name = next((name for name in node.input[:2] if name in tensors), "")
        if not name or len(readers[name]) < 2:
            continue
        if node.op_type == "Transpose":
            order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
            put(graph.initializer.add(), np.transpose(array(tensors[name]), order), node.output[0])
            readers[name].remove(node)
            moved.append(node)
        elif node.op_type in PRODUCTS and any(other.op_type not in PRODUCTS for other in readers[name]):
            node.input[1] = f"{name}/{node.output[0]}"
            put(graph.initializer.add(), array(tensors[name]), node.input[1])
            readers[name].remove(node)
    for node in moved:
        graph.node.remove(node)
