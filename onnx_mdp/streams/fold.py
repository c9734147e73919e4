"""Brings a stream into a form in which any rotation of it is a rotation of weights.

Normalizations keep neither scale nor bias, nor do they subtract a mean: matrices absorb the first two, and what is
written to the stream has no mean. The model computes the same; its stream is then one orthogonal change of basis away
from any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.precompute import drop_dead
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import array, put
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.streams.basis import along, centering
from onnx_mdp.streams.stream import CENTERING, Before, Side, Stream

MEAN_FREE = "SimplifiedLayerNormalization"


def fold(coupling: Coupling, streams: Sequence[Stream]) -> onnx.ModelProto:
    """A model that computes the same, in which `streams` may be rotated."""
    folder = _Folder(coupling)
    for stream in streams:
        folder.fold(stream)
    drop_dead(folder.model.graph)
    return folder.model


class _Folder:
    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.network: Network = coupling.network
        self.model = onnx.ModelProto()
        self.model.CopyFrom(self.network.model)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.protos = dict(enumerate(self.model.graph.node))

    def fold(self, stream: Stream) -> None:
        for index, shift in stream.shifts.items():
            self._shift(self.network.nodes[index], shift)
        for (name, axis), before in stream.members.items():
            self._member(stream, name, axis, before)
        for node in stream.norms:
            self._norm(node)
            if node.index in stream.added:
                self._add_apart(node, stream.added[node.index])
        passed = {self.network.nodes[i].outputs[0]: name for i, name in stream.folded.items()}
        passed |= {node.outputs[0]: node.inputs[0] for node in stream.centerings}
        for name, side in stream.spelled.items():
            self._spell(name, side, stream)
        self._bypass(passed)

    def _member(self, stream: Stream, name: str, axis: int, before: Before) -> None:
        values = np.asarray(self._value(name), np.float64)
        if before.scale is not None:
            values = values * np.reshape(before.scale, [-1 if i == axis else 1 for i in range(values.ndim)])
        if stream.centered and before.writes:
            term = self.coupling.axes[name][axis]
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

    def _shift(self, node: Node, shift: Array) -> None:
        """Add what a product makes of the shift of its input to its result."""
        weight = np.asarray(self._value(node.inputs[1]), np.float64)
        data = shift.reshape(-1)
        if node.op == "Conv":
            self._bias(node, np.tensordot(weight.sum(axis=tuple(range(2, weight.ndim))), data, (1, 0)))
        elif node.op == "Gemm":
            self._bias(node, weight @ data if node.attributes.get("transB", 0) else data @ weight)
        else:
            self._added(node, data @ weight)

    def _bias(self, node: Node, values: Array) -> None:
        proto = self.protos[node.index]
        if len(node.inputs) > 2 and node.inputs[2]:
            beta = node.attributes.get("beta", 1.0) if node.op == "Gemm" else 1.0
            self._put(node.inputs[2], np.asarray(self._value(node.inputs[2]), np.float64) + values / beta)
        else:
            del proto.input[2:]
            proto.input.append(self._add(f"{node.inputs[1]}/shift", values, node.inputs[1]))

    def _added(self, node: Node, values: Array) -> None:
        """Add to the vector that the result's only reader adds already, or by one more node."""
        output = node.outputs[0]
        readers = self.network.consumers.get(output, ())
        vectors = [
            name
            for reader in readers
            if len(readers) == 1 and reader.op == "Add" and output not in self.network.outputs
            for name in reader.inputs
            if name in self.network.weights and self.network.shapes[name] == values.shape
        ]
        if vectors:
            self._put(vectors[0], np.asarray(self._value(vectors[0]), np.float64) + values)
            return
        proto = self.protos[node.index]
        proto.output[0] = f"{output}/unshifted"
        added = helper.make_node(
            "Add", [proto.output[0], self._add(f"{output}/shift", values, node.inputs[1])], [output]
        )
        added.name = f"{output}/shifted"
        self._insert(node, [added])

    def _add_apart(self, node: Node, values: Array) -> None:
        """Add a vector to a normalization's result."""
        name = node.outputs[0]
        source = self._renamed(name, "unshifted")
        vector = self._add(f"{name}/shift", values, node.inputs[1])
        added = helper.make_node("Add", [source, vector], [name], name=f"{name}/shifted")
        self._insert(node, [added])

    def _spell(self, name: str, side: Side, stream: Stream) -> None:
        """Compute a tensor in the basis it was in from its rotated form, for an output or to write it to the stream."""
        node, width = self.network.producers[name], self.network.shapes[name][-1]
        inside = name in stream.inside
        source = self._renamed(name, "stream")
        for reader in () if inside else self.network.consumers.get(name, ()):
            other = self.protos[reader.index]
            other.input[:] = [source if given == name else given for given in other.input]
        scale = np.ones(width) if side.scale is None else side.scale
        writes = centering(width) if inside and stream.centered else np.eye(width)
        like = next(n for n, _ in stream.members)
        matrix = self._add(f"{name}/basis", scale[:, None] * writes, like)
        wanted = name if side.shift is None else f"{name}/unshifted"
        nodes = [helper.make_node("MatMul", [source, matrix], [wanted], name=f"{name}/spelled")]
        if side.shift is not None:
            vector = self._add(f"{name}/shift", writes @ side.shift, like)
            nodes.append(helper.make_node("Add", [wanted, vector], [name], name=f"{name}/shifted"))
        self._insert(node, nodes)

    def _renamed(self, name: str, suffix: str) -> str:
        """Let a tensor's producer write it under another name."""
        proto = self.protos[self.network.producers[name].index]
        proto.output[:] = [f"{name}/{suffix}" if output == name else output for output in proto.output]
        return f"{name}/{suffix}"

    def _insert(self, after: Node, nodes: Sequence[onnx.NodeProto]) -> None:
        every = self.model.graph.node
        place = next(i for i, proto in enumerate(every) if proto is self.protos[after.index])
        for i, node in enumerate(nodes, place + 1):
            every.insert(i, node)

    def _bypass(self, passed: Mapping[str, str]) -> None:
        for proto in self.model.graph.node:
            for i, name in enumerate(proto.input):
                while name in passed:
                    name = passed[name]
                proto.input[i] = name


def own_operands(model: onnx.ModelProto) -> None:
    """Give products that read a moved weight of others a weight of their own, in place: a tied table is read twice."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        name = node.input[0] if node.op_type == "Transpose" else ""
        if name in tensors and readers[name] > 1:
            order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
            put(graph.initializer.add(), np.transpose(array(tensors[name]), order), node.output[0])
            readers[name] -= 1
            node.op_type = ""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node if node.op_type]
    del graph.node[:]
    graph.node.extend(kept)
