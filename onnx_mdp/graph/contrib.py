"""ONNX Runtime's own operators, which ONNX has no schemas for: which they are, and the shapes of their outputs.

Most have the shapes of a standard operator on some of their inputs; the rest are given as formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_mdp.graph.shapes import Shape

DOMAIN = "com.microsoft"
# What ONNX Runtime's optimizer writes into the standard domain -> the first opset of ONNX's that has it, if one has.
_IN_STANDARD_DOMAIN = {"LayerNormalization": 17, "SimplifiedLayerNormalization": None}

# Operator -> the standard operator whose shapes its outputs have, and the inputs that one takes.
_LIKE: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        (
            *("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding"),
            *_IN_STANDARD_DOMAIN,
            *("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QuantizeLinear", "DequantizeLinear"),
        ),
        ("Identity", (0,)),
    ),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), ("Add", (0, 3))),
    "QGemm": ("Gemm", (0, 3)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
}
_SHAPING = {
    *("alpha", "auto_pad", "axis", "axes", "beta", "ceil_mode", "count_include_pad", "dilations", "group"),
    *("kernel_shape", "pads", "strides", "transA", "transB"),
}


def is_contrib(node: onnx.NodeProto, opset: int) -> bool:
    """Whether a node is one of ONNX Runtime's own, in a model of an opset of the standard domain."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _IN_STANDARD_DOMAIN:
        return node.domain == DOMAIN
    first = _IN_STANDARD_DOMAIN[node.op_type]
    return first is None or opset < first


def in_standard_domain(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of ONNX Runtime's own operators that stand in the standard domain, which has none of that name."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    return [node for node in _all_nodes(model.graph) if node.domain != DOMAIN and is_contrib(node, opset)]


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in (inner for attribute in node.attribute for inner in (attribute.g, *attribute.graphs)):
            yield from _all_nodes(inner)


def standard_form(node: onnx.NodeProto) -> onnx.NodeProto | None:
    """A node of the default domain whose first output has the shape of this one's, if there is one."""
    if node.op_type not in _LIKE:
        return None
    op, inputs = _LIKE[node.op_type]
    names = [node.input[i] for i in inputs if i < len(node.input)]
    plain = onnx.helper.make_node(op, names, node.output[:1])
    if op != "Identity":
        plain.attribute.extend(a for a in node.attribute if a.name in _SHAPING)
    return plain


def output_shapes(node: onnx.NodeProto, shapes: Sequence[Shape | None]) -> tuple[Shape | None, ...]:
    """The shapes of a node's outputs as far as a formula here gives them."""
    formula = _FORMULAS.get(node.op_type)
    if formula is None or any(shape is None for shape, name in zip(shapes, node.input, strict=True) if name):
        return ()
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return formula([shape or () for shape in shapes], attributes)


def output_type(node: onnx.NodeProto) -> int:
    """Which input has the element type of the first output."""
    if node.op_type == "QGemm" and len(node.input) < 9:
        return 1  # numbers, like its scales
    return {
        **dict.fromkeys(("EmbedLayerNormalization", "MatMulIntegerToFloat", "QLinearConcat", "QuantizeLinear"), 2),
        "DequantizeLinear": 1,
    }.get(node.op_type, 0)


def _attention(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    sizes = attributes.get("qkv_hidden_sizes")
    width = sizes[2] if sizes else shapes[1][1] // 3
    return ((*shapes[0][:2], width),)


def _multi_head_attention(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    if len(shapes) < 3 or len(shapes[0]) != 3 or len(shapes[2]) != 3:
        return ()
    return ((*shapes[0][:2], shapes[2][2]),)


def _group_query_attention(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    *lead, width = shapes[0]
    heads, keys = attributes["num_heads"], attributes["kv_num_heads"]
    return ((*lead, width if shapes[1] else width // (heads + 2 * keys) * heads),)


def _fused_matmul(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    left, right = (
        _plain_factor(shape, bool(attributes.get(f"trans{which}")), bool(attributes.get(f"transBatch{which}")))
        for shape, which in zip(shapes, "AB", strict=True)
    )
    lead = np.broadcast_shapes(left[:-2], right[:-2])
    return ((*lead, *left[-2:-1], *(right[-1:] if len(right) > 1 else ())),)


def _plain_factor(shape: Shape, swapped: bool, outermost: bool) -> Shape:
    """The shape of a matrix product's factor before it was transposed."""
    if outermost and len(shape) > 2:
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if swapped and len(shape) > 1 else shape


def _skip(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    statistics = (*shapes[0][:-1], 1)
    return (shapes[0], statistics, statistics, shapes[0])


def _embed(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    hidden = (*shapes[0], shapes[2][1])
    return (hidden, shapes[0][:1], hidden)


def _concat(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> tuple[Shape | None, ...]:
    parts, axis = shapes[2::3], attributes["axis"]
    axis %= len(parts[0])
    return ((*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :]),)


_FORMULAS: dict[str, Callable[[Sequence[Shape], Mapping[str, Any]], tuple[Shape | None, ...]]] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
    "GroupQueryAttention": _group_query_attention,
    "FusedMatMul": _fused_matmul,
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _skip),
    "EmbedLayerNormalization": _embed,
    "QLinearConcat": _concat,
}
