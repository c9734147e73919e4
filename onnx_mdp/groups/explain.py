"""Explains an analysis: the rule of every node, the term of every axis, and what every factor is.

Terms are written as in rules (`onnx_mdp.rules.line`), with names and sizes for letters:

    name         units of the group of that name            (a b)      row-major product
    !16          16 units that may not be cut               [a + b]    one after the other
    16           16 units that no weight carries            1          a size-one axis
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnx_mdp.axes.terms import Factor, Prod, Term, fold, leaves
from onnx_mdp.graph.dims import Literal, follow_dims
from onnx_mdp.graph.network import Node
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.groups.couple import AttributeSlot, Freeze, Rescale, Resize
from onnx_mdp.groups.find import Analysis, Group, Locked
from onnx_mdp.groups.zero import carried
from onnx_mdp.rules import Refusal, View, text_of


@dataclass(frozen=True)
class TensorAxes:
    """A tensor's shape (None if it is known only when it runs) and terms (None if they are not followed)."""

    name: str
    shape: Shape | None
    axes: tuple[str, ...] | None


@dataclass(frozen=True)
class NodeEntry:
    """A node with its rule or, where that is None, the reason why it has none."""

    name: str
    op: str
    rule: str | None
    refusal: str | None
    outputs: tuple[TensorAxes, ...]


@dataclass(frozen=True)
class FactorEntry:
    """A factor of a tensor: how its terms write it, the axes it lies on, its group or why it may not be cut."""

    text: str
    units: int
    axes: tuple[int, ...]
    group: str | None
    reasons: tuple[Freeze, ...]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor: its role (initializer, graph input or computed), terms, factors, and the nodes around it.

    `uses` are the copies that stand for a vector that several nodes share, one each; otherwise the tensor alone.
    `stored_as` are the initializers that are this weight, or its transpose.
    """

    tensor: TensorAxes
    role: str
    is_output: bool
    uses: tuple[str, ...]
    stored_as: tuple[str, ...]
    factors: tuple[FactorEntry, ...]
    producer: NodeEntry | None
    consumers: tuple[NodeEntry, ...]


@dataclass(frozen=True)
class MemberEntry:
    """An initializer's axis that carries units; cutting one unit removes `per_unit` positions."""

    initializer: str
    axis: int
    shape: Shape
    term: str
    per_unit: int


@dataclass(frozen=True)
class ResizeEntry:
    """An integer that holds the size of a term: an initializer's element or a node's attribute."""

    slot: str
    value: int
    term: str


@dataclass(frozen=True)
class RescaleEntry:
    """A tensor or a float attribute that is multiplied with a power of the share of a term that is left."""

    target: str
    term: str
    power: float


@dataclass(frozen=True)
class GroupEntry:
    """A group, the weights and computed tensors that carry its units, and the numbers that change with it.

    `block` is the smallest removable block that all of its weights lie in.
    """

    name: str
    kind: str
    units: int
    floor: int
    block: str | None
    members: tuple[MemberEntry, ...]
    tensors: tuple[TensorAxes, ...]
    resizes: tuple[ResizeEntry, ...]
    rescales: tuple[RescaleEntry, ...]


@dataclass(frozen=True)
class LockedEntry:
    """A dimension that may not be cut, why, and the weights that carry it."""

    name: str
    units: int
    reasons: tuple[Freeze, ...]
    members: tuple[MemberEntry, ...]


