"""States what operators leave to a default that depends on a size: a cut then changes the size and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_mdp.graph.infer import Facts, infer
from onnx_mdp.graph.shapes import Shape, input_shapes


def make_explicit(model: onnx.ModelProto, asked: Mapping[str, Shape]) -> None:
    """Give every Split its sizes and every fused attention its scale and widths, in place."""
    pending = [node for node in model.graph.node if _is_implicit(node)]
    if not pending:
        return
    facts = infer(model, input_shapes(model.graph, asked))
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
    for node in pending:
        if all(name in facts.shapes for name in (*node.input, *node.output) if name):
            _FORMS[node.op_type](model.graph, node, facts, opsets.get("", 1))


def _is_implicit(node: onnx.NodeProto) -> bool:
    present = {attribute.name for attribute in node.attribute}
    if node.op_type == "Split" and node.domain in ("", "ai.onnx"):
        return "split" not in present and len([name for name in node.input if name]) < 2
    if node.domain == "com.microsoft" and any(a.name == "scale" and a.f == 0 for a in node.attribute):
        present.discard("scale")  # there zero stands for the default
    return node.op_type in _FORMS and node.op_type != "Split" and "scale" not in present


def _split(graph: onnx.GraphProto, node: onnx.NodeProto, facts: Facts, opset: int) -> None:
    """Equal parts are no tie between them: each gets a size of its own."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    sizes = [facts.shapes[name][axis] for name in node.output]
    kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)
    if opset < 13:
        node.attribute.append(onnx.helper.make_attribute("split", sizes))
        return
    name = f"{node.output[0]}/split"
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    node.input[:] = [node.input[0], name]


def _attention(graph: onnx.GraphProto, node: onnx.NodeProto, facts: Facts, opset: int) -> None:
    """The scale is one over the root of a head's width."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.domain == "com.microsoft":
        hidden = facts.shapes[node.input[1]][1]
        sizes = attributes.get("qkv_hidden_sizes") or [hidden // 3] * 3
        if "qkv_hidden_sizes" not in attributes:
            node.attribute.append(onnx.helper.make_attribute("qkv_hidden_sizes", sizes))
        width = sizes[0] // attributes["num_heads"]
    else:
        query = facts.shapes[node.input[0]]
        width = query[-1] if len(query) == 4 else query[-1] // attributes.get("q_num_heads", 1)
    _set_scale(node, width)


def _multi_head_attention(graph: onnx.GraphProto, node: onnx.NodeProto, facts: Facts, opset: int) -> None:
    heads = next(a.i for a in node.attribute if a.name == "num_heads")
    shape = facts.shapes[node.input[0]]
    width = shape[-1] // heads if len(shape) == 3 else shape[-1]
    _set_scale(node, width)


def _set_scale(node: onnx.NodeProto, width: int) -> None:
    for attribute in [a for a in node.attribute if a.name == "scale"]:
        node.attribute.remove(attribute)
    node.attribute.append(onnx.helper.make_attribute("scale", 1 / math.sqrt(width)))


_FORMS: dict[str, Callable[[onnx.GraphProto, onnx.NodeProto, Facts, int], None]] = {
    "Split": _split,
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
}
