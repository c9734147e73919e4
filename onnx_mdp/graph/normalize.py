"""Lossless rewrites that let every later stage see one form: weights are initializers, each with one use.

* Model-local functions are inlined, `Constant` nodes become initializers.
* What depends neither on data nor on a symbolic size is folded (`onnx_mdp.graph.fold`).
* What is computed from weights alone becomes a weight (`onnx_mdp.graph.precompute`).
* Packed projections are split before they are moved (`onnx_mdp.graph.unpack`).
* Sizes and scales that operators derive from a width are stated (`onnx_mdp.graph.explicit`).
* Initializers that are also graph inputs stop being inputs (a cut weight could not be overridden anyway).
* A vector or an integer list with several uses gets one copy per use. Exporters merge equal biases of unrelated
  layers, and one shared shape list would tie every layer that reads it. Weights of two and more dimensions are
  only shared when a layer really is applied twice: they stay one, and their uses are tied.
* Likewise a shape list that is glued together from sizes: one for each Reshape or Expand that reads it.
* Dense duplicates that are still equal in the result are merged again (`onnx_mdp.graph.edit`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from onnx_mdp.graph.explicit import make_explicit
from onnx_mdp.graph.fold import fold
from onnx_mdp.graph.precompute import drop_aliases, drop_dead, precompute
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.graph.unpack import unpack

COPY_MARK = "::use"
INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}


def normalize(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Bring the model into normal form, in place; the function it computes does not change.

    `asked` are the shapes of dynamic inputs, as for `onnx_mdp.graph.shapes.input_shapes`.
    """
    if model.functions:
        model.CopyFrom(inline_local_functions(model))
    _constants_to_initializers(model.graph)
    _drop_weight_inputs(model.graph)
    drop_aliases(model.graph)
    fold(model, asked)
    _constants_to_initializers(model.graph)  # of branches that were inlined
    precompute(model.graph, next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1))
    unpack(model, asked)
    drop_dead(model.graph)
    make_explicit(model, asked)
    _copy_shape_lists(model.graph)
    _copy_shared(model.graph)


def original_name(name: str) -> str:
    """The input model's name of an initializer that may be a copy made here."""
    return name.split(COPY_MARK, 1)[0]


def is_copy(name: str) -> bool:
    """Whether the initializer is a copy made here."""
    return COPY_MARK in name


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        tensor = _constant_value(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    value = onnx.helper.get_attribute_value(node.attribute[0])
    match node.attribute[0].name:
        case "value":
            return onnx.TensorProto.FromString(value.SerializeToString())
        case "value_float" | "value_floats":
            return numpy_helper.from_array(np.asarray(value, np.float32))
        case "value_int" | "value_ints":
            return numpy_helper.from_array(np.asarray(value, np.int64))
        case _:
            return None


def _drop_weight_inputs(graph: onnx.GraphProto) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in weights]:
        graph.input.remove(value)


def _copy_shape_lists(graph: onnx.GraphProto) -> None:
    """Give every Reshape and Expand a shape list of its own where several read one that is glued together."""
    lists = {node.output[0]: node for node in graph.node if node.op_type == "Concat"}
    uses = Counter(name for node in graph.node for name in node.input if name in lists)
    seen: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        glue = lists.get(node.input[1]) if node.op_type in ("Reshape", "Expand") and len(node.input) > 1 else None
        if glue is not None and uses[glue.output[0]] > 1:
            name = glue.output[0]
            if seen[name]:
                copy = onnx.NodeProto.FromString(glue.SerializeToString())
                copy.output[0] = node.input[1] = f"{name}{COPY_MARK}{seen[name]}"
                copy.name = f"{glue.name or name}{COPY_MARK}{seen[name]}"
                nodes.append(copy)
            seen[name] += 1
        nodes.append(node)
    if len(nodes) > len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _copy_shared(graph: onnx.GraphProto) -> None:
    uses = Counter(name for node in graph.node for name in node.input)
    outputs = {value.name for value in graph.output}
    shared = {t.name: t for t in graph.initializer if uses[t.name] > 1 and _copied(t) and t.name not in outputs}
    seen: Counter[str] = Counter()
    copies = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name not in shared:
                continue
            if seen[name]:
                copy = onnx.TensorProto.FromString(shared[name].SerializeToString())
                copy.name = node.input[i] = f"{name}{COPY_MARK}{seen[name]}"
                copies.append(copy)
            seen[name] += 1
    graph.initializer.extend(copies)


def _copied(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) == 1 and (tensor.data_type in INTEGERS or tensor.dims[0] > 1)
