"""Rewriting a model through onnx-graphsurgeon: slice weights, set integers, bypass tensors, drop what is dead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.unshare import is_copy, original_name
from onnx_mdp.graph.weights import array, put, with_weights

G_LOGGER.severity = G_LOGGER.ERROR


@dataclass(frozen=True)
class Edits:
    """What to change in a normalized model.

    slices      initializer -> axis -> kept positions, ascending
    values      initializer -> flat index -> new integer
    attributes  node index -> attribute -> new value
    bypasses    tensor -> the tensor its readers take instead
    scales      tensor -> the scalar its values are multiplied with, in the tensor's type
    """

    slices: Mapping[str, Mapping[int, NDArray[np.int64]]] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    attributes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    bypasses: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, Array] = field(default_factory=dict)


def rewrite(model: onnx.ModelProto, edits: Edits) -> onnx.ModelProto:
    """A new model with the edits made and everything dead removed; all else is kept as it was."""
    graph = gs.import_onnx(model)
    nodes = list(graph.nodes)
    tensors = graph.tensors()
    for index, attributes in edits.attributes.items():
        nodes[index].attrs.update(attributes)
    for name, value in edits.bypasses.items():
        _bypass(graph, tensors[name], tensors[value])
    graph.cleanup(remove_unused_graph_inputs=False)
    alive = graph.tensors()
    heavy = _set_aside(model, edits, alive)
    for name, cuts in edits.slices.items():
        if name in alive and name not in heavy:
            alive[name].values = sliced(alive[name].values, cuts)
    for name, elements in edits.values.items():
        if name in alive:
            values = np.array(alive[name].values)
            values.reshape(-1)[list(elements)] = list(elements.values())
            alive[name].values = values
    for name, scale in edits.scales.items():
        if name in alive and name not in heavy:
            _scale(graph, alive[name], scale)
    _merge_copies(alive)
    for tensor in alive.values():
        if isinstance(tensor, gs.Variable) and tensor not in graph.outputs and tensor not in graph.inputs:
            tensor.shape = tensor.dtype = None
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    result = _restored(gs.export_onnx(graph), model, set(edits.attributes))
    for tensor in result.graph.initializer:
        if tensor.name in heavy:
            put(tensor, _edited(heavy[tensor.name], edits), tensor.name)
    return result


def _set_aside(model: onnx.ModelProto, edits: Edits, alive: Mapping[str, gs.Tensor]) -> dict[str, onnx.TensorProto]:
    """The weights of two and more dimensions that change; the graph gets empty ones in their place.

    Graphsurgeon holds several copies of a weight that it is given, and does not read weights that lie in files. The
    copies `normalize` made are small, and are compared when they are cut: the graph holds all of them.
    """
    copied = _copied(alive)
    changed = {*edits.slices, *edits.scales} - set(edits.values)
    heavy: dict[str, onnx.TensorProto] = {}
    for tensor in (tensor for tensor in model.graph.initializer if tensor.name in alive):
        if original_name(tensor.name) in copied:
            alive[tensor.name].values, alive[tensor.name].data_location = array(tensor), None
        elif len(tensor.dims) > 1 and tensor.name in changed:
            heavy[tensor.name] = tensor
            alive[tensor.name].values = np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return heavy


def _edited(tensor: onnx.TensorProto, edits: Edits) -> Array:
    values = sliced(array(tensor), edits.slices.get(tensor.name, {}))
    return values * edits.scales[tensor.name] if tensor.name in edits.scales else values


def sliced(values: Array, cuts: Mapping[int, NDArray[np.int64]]) -> Array:
    """The array cut along several axes."""
    for axis, kept in cuts.items():
        values = np.take(values, kept, axis=axis)
    return np.ascontiguousarray(values)


def masked(
    model: onnx.ModelProto,
    slices: Mapping[str, Mapping[int, NDArray[np.int64]]],
    zeroed: Iterable[str],
    zeros: Mapping[str, Array],
) -> onnx.ModelProto:
    """A copy of the model with every dropped position of the slices set to zero, and all of the `zeroed` weights.

    `zeros` holds, for weights stored as codes, the codes of zero.
    """
    silent = set(zeroed)
    copy = with_weights(model, ())
    for tensor in model.graph.initializer:
        added = copy.graph.initializer.add()
        if tensor.name not in silent and tensor.name not in slices:
            added.CopyFrom(tensor)
            continue
        values, zero = array(tensor), zeros.get(tensor.name)
        cuts = {0: np.empty(0, np.int64)} if tensor.name in silent else slices[tensor.name]
        put(added, zeroed_outside(values, cuts, zero), tensor.name)
    return copy


def zeroed_outside(values: Array, cuts: Mapping[int, NDArray[np.int64]], zero: Array | None = None) -> Array:
    """A copy of the array with zero, or the codes of zero, at every position that is not kept."""
    result = np.array(values)
    zero = np.broadcast_to(np.zeros((), values.dtype) if zero is None else zero, values.shape)
    for axis, kept in cuts.items():
        dropped = np.setdiff1d(np.arange(values.shape[axis]), kept)
        place = (slice(None),) * axis + (dropped,)
        result[place] = zero[place]
    return result


def _bypass(graph: gs.Graph, tensor: gs.Tensor, replacement: gs.Tensor) -> None:
    for node in list(tensor.outputs):
        node.inputs = [replacement if value is tensor else value for value in node.inputs]
    if any(output is tensor for output in graph.outputs):
        tensor.inputs.clear()
        graph.nodes.append(gs.Node("Identity", f"{tensor.name}/bypass", inputs=[replacement], outputs=[tensor]))


def _scale(graph: gs.Graph, tensor: gs.Tensor, scale: Array) -> None:
    """Multiply a weight in place, and anything else by one more node."""
    if isinstance(tensor, gs.Constant):
        tensor.values = tensor.values * scale
        return
    producer, raw = tensor.inputs[0], gs.Variable(f"{tensor.name}/unscaled")
    producer.outputs = [raw if output is tensor else output for output in producer.outputs]
    factor = gs.Constant(f"{tensor.name}/scale", scale)
    graph.nodes.append(gs.Node("Mul", f"{tensor.name}/scaled", inputs=[raw, factor], outputs=[tensor]))


def _merge_copies(tensors: Mapping[str, gs.Tensor]) -> None:
    """Undo the copies `normalize` made of shared initializers wherever the cut left them equal."""
    copied = _copied(tensors)
    first: dict[tuple[str, tuple[int, ...], bytes], gs.Tensor] = {}
    for name, tensor in tensors.items():
        origin = original_name(name)
        if origin not in copied or not isinstance(tensor, gs.Constant):
            continue
        kept = first.setdefault((origin, tensor.values.shape, tensor.values.tobytes()), tensor)
        if origin not in tensors and not any(other.name == origin for other in first.values()):
            kept.name = origin
        if kept is not tensor:
            for node in list(tensor.outputs):
                node.inputs = [kept if value is tensor else value for value in node.inputs]


def _copied(names: Iterable[str]) -> set[str]:
    """The initializers that `normalize` made copies of, by their original names."""
    return {original_name(name) for name in names if is_copy(name)}


def _restored(exported: onnx.ModelProto, source: onnx.ModelProto, resized: set[int]) -> onnx.ModelProto:
    """The exported model with everything graphsurgeon does not carry taken from the source."""
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        setattr(exported, name, getattr(source, name))
    fields: list[tuple[Any, Any]] = [
        (exported.metadata_props, source.metadata_props),
        (exported.functions, source.functions),
        (exported.opset_import, source.opset_import),
        (exported.graph.input, source.graph.input),
        (exported.graph.output, source.graph.output),
        (exported.graph.metadata_props, source.graph.metadata_props),
    ]
    for target, origin in fields:
        del target[:]
        target.extend(origin)
    exported.graph.doc_string = source.graph.doc_string
    origins = {(node.op_type, node.output[0]): (i, node) for i, node in enumerate(source.graph.node) if node.output}
    for node in exported.graph.node:
        if node.output and (node.op_type, node.output[0]) in origins:
            index, before = origins[node.op_type, node.output[0]]
            node.doc_string = before.doc_string
            node.metadata_props.extend(before.metadata_props)
            if index not in resized and not any(a.type in (5, 10) for a in before.attribute):
                del node.attribute[:]
                node.attribute.extend(before.attribute)
    return exported
