"""Names for the nodes of a graph that a runtime has optimized, so that its profile can be read."""

from __future__ import annotations

import onnx

Named = dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]


def name_nodes(model: bytes) -> tuple[bytes, Named]:
    """The model with unique node names, and by that name operator, inputs, and outputs with the old name."""
    proto = onnx.load_from_string(model)
    named: Named = {}
    for index, node in enumerate(proto.graph.node):
        unique = f"node_{index}"
        named[unique] = (node.op_type, tuple(node.input), (*node.output, node.name.removesuffix("_nchwc")))
        node.name = unique
    return proto.SerializeToString(), named
