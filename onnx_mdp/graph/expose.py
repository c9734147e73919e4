"""A model with more of its tensors as outputs, for statistics."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def exposed(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model with the given tensors as its only outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    del graph.value_info[:]
    return copy