@dataclass(frozen=True)
class Explanation:
    """Every node of a model in graph order or, where a name was asked for, all that has that name."""

    model: str
    name: str | None
    nodes: tuple[NodeEntry, ...] = ()
    tensor: TensorEntry | None = None
    group: GroupEntry | None = None
    locked: tuple[LockedEntry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps: the nodes, or what the name stands for."""
        plain = asdict(self)
        unused = {"tensor", "group", "locked"} if self.name is None else {"nodes"}
        return {key: value for key, value in plain.items() if key not in unused}


class Explainer:
    """Answers for one analysis; a name that the model does not have gives None or nothing."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._network = analysis.network
        self._axes = analysis.coupling.axes
        self._dims = follow_dims(analysis.network)

    def explain(self, model: str, name: str | None) -> Explanation:
        """Every node or, given a name, the tensor, the group and the locked dimensions called that."""
        if name is None:
            return Explanation(model, None, nodes=tuple(map(self._node, self._network.nodes)))
        group = next((group for group in self._analysis.groups if group.name == name), None)
        return Explanation(
            model,
            name,
            tensor=self._tensor(name) if name in self.tensors() else None,
            group=self._group(group) if group else None,
            locked=tuple(self._locked(locked) for locked in self._analysis.locked if locked.name == name),
        )

    def tensors(self) -> Mapping[str, None]:
        """The name of every tensor: inputs, initializers and what nodes compute, in graph order."""
        computed = (name for node in self._network.nodes for name in node.outputs if name)
        return dict.fromkeys((*self._network.inputs, *self._network.weights, *computed))

    def _tensor(self, name: str) -> TensorEntry:
        network = self._network
        producer = network.producers.get(name)
        role = "initializer" if name in network.weights else "computed" if producer else "graph input"
        return TensorEntry(
            tensor=self._shown(name),
            role=role,
            is_output=name in network.outputs,
            uses=network.uses.get(name, (name,)),
            stored_as=network.stored_as.get(name, (name,)),
            factors=self._factors(name),
            producer=self._node(producer) if producer else None,
            consumers=tuple(map(self._node, network.consumers.get(name, ()))),
        )

    def _group(self, group: Group) -> GroupEntry:
        carriers = [
            name
            for name in self.tensors()
            if name not in self._network.weights and group.factor in carried(self._axes.get(name, ()))
        ]
        coupling = self._analysis.coupling
        resizes = [resize for resize in coupling.resizes if group.factor in leaves(resize.term)]
        rescales = [rescale for rescale in coupling.rescales if group.factor in leaves(rescale.term)]
        return GroupEntry(
            name=group.name,
            kind=group.kind,
            units=group.units,
            floor=group.floor,
            block=self._analysis.homes.get(group.name),
            members=self._members(group.factor, group.members),
            tensors=tuple(map(self._shown, carriers)),
            resizes=tuple(dict.fromkeys(map(self._resize, resizes))),
            rescales=tuple(map(self._rescale, rescales)),
        )

    def _locked(self, locked: Locked) -> LockedEntry:
        return LockedEntry(locked.name, locked.units, locked.reasons, self._members(locked.factor, locked.members))

    def _node(self, node: Node) -> NodeEntry:
        text = text_of(View(node, self._network, self._dims))
        rule, refusal = (None, text.reason) if isinstance(text, Refusal) else (text, None)
        return NodeEntry(node.name, node.op, rule, refusal, tuple(self._shown(n) for n in node.outputs if n))

    def _shown(self, name: str) -> TensorAxes:
        shape, terms = self._network.shapes.get(name), self._axes.get(name)
        known = shape is not None and terms is not None
        return TensorAxes(name, shape, tuple(map(self._spell, terms or ())) if known else None)

    def _spell(self, term: Term) -> str:
        if isinstance(term, Factor):
            group = self._analysis.by_factor.get(term)
            return group.name if group else f"{'!' if term in self._analysis.reasons else ''}{term.size}"
        parts = [self._spell(part) for part in term.parts]
        if isinstance(term, Prod):
            return f"({' '.join(parts)})" if parts else "1"
        return f"[{' + '.join(parts)}]" if parts else "0"

    def _factors(self, name: str) -> tuple[FactorEntry, ...]:
        axes: dict[Factor, dict[int, None]] = {}
        for axis, term in enumerate(self._axes.get(name, ())):
            for leaf in leaves(term):
                axes.setdefault(leaf, {})[axis] = None
        groups, reasons = self._analysis.by_factor, self._analysis.reasons
        return tuple(
            FactorEntry(
                text=self._spell(leaf),
                units=leaf.size,
                axes=tuple(on),
                group=groups[leaf].name if leaf in groups else None,
                reasons=reasons.get(leaf, ()),
            )
            for leaf, on in axes.items()
        )

    def _members(self, factor: Factor, members: Iterable[tuple[str, int]]) -> tuple[MemberEntry, ...]:
        entries = []
        for name, axis in members:
            term = self._axes[name][axis]
            per_unit = int(fold(term, factor, np.ones(term.size))[0])
            entries.append(MemberEntry(name, axis, self._network.shapes[name], self._spell(term), per_unit))
        return tuple(entries)

    def _resize(self, resize: Resize) -> ResizeEntry:
        return ResizeEntry(self._slot(resize.slot), resize.term.size, self._spell(resize.term))

    def _rescale(self, rescale: Rescale) -> RescaleEntry:
        target = rescale.target if isinstance(rescale.target, str) else self._slot(rescale.target)
        return RescaleEntry(target, self._spell(rescale.term), rescale.power)

    def _slot(self, slot: Literal | AttributeSlot) -> str:
        if isinstance(slot, Literal):
            readers = self._network.consumers.get(slot.initializer, ())
            place = "".join(f" of {node.op} {node.name}" for node in readers[:1])
            return f"{slot.initializer}[{slot.index}]{place}"
        node = self._network.nodes[slot.node]
        return f"{slot.name}{'' if slot.index is None else f'[{slot.index}]'} of {node.op} {node.name}"
