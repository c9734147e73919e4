"""What a rewritten model counts, as a function of the widths kept: parameters, bytes of weights, multiply-accumulates.

Every count is a polynomial for each removable block, and one for what lies in none; a block that is removed, or that
lies inside a removed one, counts nothing. The counts are exact, but for two cases, where they are never too low:

* a weight that several blocks read counts as long as the smallest block around all of them is kept;
* a vector, small table or shape list that layers share is one initializer as long as they cut it alike, which depends
  on the values kept; it counts once for each way in which it may be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from onnx_mdp.axes.polynomial import Polynomial, size_polynomial
from onnx_mdp.axes.terms import Factor, Term, leaves, size
from onnx_mdp.graph.check import counts_as_parameters
from onnx_mdp.graph.dims import Literal
from onnx_mdp.graph.macs import macs_of
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.unshare import original_name
from onnx_mdp.graph.weights import element_bits
from onnx_mdp.groups.blocks import gone_with, innermost, parent_blocks
from onnx_mdp.groups.couple import AttributeSlot
from onnx_mdp.groups.find import Analysis

_NODE_BYTES = 200  # at least what the node of a rescaled tensor takes, without the tensor's name


@dataclass(frozen=True)
class Step:
    """An amount that counts once `term` has lost units."""

    term: Term
    amount: float
    block: str | None


@dataclass(eq=False)
class Count:
    """A polynomial for each block (None: outside of all), and steps beside them."""

    parts: dict[str | None, Polynomial] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def add(self, block: str | None, amount: Polynomial) -> None:
        """Count something that goes with a block."""
        self.parts[block] = self.parts.get(block, Polynomial({})) + amount

    def at(self, analysis: Analysis, widths: Mapping[Factor, int], removed: Sequence[str] = ()) -> float:
        """The count at some widths, with blocks removed."""
        gone = gone_with(analysis.blocks, removed)
        total = sum(part.at(widths) for block, part in self.parts.items() if block not in gone)
        cut = [step for step in self.steps if size(step.term, widths) != step.term.size and step.block not in gone]
        return total + sum(step.amount for step in cut)


def count_parameters(analysis: Analysis) -> Count:
    """The parameters that a rewritten model has; see `onnx_mdp.graph.check.parameter_count`."""
    return _Counting(analysis).weights(lambda elem: float(counts_as_parameters(elem)))


def count_bytes(analysis: Analysis) -> Count:
    """At most the bytes of a rewritten model's weights, and of the nodes that rewriting adds."""
    counting = _Counting(analysis)
    found = counting.weights(lambda elem: element_bits(elem) / 8)
    steps = [replace(step, amount=step.amount + _NODE_BYTES + 4 * len(name)) for name, step in counting.scales.items()]
    return Count(found.parts, [*found.steps, *steps])


def count_macs(analysis: Analysis) -> Count:
    """The multiply-accumulates of a rewritten model; see `onnx_mdp.graph.macs`."""
    counting = _Counting(analysis)
    found = Count()
    for node in counting.alive:
        if macs := macs_of(counting.resized(node), counting.shapes):
            found.add(innermost(analysis.blocks, node.index), Polynomial({(): 0}) + macs)
    return found


