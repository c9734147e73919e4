"""Facts about an analysis: attention, what is prunable, and why the rest is not."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from onnx_mdp.axes.terms import leaves
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.groups.find import Analysis

ATTENTION_KINDS = frozenset({"head", "head_dim", "qk", "v"})
_FUSED = {"Attention", "MultiHeadAttention", "GroupQueryAttention"}
_PRODUCTS = {"MatMul", "FusedMatMul", "Einsum", "Gemm"}
# Operators through which attention weights stay attention weights on their way from Softmax to the product.
_PASSING = {
    *("Add", "Cast", "Div", "Dropout", "Expand", "Flatten", "Gather", "Identity", "IsNaN", "Mul", "Reshape", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
}


def has_attention(network: Network) -> bool:
    """Whether a Softmax over more than one position feeds a product of two activations."""
    if any(node.op in _FUSED for node in network.nodes):
        return True
    return any(_reaches_product(network, node) for node in network.nodes if node.op == "Softmax")


def _reaches_product(network: Network, softmax: Node) -> bool:
    pending, seen = list(softmax.outputs), set(softmax.outputs)
    while pending:
        for reader in network.consumers.get(pending.pop(), ()):
            if reader.op in _PRODUCTS and not any(name in network.weights for name in reader.inputs[:2]):
                return True
            if reader.op in _PASSING:
                pending += [name for name in reader.outputs if name not in seen]
                seen.update(reader.outputs)
    return False


def prunable_share(analysis: Analysis) -> tuple[float, float]:
    """Share of parameters, and of multiply-accumulates, that carry at least one unit that can be cut."""
    network, axes = analysis.network, analysis.coupling.axes
    free = {group.factor for group in analysis.groups}

    def carries(name: str) -> bool:
        return any(leaf in free for term in axes.get(name, ()) for leaf in leaves(term))

    sizes = {name: math.prod(network.shapes[name]) for name in network.weights if network.is_float_weight(name)}
    macs = node_macs(network)
    work = {i: count for i, count in macs.items() if any(map(carries, (*network.nodes[i].inputs, *_out(network, i))))}
    parameters = sum(size for name, size in sizes.items() if carries(name))
    return parameters / max(sum(sizes.values()), 1), sum(work.values()) / max(sum(macs.values()), 1)


def _out(network: Network, index: int) -> tuple[str, ...]:
    return network.nodes[index].outputs


def kinds(names: Iterable[str]) -> dict[str, int]:
    """How often each kind occurs, most frequent first."""
    return dict(Counter(names).most_common())


def freezes(analysis: Analysis) -> dict[str, int]:
    """Locked dimensions of weights by their first reason; numbers are left out so that like reasons meet."""
    return kinds(_like(str(locked.reasons[0].reason)) for locked in analysis.locked)


def refusals(analysis: Analysis) -> tuple[dict[str, int], dict[str, int]]:
    """Nodes whose operator has no rule, by operator; and nodes that a rule refused, by operator and reason."""
    unknown: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for index, reason in analysis.coupling.refusals.items():
        op = analysis.network.nodes[index].op
        if reason == f"operator {op} has no rule":
            unknown[op] += 1
        else:
            refused[f"{op}: {_like(reason)}"] += 1
    return dict(unknown.most_common()), dict(refused.most_common())


def _like(reason: str) -> str:
    reason = re.sub(r"the shape of \S+ is", "a shape is", reason)
    return re.sub(r"\d+", "N", reason)


def why_nothing(analysis: Analysis) -> str:
    """The reason that locks the most units, for a model in which nothing can be cut."""
    units: Counter[str] = Counter()
    for locked in analysis.locked:
        units[locked.reasons[0].reason] += locked.units
    return units.most_common(1)[0][0] if units else "no weight has an axis that could be cut"
