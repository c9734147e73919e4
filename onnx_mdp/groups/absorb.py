"""Moves a factor that a cut owes a tensor down to a constant that can hold it.

The mean of squares in a normalization that is spelled out is divided by a size that shrinks with a cut. A
multiplication after it would stand amidst what runtimes know as one operator; its epsilon and its scale, changed, do
not: r y + e = r (y + e/r), the root of that is a power of r times the root of y + e/r, and what is divided by it is
multiplied with a scale in the end.
"""

from __future__ import annotations

from onnx_mdp.axes.terms import Term
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Array

Owed = list[tuple[str, Term, float]]
_PASS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_ROOTS = {"Sqrt": 0.5, "Reciprocal": -1.0}


def absorbed(network: Network, tensor: str, term: Term, power: float) -> Owed:
    """The constants to be multiplied with powers of the ratio of `term` in place of a tensor: (name, term, power).

    It is the tensor itself where no constant stands behind it.
    """
    found: Owed = []
    name, left = tensor, power
    while (node := _only_reader(network, name)) is not None:
        other = next((given for given in node.inputs if given != name), "")
        own = network.is_float_weight(other) and len(network.consumers[other]) == 1
        if node.op == "Mul" and own:
            return [*found, (other, term, left)]
        if node.op in ("Add", "Max") and own and len(node.inputs) == 2:
            found.append((other, term, -left))
        elif (exponent := _exponent(network, node, name)) is not None:
            left *= exponent
        else:
            break
        name = node.outputs[0]
    return [(tensor, term, power)]


def _only_reader(network: Network, name: str) -> Node | None:
    readers = network.consumers.get(name, ())
    return readers[0] if len(readers) == 1 and name not in network.outputs else None


def _exponent(network: Network, node: Node, name: str) -> float | None:
    """The power of a factor of one input that the result has; None where that is no power."""
    if node.inputs.count(name) != 1:
        return None
    if node.op in _PASS:
        return 1.0 if node.inputs[0] == name else None
    if node.op in ("Div", "Mul"):
        return -1.0 if node.op == "Div" and node.inputs[1] == name else 1.0
    if node.op == "Pow" and node.inputs[0] == name:
        values: Array | None = network.values.get(node.inputs[1])
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None
    return _ROOTS.get(node.op)