class _Counting:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.network: Network = analysis.network
        self.free = frozenset(group.factor for group in analysis.groups)
        self._parents = parent_blocks(analysis.blocks)

    @cached_property
    def alive(self) -> tuple[Node, ...]:
        """The nodes that some output depends on; rewriting drops all others."""
        reached, pending = set[int](), list(self.network.outputs)
        while pending:
            node = self.network.producers.get(pending.pop())
            if node is not None and node.index not in reached:
                reached.add(node.index)
                pending += (*node.inputs, *node.captured)
        return tuple(node for node in self.network.nodes if node.index in reached)

    @cached_property
    def shapes(self) -> Mapping[str, Sequence[Any]]:
        """The shapes of all tensors; dimensions that may shrink are polynomials."""
        axes, known = self.analysis.coupling.axes, self.network.shapes
        return {name: self._sizes(axes[name]) if axes.get(name) else shape for name, shape in known.items()}

    @cached_property
    def scales(self) -> dict[str, Step]:
        """For each tensor that gets a factor once units are gone: that one number."""
        targets = {rescale.target: rescale for rescale in self.analysis.coupling.rescales}
        return {
            name: Step(rescale.term, 1, innermost(self.analysis.blocks, self.network.producers[name].index))
            for name, rescale in targets.items()
            if isinstance(name, str) and name in self.network.producers and self._shrinks((rescale.term,))
        }

    def resized(self, node: Node) -> Node:
        """The node with polynomials for those of its integers that hold a size."""
        attributes = dict(node.attributes)
        for slot, term in self._slots.get(node.index, ()):
            if slot.index is None:
                attributes[slot.name] = size_polynomial(term, self.free)
            elif slot.name in attributes:
                held = list(attributes[slot.name])
                held[slot.index] = size_polynomial(term, self.free)
                attributes[slot.name] = held
        return replace(node, attributes=attributes)

    def weights(self, worth: Callable[[int], float]) -> Count:
        """What all initializers are worth, by what an element of their type is."""
        found = Count()
        for names in self._stored():
            each = worth(self.network.types[names[0]])
            if each:
                elements = Polynomial({(): 1}) * prod(self._lengths(names[0]), start=Polynomial({(): 1}))
                packed = 1.0 if each % 1 else 0.0  # what rounding up to whole bytes adds at most
                found.add(self._around(names), elements * each + packed)
        found.steps += [replace(step, amount=worth(self.network.types[name])) for name, step in self.scales.items()]
        return found

    def _stored(self) -> Sequence[Sequence[str]]:
        """The initializers that are in use; copies of one that are cut alike, and so are merged again, together."""
        used = {name for node in self.alive for name in (*node.inputs, *node.captured)} | set(self.network.outputs)
        together: dict[Any, list[str]] = {}
        for name in self.network.weights:
            if name in used:
                cut = self._cut(name)
                key = (original_name(name), cut if self._shrinks(cut) else (), name if name in self._edited else "")
                together.setdefault(key, []).append(name)
        return tuple(together.values())

    def _cut(self, name: str) -> tuple[Term, ...]:
        """The terms that an initializer is cut along; integers that hold sizes are not."""
        coupling = self.analysis.coupling
        points = coupling.is_weight(name) or name in self._points
        return coupling.axes.get(name, ()) if points else ()

    def _lengths(self, name: str) -> Sequence[Any]:
        terms = self._cut(name)
        return self._sizes(terms) if terms else self.network.shapes[name]

    def _sizes(self, terms: Sequence[Term]) -> Sequence[Any]:
        return [size_polynomial(term, self.free) if self._shrinks((term,)) else term.size for term in terms]

    def _shrinks(self, terms: Sequence[Term]) -> bool:
        return any(leaf in self.free for term in terms for leaf in leaves(term))

    def _around(self, names: Sequence[str]) -> str | None:
        """The smallest block around all readers of some initializers."""
        if not set(self.network.outputs).isdisjoint(names):
            return None
        alive = {node.index for node in self.alive}
        readers = {node.index for name in names for node in self.network.consumers.get(name, ())} & alive
        chains = [self._chain(innermost(self.analysis.blocks, index)) for index in readers]
        return next((block for block in chains[0] if all(block in chain for chain in chains)), None)

    def _chain(self, block: str | None) -> list[str]:
        """A block and those around it, from the inside."""
        found = []
        while block is not None:
            found.append(block)
            block = self._parents[block]
        return found

    @cached_property
    def _points(self) -> frozenset[str]:
        return frozenset(code.zero for code in self.analysis.coupling.codes.values())

    @cached_property
    def _edited(self) -> frozenset[str]:
        """The initializers whose values change when units go: what is scaled, and integers that hold sizes."""
        coupling = self.analysis.coupling
        scaled = {rescale.target for rescale in coupling.rescales if isinstance(rescale.target, str)}
        slots = {
            r.slot.initializer for r in coupling.resizes if isinstance(r.slot, Literal) and self._shrinks((r.term,))
        }
        return frozenset(scaled | slots)

    @cached_property
    def _slots(self) -> Mapping[int, list[tuple[AttributeSlot, Term]]]:
        found: dict[int, list[tuple[AttributeSlot, Term]]] = {}
        for resize in self.analysis.coupling.resizes:
            if isinstance(resize.slot, AttributeSlot):
                found.setdefault(resize.slot.node, []).append((resize.slot, resize.term))
        return found
