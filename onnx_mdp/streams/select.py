"""Lets units of a normalized axis go one by one: normalizations are spelled out over the units that are marked.

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

from onnx_mdp.axes.terms import Factor, leaves
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import array, put
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.streams.bridge import outer_name, shows
from onnx_mdp.streams.operators import place_of
from onnx_mdp.streams.stream import CENTERING

Selected = Mapping[str, onnx.NodeProto]  # the result of a normalization -> the operator that it is
_SPELLED = "/selected/"
_EPSILON = 1e-5  # where the operator has none
_LEAST_OPSET = 13  # sums take their axes as an input from then on
_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)  # statistics are computed in single precision


def selectable(coupling: Coupling) -> dict[Factor, tuple[Node, ...]]:
    """The axes that nothing but normalizations over them lock, and outputs that show them, with the normalizations."""
    norms = [node for node in coupling.network.nodes if _can_be_spelled(coupling.network, node)]
    places = {place_of(node) for node in norms}
    found: dict[Factor, tuple[Node, ...]] = {}
    for node in norms:
        for leaf in dict.fromkeys(leaves(coupling.axes[node.inputs[0]][-1])):
            reasons = {freeze.node for freeze in coupling.frozen.get(leaf, ())} - places
            if leaf.size > 1 and leaf in coupling.members and all(shows(coupling, leaf, name) for name in reasons):
                found[leaf] = (*found.get(leaf, ()), node)
    return found


def shown(coupling: Coupling, results: Collection[str]) -> set[str]:
    """The outputs that show axes which these normalizations run over."""
    chosen = [
        factor
        for factor, norms in selectable(coupling).items()
        if not {node.outputs[0] for node in norms}.isdisjoint(results)
    ]
    return {name for name in coupling.network.outputs if any(shows(coupling, factor, name) for factor in chosen)}


def _can_be_spelled(network: Network, node: Node) -> bool:
    rank = len(network.shapes.get(node.inputs[0], ()))
    last = node.attributes.get("axis", -1) in (-1, rank - 1)
    plain = node.op == CENTERING and node.domain == "ai.onnx" and not any(node.outputs[1:])
    recent = network.opsets["ai.onnx"] >= _LEAST_OPSET
    return plain and rank > 0 and last and recent and network.is_float_weight(node.inputs[1])


def units_of(result: str) -> str:
    """The weight that marks the units of a normalization."""
    return f"{result}{_SPELLED}units"


def spell(model: onnx.ModelProto, network: Network, results: Collection[str]) -> Selected:
    """Spell normalizations out in place; those operators, by their results.

    Args:
        model: has the normalizations of `network`, behind a matrix or not; what they read may have other names.
        network: to take types and sizes from.
        results: which normalizations.
    """
    found: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        name = outer_name(node.output[0])
        if name in results and node.op_type == CENTERING:
            source = network.producers[name].inputs[0]
            found[name] = onnx.NodeProto.FromString(node.SerializeToString())
            nodes += _Spelling(model, node).nodes(network.shapes[source][-1], network.types[source])
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    if found:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return found


class _Spelling:
    """Writes one normalization out, step by step."""

    def __init__(self, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
        self._model = model
        self._node = node
        self._stem = f"{outer_name(node.output[0])}{_SPELLED}"
        self._made: list[onnx.NodeProto] = []

    def nodes(self, width: int, elem: int) -> list[onnx.NodeProto]:
        """What computes the same where all units are marked."""
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
        return self._made

    def _step(self, op: str, what: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._stem}{what}"
        self._made.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _sum(self, what: str, name: str) -> str:
        return self._step("ReduceSum", what, name, self._weight(f"{what}/last", np.array([-1])), keepdims=1)

    def _weight(self, what: str, values: Any) -> str:
        name = f"{self._stem}{what}"
        put(self._model.graph.initializer.add(), values, name)
        return name


def is_spelled(model: onnx.ModelProto, selected: Selected) -> bool:
    """Whether some of the normalizations are spelled out in a model."""
    return any(node.output[0].partition(_SPELLED)[0] in selected for node in model.graph.node if _is_step(node))


def gather(model: onnx.ModelProto, selected: Selected) -> None:
    """Make normalizations operators again in place; all other steps of them become copies of a weight."""
    inputs = {node.output[0]: list(node.input) for node in model.graph.node}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for names in inputs.values() for name in names)
    for node in model.graph.node:
        name = node.output[0]
        stem = f"{outer_name(name).partition(_SPELLED)[0]}{_SPELLED}"
        if not _is_step(node) and any(given.startswith(stem) for given in node.input) and f"{stem}parts" in inputs:
            node.CopyFrom(selected[outer_name(name)])
            node.output[0] = name
            node.input[:] = _operands(stem, inputs[name][1], inputs)
            size, units = (tensors[inputs[f"{stem}{what}"][1]] for what in ("variance", "parts"))
            share = float(array(size)) / units.dims[0]
            if share != 1:
                scale = model.graph.initializer.add() if uses[node.input[1]] > 1 else tensors[node.input[1]]
                _correct(node, array(tensors[node.input[1]]), scale, share)
        elif _is_step(node):
            node.CopyFrom(helper.make_node("Identity", [inputs[f"{stem}parts"][1]], [name], name))


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


def _operands(stem: str, last: str, inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """What a normalization reads that is spelled out, by what its steps read; `last` is what the last of them reads."""
    source = inputs.get(f"{stem}wide", inputs[f"{stem}parts"])[0]
    scaled = inputs.get(f"{stem}scaled")
    return [source, scaled[1], last] if scaled else [source, last]
