"""What operators are to a stream: normalizations, squares, moves of positions; and why one refuses a rotation."""

from __future__ import annotations

import numpy as np

from onnx_mdp.graph.network import Node
from onnx_mdp.groups.couple import Coupling, Freeze
from onnx_mdp.streams.stream import CENTERING

INSIDE = "a normalization stands inside of the stream"
COSTLY = "normalizations stand inside of the stream, and matrices to keep them would cost too much"
MEAN = "its mean is read, which normalizations take off elsewhere"
SQUARED = {"ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
_NORMS = (CENTERING, "RMSNormalization", "SimplifiedLayerNormalization")
MOVES = {
    *("Cast", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze"),
}
AVERAGES = {"AveragePool", "GlobalAveragePool", "ReduceMean"}
_LINEAR = {"Pad", "ReduceSum", "Resize"}


class RefusedError(Exception):
    """The axis cannot be rotated; carries the reason and the node."""

    def __init__(self, reason: str, place: Node | str) -> None:
        super().__init__(reason)
        self.freeze = Freeze(reason, place if isinstance(place, str) else place_of(place))


class AgainError(Exception):
    """Something that can be settled: a tensor to be spelled, or a normalization whose bias is added apart."""

    def __init__(self, inside: str = "", apart: int | None = None) -> None:
        super().__init__()
        self.inside = frozenset([inside] if inside else [])
        self.apart = frozenset([] if apart is None else [apart])


def place_of(node: Node) -> str:
    """How a reason names a node."""
    return f"{node.op} {node.name}"


def is_norm(node: Node) -> bool:
    """Whether a node normalizes its last axis, or those from an axis on."""
    return node.op in _NORMS and node.domain == "ai.onnx"


def is_square(coupling: Coupling, node: Node) -> bool:
    """Whether a node squares every element."""
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    exponent = coupling.network.values.get(node.inputs[1]) if node.op == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0


def is_zero(node: Node) -> bool:
    """Whether a ConstantOfShape makes zeros, which any rotation leaves alone."""
    return not np.any(node.attributes.get("value", 0.0))


def is_linear(node: Node) -> bool:
    """Whether a node combines positions."""
    return node.op in AVERAGES | _LINEAR


def keeps_shift(node: Node) -> bool:
    """Whether a shift that is the same at all positions passes a node."""
    padded = node.op == "AveragePool" and node.attributes.get("count_include_pad", 0)
    return node.op not in _LINEAR and not padded
