"""A residual network of matrix products whose weights are written to a file one by one, as large as one likes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

DATA = "weights.bin"


def write_mlp(folder: Path, width: int, hidden: int, blocks: int) -> Path:
    """Writes `m.onnx` and its data: blocks x + V relu(W x + b). Only one weight is in memory at a time."""
    rng = np.random.default_rng(0)
    nodes, weights, stream = [], [], "x"
    with (folder / DATA).open("wb") as file:

        def weight(name: str, *shape: int) -> str:
            values = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
            place = {"location": DATA, "offset": file.tell(), "length": values.nbytes}
            tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            file.write(values.data)
            return name

        for i in range(blocks):
            nodes += [
                helper.make_node("MatMul", [stream, weight(f"{i}.up", width, hidden)], [f"{i}.wide"]),
                helper.make_node("Add", [f"{i}.wide", weight(f"{i}.bias", hidden)], [f"{i}.biased"]),
                helper.make_node("Relu", [f"{i}.biased"], [f"{i}.active"]),
                helper.make_node("MatMul", [f"{i}.active", weight(f"{i}.down", hidden, width)], [f"{i}.branch"]),
                helper.make_node("Add", [stream, f"{i}.branch"], [f"{i}.sum"], name=f"{i}.add"),
            ]
            stream = f"{i}.sum"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", stream)]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"
