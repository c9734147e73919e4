"""Weights stored as integers: which they are, what number each code stands for, and which code is zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_mdp.graph.network import Network
from onnx_mdp.graph.shapes import Array
from onnx_mdp.rules.line import Line, Operand, Point


@dataclass(frozen=True)
class Code:
    """How an initializer of codes is read: initializers of its zero point and scale ("" if none), and their axis."""

    zero: str
    scale: str
    axis: int


def find_codes(network: Network, lines: Mapping[int, Line]) -> dict[str, Code]:
    """The initializers that rules read as codes of numbers."""
    found: dict[str, Code] = {}
    for index, line in lines.items():
        tensors = dict(zip((op.name for op in line.inputs), network.nodes[index].inputs, strict=False))
        operands = {operand.name: operand for operand in line.inputs}
        for point in line.points:
            name = tensors.get(point.operand, "")
            given = [tensors.get(part, "") for part in (point.zero, point.scale)]
            stored = name in network.weights and not network.is_float_weight(name)
            if stored and all(part in network.weights for part in given if part):
                found[name] = Code(given[0], given[1], _axis(operands, point))
    return found


def _axis(operands: Mapping[str, Operand], point: Point) -> int:
    """The axis of the codes that the scale lies along; 0 where it is one number."""
    along = operands.get(point.scale or point.zero)
    axes, whole = operands[point.operand].axes or (), along.axes if along else None
    if not whole or len(whole) != 1:
        return 0
    return next((i for i, axis in enumerate(axes) if axis.expr == whole[0].expr), 0)


def zero_code(network: Network, name: str, code: Code) -> Array:
    """The codes of zero, in a shape that broadcasts against the initializer's."""
    if not code.zero:
        return np.zeros((), network.dtype(name))
    return _against(network, name, code, network.weights[code.zero])


def decoded(network: Network, name: str, code: Code) -> Array:
    """The numbers that the codes stand for; their common scale is left out where the model computes it."""
    numbers = network.weights[name].astype(np.float32) - zero_code(network, name, code).astype(np.float32)
    if not code.scale:
        return numbers
    scale: Array = numbers * _against(network, name, code, network.weights[code.scale].astype(np.float32))
    return scale


def _against(network: Network, name: str, code: Code, parameter: Array) -> Array:
    """A scale or zero point so that it broadcasts: as it is, along its axis, or each repeated over its block."""
    shape = network.shapes[name]
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim == 1:
        return parameter.reshape([-1 if i == code.axis else 1 for i in range(len(shape))])
    for axis, (size, blocks) in enumerate(zip(shape, parameter.shape, strict=True)):
        parameter = np.repeat(parameter, size // blocks, axis)
    return parameter
