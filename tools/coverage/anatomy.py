"""Facts about an analysis: attention, what is prunable, and why the rest is not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.groups.find import Analysis
from onnx_mdp.groups.share import lock_reasons

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


def kinds(names: Iterable[str]) -> dict[str, int]:
    """How often each kind occurs, most frequent first."""
    return dict(Counter(names).most_common())


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
    """The reason that locks the most parameters, for a model in which nothing can be cut."""
    reasons = lock_reasons(analysis)
    return reasons[0].reason if reasons else "no weight has an axis that could be cut"
