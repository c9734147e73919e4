"""Lossless rewrites that let every later stage see one form: weights are initializers, each with one use.

* Model-local functions are inlined, `Constant` nodes become initializers.
* What depends neither on data nor on a symbolic size is folded (`onnx_mdp.graph.fold`).
* Grids of transformed positions become products (`onnx_mdp.graph.affine`).
* A pick of all positions becomes a Reshape (`onnx_mdp.graph.whole`).
* What is computed from weights alone becomes a weight (`onnx_mdp.graph.precompute`).
* Packed projections are split before they are moved (`onnx_mdp.graph.unpack`).
* Sizes and scales that operators derive from a width are stated (`onnx_mdp.graph.explicit`).
* Initializers that are also graph inputs stop being inputs (a cut weight could not be overridden anyway).
* What exporters and optimizers store once for unrelated layers gets one copy per use (`onnx_mdp.graph.unshare`).
* Dense duplicates that are still equal in the result are merged again (`onnx_mdp.graph.edit`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from onnx_mdp.graph.affine import expand_grids
from onnx_mdp.graph.explicit import make_explicit
from onnx_mdp.graph.fold import fold
from onnx_mdp.graph.precompute import drop_aliases, drop_dead, precompute
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.graph.unpack import unpack
from onnx_mdp.graph.unshare import unshare
from onnx_mdp.graph.whole import reshape_whole_picks

_IR_OF_CONSTANTS = 4  # the first version of the format in which an initializer need not be an input


def normalize(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Bring the model into normal form, in place; the function it computes does not change.

    `asked` are the shapes of dynamic inputs, as for `onnx_mdp.graph.shapes.input_shapes`.
    """
    if model.functions:
        model.CopyFrom(inline_local_functions(model))
    _constants_to_initializers(model.graph)
    _drop_weight_inputs(model)
    drop_aliases(model.graph)
    fold(model, asked)
    _constants_to_initializers(model.graph)  # of branches that were inlined
    expand_grids(model, asked)
    reshape_whole_picks(model, asked)
    precompute(model.graph, next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1))
    unpack(model, asked)
    drop_dead(model.graph)
    make_explicit(model, asked)
    unshare(model.graph)


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


def _drop_weight_inputs(model: onnx.ModelProto) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, _IR_OF_CONSTANTS)
