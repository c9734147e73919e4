"""Where a tensor is zero once the weights of a unit are: what makes cutting the unit the same as masking it.

A sum over units loses nothing by a cut if what it adds for a dropped unit is zero. With a weight among the operands it
always is. Without one (query times key), some operand has to carry the zero from its own weights through operators
that keep it, as their rules' zero clauses say.

A factor may lie on two axes, as when one matrix makes both sides of a product. Weights are zero at a dropped unit of
either axis; of a computed tensor it is not known which of its axes the zero is on, so nothing is said there.

Some operators have no value at zero. A unit whose denominator would be zero is masked through its other weights: those
the denominator is computed from are spared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from onnx_mdp.axes.terms import Factor, Term, leaves
from onnx_mdp.graph.network import Network
from onnx_mdp.rules.line import Line

Axes = Mapping[str, tuple[Term, ...]]
Zero = Mapping[str, frozenset[Factor]]
Spared = Mapping[str, frozenset[Factor]]


def spare(network: Network, axes: Axes, lines: Mapping[int, Line], codes: Collection[str]) -> Spared:
    """The weights that masking must leave alone, and for which factors, lest an operator divides by zero."""
    spared: dict[str, frozenset[Factor]] = {}
    while True:
        zero = zero_factors(network, axes, lines, codes, spared)
        found = [
            (weight, factor)
            for tensor in _denominators(network, lines)
            for factor in zero.get(tensor, frozenset())
            for weight in _sources(network, axes, tensor, factor)
            if factor not in spared.get(weight, frozenset())
        ]
        if not found:
            return spared
        for weight, factor in found:
            spared[weight] = spared.get(weight, frozenset()) | {factor}


def _denominators(network: Network, lines: Mapping[int, Line]) -> Iterator[str]:
    for index, line in lines.items():
        for operand, tensor in zip(line.inputs, network.nodes[index].inputs, strict=False):
            if operand.name in line.nonzero:
                yield tensor


def _sources(network: Network, axes: Axes, tensor: str, factor: Factor) -> Iterator[str]:
    """The weights with the factor that a tensor is computed from, through tensors with the factor."""
    pending, seen = [tensor], {tensor}
    while pending:
        name = pending.pop()
        if name in network.weights:
            yield name
        producer = network.producers.get(name)
        for before in producer.inputs if producer else ():
            if before not in seen and factor in carried(axes.get(before, ())):
                seen.add(before)
                pending.append(before)


def zero_factors(
    network: Network, axes: Axes, lines: Mapping[int, Line], codes: Collection[str], spared: Spared
) -> Zero:
    """For every tensor, the factors at whose dropped units it is zero once all their unspared weights are."""
    zero: dict[str, frozenset[Factor]] = {}
    constant = set(network.weights)
    for name in network.weights:
        if network.is_float_weight(name) or name in codes:
            zero[name] = carried(axes.get(name, ())) - spared.get(name, frozenset())
    for node in network.nodes:
        if constant.issuperset(filter(None, node.inputs)):
            constant.update(node.outputs)
        line = lines.get(node.index)
        if line is None or line.zero is None:
            continue
        inputs = {op.name: name for op, name in zip(line.inputs, node.inputs, strict=False) if name}
        unclear = [_repeated(axes.get(name, ())) for name in {*node.inputs, *node.outputs} - constant]
        for output in node.outputs:
            holds = carried(axes.get(output, ())).difference(*unclear)
            for clause in line.zero:
                holds &= _clause(clause, inputs, axes, zero, holds)
            zero[output] = holds
    return zero


def _repeated(terms: tuple[Term, ...]) -> frozenset[Factor]:
    """The factors that occur on more than one axis."""
    counts = Counter(leaf for term in terms for leaf in set(leaves(term)))
    return frozenset(leaf for leaf, count in counts.items() if count > 1)


def carried(terms: tuple[Term, ...]) -> frozenset[Factor]:
    """The factors that occur on any of the axes."""
    return frozenset(leaf for term in terms for leaf in leaves(term))


def _clause(
    clause: tuple[str, ...],
    inputs: Mapping[str, str],
    axes: Axes,
    zero: Zero,
    candidates: frozenset[Factor],
) -> frozenset[Factor]:
    """The factors for which one of the clause's operands is zero; an absent operand is zero."""
    holds: frozenset[Factor] = frozenset()
    for name in clause:
        tensor = inputs.get(name.removesuffix("?"))
        if tensor is None:
            return candidates
        holds |= zero.get(tensor, frozenset())
        if name.endswith("?"):
            holds |= candidates - carried(axes.get(tensor, ()))
    return holds
