"""A model as a module of PyTorch, whose parameters are its weights under their own names.

Trained is every float tensor that the model stores and that a gradient reaches through an operator's operand, but for
what is plainly no weight: outside of a layer's own operands single numbers (the 0.5 of a GELU) and tables of different
whole numbers (masks, anchors, positions), and running statistics everywhere. Those are buffers, and so are tables of
other types; running statistics alone are part of the `state_dict` beside the parameters. Vectors and single numbers of
integers, and whatever operators read as numbers of Python, are the graph's structure: they belong to neither, and stay
in host memory wherever the module goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
import torch
from onnx.inliner import inline_local_functions

from onnx_mdp.errors import InputError, UnknownNameError
from onnx_mdp.graph.stored import stored
from onnx_mdp.graph.weights import FLOATS
from onnx_mdp.torch.body import Body, prepare, run
from onnx_mdp.torch.names import state_keys
from onnx_mdp.torch.operators import Operator
from onnx_mdp.torch.tensors import DTYPES, to_torch

_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


class OnnxModule(torch.nn.Module):
    """A graph that runs in PyTorch; made by `to_module`.

    Attributes:
        inputs: names of the graph's inputs, in order.
        outputs: names of its outputs.
        keys: the key in the `state_dict` of every parameter and running statistic, by the name of its initializer.
    """

    def __init__(self, body: Body, whole: Mapping[str, torch.dtype]) -> None:
        super().__init__()
        self.inputs, self.outputs = body.inputs, body.outputs
        self.keys: dict[str, str] = {}
        self._body, self._whole = body, whole
        self._places: dict[str, tuple[torch.nn.Module, str]] = {}

    def forward(self, feeds: Mapping[str, torch.Tensor] | torch.Tensor, *more: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name, from inputs by name, or one by one in the graph's order."""
        given = dict(feeds) if isinstance(feeds, Mapping) else dict(zip(self.inputs, (feeds, *more), strict=False))
        if missing := [name for name in self.inputs if name not in given]:
            raise InputError(f"input {missing[0]!r} is not given; the model takes {', '.join(self.inputs)}")
        held = {name: getattr(module, leaf) for name, (module, leaf) in self._places.items()}
        found = run(self._body, {**held, **given}, self.training)
        return {name: self._typed(name, values) for name, values in zip(self.outputs, found, strict=True)}

    def _typed(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Codes are held as floating point numbers inside of the graph, see `onnx_mdp.torch.operators.quantized`."""
        dtype = self._whole.get(name, values.dtype)
        return values.to(dtype) if values.is_floating_point() else values

    def _hold(self, name: str, key: str, values: torch.Tensor, kind: str) -> None:
        *steps, leaf = key.split(".")
        module: torch.nn.Module = self
        for step in steps:
            if step not in dict(module.named_children()):
                module.add_module(step, torch.nn.Module())
            module = module.get_submodule(step)
        if kind == "weight":
            module.register_parameter(leaf, torch.nn.Parameter(values))
        else:
            module.register_buffer(leaf, values, persistent=kind == "statistic")
        if kind != "constant":
            self.keys[name] = key
        self._places[name] = module, leaf


def to_module(model: onnx.ModelProto, *, trainable: Collection[str] = ()) -> OnnxModule:
    """The model as a module, in evaluation mode; it shares no memory with the model.

    `trainable` names float tensors to train that would be taken for constants; to leave others as they are, let their
    parameter require no gradient.

    Raises:
        ModelError: an operator or a type has no form in PyTorch here.
        UnknownNameError: the model stores no float tensor of a name in `trainable`.
    """
    tensors = stored(model)
    floats = {name for name, tensor in tensors.items() if tensor.data_type in FLOATS}
    if unknown := sorted(set(trainable) - floats):
        raise UnknownNameError(f"trainable: the model stores no float tensor named {unknown[0]!r}")
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    graph = (inline_local_functions(model) if model.functions else model).graph
    held = frozenset(name for name, tensor in tensors.items() if not _is_structure(tensor))
    body = prepare(graph, opsets, held)
    readers: dict[str, list[tuple[Operator, int]]] = {}
    for name, operator, position in body.readers():
        readers.setdefault(name, []).append((operator, position))
    module = OnnxModule(body, _whole_outputs(graph))
    keys = state_keys(held)
    for name in (name for name in tensors if name in held):
        values, reads = to_torch(tensors[name]), readers.get(name, [])
        if name not in trainable and all(position in operator.host for operator, position in reads):
            body.literals[name] = values
            continue
        kind = "weight" if name in trainable else _kind(values, reads, name in floats)
        module._hold(name, keys[name], values, kind)
    module.eval()
    return module


def _whole_outputs(graph: onnx.GraphProto) -> dict[str, torch.dtype]:
    """The types of the outputs that are integers."""
    types = {value.name: DTYPES.get(value.type.tensor_type.elem_type, torch.float32) for value in graph.output}
    return {name: dtype for name, dtype in types.items() if not dtype.is_floating_point and dtype != torch.bool}


def _is_structure(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in _INTEGERS and len(tensor.dims) < 2


def _kind(values: torch.Tensor, readers: Collection[tuple[Operator, int]], is_float: bool) -> str:
    """What a stored tensor is by its values and by the operands that it is: weight, statistic or constant."""
    if any(position in operator.statistics for operator, position in readers):
        return "statistic"
    if any(position in operator.weights for operator, position in readers):
        return "weight" if is_float else "constant"
    reached = any(operator.trains(position) for operator, position in readers)
    return "weight" if is_float and reached and values.numel() > 1 and not _is_table(values) else "constant"


def _is_table(values: torch.Tensor) -> bool:
    return bool((values == values.round()).all() and values.min() != values.max())
