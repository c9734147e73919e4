"""Spells normalizations out over units that are marked, so that single units can go, and makes operators of them again.

A LayerNormalization takes its mean and its variance over all units, so that without some of them it computes something
else. Spelled out, the mean is a sum divided by a count, and every unit has a mark of one in a weight of its own: where
the marks of some units are zero, the mean is that of the others, from which these units do not deviate. A cut takes
the units and their marks away, which is exactly that. The sum of squared deviations is still divided by the number of
all units: what stays is then as much larger as makes up for what is gone in the sums that read it, which is better than
a variance of what stays where nothing is fitted anew. That factor goes into the scale of the operator that is left.
It is the model's own function only as far as the statistics of the units that stay are those of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_mdp.graph.network import Network
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import array, put
from onnx_mdp.streams.bridge import outer_name
from onnx_mdp.streams.stream import CENTERING

Selected = Mapping[str, onnx.NodeProto]  # by its result, the operator that is spelled out
_SPELLED = "/selected/"
_EPSILON = 1e-5  # where the operator has none
_AXES_READ = 13  # the opset from which on sums read their axes
_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)  # statistics are computed in single precision


def units_of(result: str) -> str:
    """The weight that marks the units of a normalization."""
    return f"{result}{_SPELLED}units"


def spell(model: onnx.ModelProto, network: Network, results: Collection[str]) -> Selected:
    """Spell operators out in place: normalizations, and means that are subtracted; those operators, by their results.

    Args:
        model: has the operators of `network`, behind a matrix or not; what they read may have other names.
        network: to take types and sizes from.
        results: of the operators.
    """
    found: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        name = outer_name(node.output[0])
        if name in results and node.op_type in (CENTERING, "ReduceMean"):
            source = network.producers[name].inputs[0]
            found[name] = onnx.NodeProto.FromString(node.SerializeToString())
            spelling = _Spelling(model, node, network.opsets["ai.onnx"])
            nodes += spelling.nodes(network.shapes[source][-1], network.types[source])
            continue
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        if node.op_type == "Sub" and node.input[1] in found:
            nodes[-1].input[:] = [f"{node.input[1]}{_SPELLED}{what}" for what in ("parts", "means")]
    if found:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return found


class _Spelling:
    """Writes one normalization out, step by step."""

    def __init__(self, model: onnx.ModelProto, node: onnx.NodeProto, opset: int) -> None:
        self._model = model
        self._node = node
        self._opset = opset
        self._stem = f"{outer_name(node.output[0])}{_SPELLED}"
        self._made: list[onnx.NodeProto] = []

    def nodes(self, width: int, elem: int) -> list[onnx.NodeProto]:
        """What computes the same where all units are marked."""
        if self._node.op_type == CENTERING:
            self._normalization(width, elem)
        else:
            self._mean(width, elem)
        return self._made

    def _mean(self, width: int, elem: int) -> None:
        """A mean, and what is subtracted in its stead."""
        node, units = self._node, self._weight("units", np.ones(width, helper.tensor_dtype_to_np_dtype(elem)))
        total = self._sum("total", self._step("Mul", "parts", node.input[0], units), *node.input[1:])
        self._step("Div", "mean", total, self._sum("count", units))
        self._made[-1].output[0], self._made[-1].name = node.output[0], node.name
        self._step("Mul", "means", node.output[0], units)

    def _normalization(self, width: int, elem: int) -> None:
        x, node, wide = self._node.input[0], self._node, TensorProto.FLOAT if elem in _NARROW else elem
        if wide != elem:
            x = self._step("Cast", "wide", x, to=wide)
        kind = helper.tensor_dtype_to_np_dtype(wide)
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), _EPSILON)
        units = self._weight("units", np.ones(width, kind))
        parts = self._step("Mul", "parts", x, units)
        count = self._sum("count", units)
        mean = self._step("Div", "mean", self._sum("total", parts), count)
        centered = self._step("Sub", "centered", parts, self._step("Mul", "means", mean, units))
        squares = self._step("Mul", "squares", centered, centered)
        size = self._weight("size", np.asarray(width, kind))
        variance = self._step("Div", "variance", self._sum("square", squares), size)
        raised = self._step("Add", "raised", variance, self._weight("epsilon", np.asarray(epsilon, kind)))
        y = self._step("Div", "normalized", centered, self._step("Sqrt", "root", raised))
        if wide != elem:
            y = self._step("Cast", "narrow", y, to=elem)
        for op, what, name in zip(("Mul", "Add"), ("scaled", "shifted"), node.input[1:], strict=False):
            y = self._step(op, what, y, name) if name else y
        self._made[-1].output[0], self._made[-1].name = node.output[0], node.name

    def _step(self, op: str, what: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._stem}{what}"
        self._made.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _sum(self, what: str, name: str, *axes: str) -> str:
        if self._opset < _AXES_READ:
            return self._step("ReduceSum", what, name, axes=[-1], keepdims=1)
        read = axes or (self._weight(f"{what}/last", np.array([-1])),)
        return self._step("ReduceSum", what, name, *read, keepdims=1)

    def _weight(self, what: str, values: Any) -> str:
        name = f"{self._stem}{what}"
        put(self._model.graph.initializer.add(), values, name)
        return name


def is_spelled(model: onnx.ModelProto, selected: Selected) -> bool:
    """Whether some of the normalizations are spelled out in a model."""
    return any(node.output[0].partition(_SPELLED)[0] in selected for node in model.graph.node if _is_step(node))


def gather(model: onnx.ModelProto, selected: Selected) -> None:
    """Make operators again of what is spelled out, in place; all other steps become copies of a weight."""
    inputs = {node.output[0]: list(node.input) for node in model.graph.node}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for names in inputs.values() for name in names)
    for node in model.graph.node:
        name = node.output[0]
        stem = f"{outer_name(name).partition(_SPELLED)[0]}{_SPELLED}"
        if _is_step(node):
            node.CopyFrom(helper.make_node("Identity", [inputs[f"{stem}parts"][1]], [name], name))
        elif node.op_type == "Sub" and node.input[1].endswith(f"{_SPELLED}means"):
            node.input[:] = [inputs[node.input[0]][0], node.input[1].partition(_SPELLED)[0]]
        elif f"{stem}parts" in inputs and any(given.startswith(stem) for given in node.input):
            _restore(node, selected[outer_name(name)], stem, inputs)
            share = _share(stem, inputs, tensors)
            if share != 1:
                scale = model.graph.initializer.add() if uses[node.input[1]] > 1 else tensors[node.input[1]]
                _correct(node, array(tensors[node.input[1]]), scale, share)


def _restore(node: onnx.NodeProto, operator: onnx.NodeProto, stem: str, inputs: Mapping[str, Sequence[str]]) -> None:
    """Make the last step of an operator that operator again."""
    result, last = node.output[0], node.input[1]
    node.CopyFrom(operator)
    node.output[0] = result
    source = inputs.get(f"{stem}wide", inputs[f"{stem}parts"])[0]
    if node.op_type == CENTERING:
        scaled = inputs.get(f"{stem}scaled")
        node.input[:] = [source, scaled[1], last] if scaled else [source, last]
    else:
        node.input[0] = source


def _share(stem: str, inputs: Mapping[str, Sequence[str]], tensors: Mapping[str, onnx.TensorProto]) -> float:
    """What a sum over all units is divided by, relative to what the operator divides by."""
    if f"{stem}variance" not in inputs:
        return 1.0  # a mean is of what stays
    size, units = (tensors[inputs[f"{stem}{what}"][1]] for what in ("variance", "parts"))
    return float(array(size)) / units.dims[0]


def _correct(node: onnx.NodeProto, values: Array, scale: onnx.TensorProto, share: float) -> None:
    """Divide by the number of all units under the root, not by that of the units that stay.

    The scale is stored in a new tensor where others read it too.
    """
    node.input[1] = scale.name or f"{node.output[0]}/scale"
    put(scale, np.asarray(values * np.sqrt(share), values.dtype), node.input[1])
    epsilon = next((a for a in node.attribute if a.name == "epsilon"), None)
    if epsilon is None:
        epsilon = node.attribute.add()
        epsilon.CopyFrom(helper.make_attribute("epsilon", _EPSILON))
    epsilon.f *= share


def _is_step(node: onnx.NodeProto) -> bool:
    return _SPELLED in node.output[0]
