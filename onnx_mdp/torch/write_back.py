"""Trained weights into the model they came from."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch

from onnx_mdp.errors import ModelError
from onnx_mdp.graph.stored import stored
from onnx_mdp.graph.weights import raw
from onnx_mdp.torch.module import OnnxModule
from onnx_mdp.torch.tensors import to_bytes

_VALUES = ("raw_data", "float_data", "double_data", "int32_data", "external_data", "data_location")


def write_back(model: onnx.ModelProto, module: OnnxModule) -> onnx.ModelProto:
    """A copy of the model with the module's weights and running statistics, each under its name and in its type.

    What the module did not change stays as it is stored, to the byte; so does the whole model without training.

    Raises:
        ModelError: the module was not made from this model.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensors = stored(result)
    state: Mapping[str, torch.Tensor] = module.state_dict(keep_vars=True)
    for name, key in module.keys.items():
        if name not in tensors or tuple(tensors[name].dims) != tuple(state[key].shape):
            raise ModelError(f"the model stores no {name!r} of shape {tuple(state[key].shape)}; was it changed since?")
        _put(tensors[name], to_bytes(state[key], tensors[name].data_type))
    return result


def _put(tensor: onnx.TensorProto, data: bytes) -> None:
    if raw(tensor).tobytes() == data:
        return
    for field in _VALUES:
        tensor.ClearField(field)
    tensor.raw_data = data
