"""A graph made ready to run in PyTorch, node by node, and the running of it.

Vectors and single numbers of integers stay in host memory: most are sizes, and all that reads them is Python. Where a
node gets some of its inputs from there and some from an accelerator, they are brought together there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
import torch

from onnx_mdp.errors import ModelError
from onnx_mdp.graph.network import Node, read_node
from onnx_mdp.graph.stored import constants
from onnx_mdp.torch.operators import Call, Operator, find_operator
from onnx_mdp.torch.tensors import to_torch

Values = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """A node with its function and its subgraphs.

    Attributes:
        last: the tensors that nothing reads after it.
        trains: whether it differs while training; not if its running statistics are not its own.
    """

    node: Node
    operator: Operator
    opset: int
    bodies: Mapping[str, Body]
    last: tuple[str, ...]
    trains: bool


@dataclass(frozen=True, eq=False)
class Body:
    """A graph: its nodes in order, and tensors stored in it that are not for training."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    literals: Values
    steps: tuple[Step, ...]

    def readers(self) -> Iterator[tuple[str, Operator, int]]:
        """Every tensor a node reads, in subgraphs as well, with the node's operator and the input's position."""
        for step in self.steps:
            yield from ((name, step.operator, i) for i, name in enumerate(step.node.inputs) if name)
            for body in step.bodies.values():
                yield from body.readers()


def prepare(graph: onnx.GraphProto, opsets: Mapping[str, int], held: frozenset[str] = frozenset()) -> Body:
    """A graph as it is run; tensors in `held` are given to every run, and not stored in it.

    Raises:
        ModelError: an operator has no form in PyTorch here.
    """
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"sparse initializer {name!r}: not supported in PyTorch; store it as a dense one")
    own = {**{tensor.name: tensor for tensor in graph.initializer}, **constants(graph)}
    nodes = [read_node(i, node) for i, node in enumerate(graph.node) if not {*node.output} & own.keys()]
    inputs = tuple(value.name for value in graph.input if value.name not in own)
    outputs = tuple(value.name for value in graph.output)
    literals = {name: to_torch(tensor) for name, tensor in own.items() if name not in held}
    last = _last_reads(nodes, {*outputs, *inputs, *own})
    reads = Counter(name for node in nodes for name in (*node.inputs, *node.captured))
    once = {name for name in held if reads[name] == 1}
    steps = (_step(node, opsets, names, once) for node, names in zip(nodes, last, strict=True))
    return Body(inputs, outputs, literals, tuple(steps))


def _step(node: Node, opsets: Mapping[str, int], last: tuple[str, ...], once: Collection[str]) -> Step:
    opset = opsets.get(node.domain, 1)
    found = find_operator(node.domain, node.op, opset)
    if found is None:
        name = node.op if node.domain == "ai.onnx" else f"{node.domain}.{node.op}"
        raise ModelError(
            f"node {node.name!r}: operator {name} of opset {opset} has no form in PyTorch here; train the model "
            "in the framework it came from, where onnx_mdp.torch.apply_plan makes the same cut"
        )
    graphs = {key: value for key, value in node.attributes.items() if isinstance(value, onnx.GraphProto)}
    bodies = {key: prepare(graph, opsets) for key, graph in graphs.items()}
    return Step(node, found, opset, bodies, last, all(node.inputs[i] in once for i in found.statistics))


def _last_reads(nodes: Sequence[Node], kept: set[str]) -> list[tuple[str, ...]]:
    """For every node what it is the last to read, and what it makes that nothing reads."""
    seen = set(kept)
    last: list[tuple[str, ...]] = []
    for node in reversed(nodes):
        names = dict.fromkeys(name for name in (*node.outputs, *node.inputs, *node.captured) if name not in seen)
        last.append(tuple(name for name in names if name))
        seen.update(names)
    return last[::-1]


def run(body: Body, given: Mapping[str, torch.Tensor], training: bool) -> tuple[torch.Tensor, ...]:
    """The outputs, from the tensors that the body's nodes may read."""
    values = {**given, **body.literals}
    for step in body.steps:
        found = _call(step, values, training)
        values.update((name, tensor) for name, tensor in zip(step.node.outputs, found, strict=False) if name)
        for name in step.last:
            values.pop(name, None)
    return tuple(values[name] for name in body.outputs)


def _call(step: Step, values: Values, training: bool) -> tuple[torch.Tensor, ...]:
    call = Call(step.node, step.opset, training and step.trains, partial(_inside, step, values, training))
    try:
        tensors = _together([values[name] if name else None for name in step.node.inputs], step.operator.host)
        found = step.operator.function(call, *tensors)
    except Exception as error:
        error.add_note(f"in {step.node.op} node {step.node.name!r}, output {step.node.outputs[0]!r}")
        raise
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def _inside(step: Step, values: Values, training: bool, name: str, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    body = step.bodies[name]
    return run(body, {**values, **dict(zip(body.inputs, inputs, strict=True))}, training)


def _together(tensors: Sequence[torch.Tensor | None], host: frozenset[int]) -> list[Any]:
    """The inputs on one device, and those that are read as numbers as such."""
    devices = {tensor.device for i, tensor in enumerate(tensors) if tensor is not None and i not in host}
    device = next((device for device in devices if device.type != "cpu"), None) if len(devices) > 1 else None
    given: list[Any] = []
    for i, tensor in enumerate(tensors):
        if tensor is not None and i in host:
            given.append(tensor.tolist())
        else:
            given.append(tensor.to(device) if tensor is not None and device else tensor)
    return given
