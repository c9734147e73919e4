"""The tensors a model stores under a name of their own: its initializers, and what its `Constant` nodes hold."""

from __future__ import annotations

import onnx


def stored(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The model's own tensors by name, those of `Constant` nodes by the name of their output; changing one changes it.

    Subgraphs and model-local functions have names of their own, and are left out.
    """
    return {**{tensor.name: tensor for tensor in model.graph.initializer}, **constants(model.graph)}


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors in a graph's `Constant` nodes, by the name of their output."""
    return {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.attribute[0].name == "value"
    }
