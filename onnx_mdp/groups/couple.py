"""Couples the axes of a whole network: every operator's rule becomes equations between terms, solved together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from onnx_mdp.axes.terms import Factor, Term, fresh, leaves
from onnx_mdp.axes.unify import MisalignedError, Unifier
from onnx_mdp.graph.dims import AxisSize, Computed, Dim, Dims, Literal, follow_dims
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.twins import Twin
from onnx_mdp.graph.weights import FLOATS
from onnx_mdp.groups.absorb import absorbed
from onnx_mdp.groups.codes import Code, decoded, find_codes
from onnx_mdp.groups.zero import Spared, Zero, spare, zero_factors
from onnx_mdp.rules import Refusal, View, line_of
from onnx_mdp.rules.line import Concatenation, Line, Operand, letters
from onnx_mdp.rules.registry import find_rule
from onnx_mdp.rules.terms import build, letter_sizes


@dataclass(frozen=True, slots=True)
class Freeze:
    """Why an axis may not shrink, and the node (or graph boundary) that says so."""

    reason: str
    node: str

    @property
    def kind(self) -> str:
        """The reason without the detail after its colon: what freezes of many nodes have in common."""
        return self.reason.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.reason} ({self.node})"


@dataclass(frozen=True, slots=True)
class AttributeSlot:
    """An integer attribute of a node; `index` is None for a scalar."""

    node: int
    name: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Resize:
    """An integer of the graph that holds the size of a term."""

    slot: Literal | AttributeSlot
    term: Term


@dataclass(frozen=True, slots=True)
class Contraction:
    """A node that sums over the units of `term`; operands are (tensor, axis) pairs that carry it."""

    node: Node
    term: Term
    operands: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Rescale:
    """A tensor, or a float attribute, to be multiplied with a power of the ratio by which `term` shrinks.

    It stands for a size inside an operator's formula (the n of a mean) that a cut must not change.
    """

    target: str | AttributeSlot
    term: Term
    power: float


@dataclass(frozen=True, eq=False)
class Coupling:
    """The solved axes of a network.

    `axes` holds every followed tensor's terms, resolved; `frozen` the reasons per locked factor, in graph order;
    `lines` the rule of each node that has one; `codes` the initializers of
    integers that stand for numbers; `spared` the factors by which a weight must not be masked.
    """

    network: Network
    axes: Mapping[str, tuple[Term, ...]]
    frozen: Mapping[Factor, tuple[Freeze, ...]]
    resizes: tuple[Resize, ...]
    rescales: tuple[Rescale, ...]
    contractions: tuple[Contraction, ...]
    lines: Mapping[int, Line]
    refusals: Mapping[int, str]
    codes: Mapping[str, Code]
    spared: Spared

    def is_weight(self, name: str) -> bool:
        """Whether the tensor is an initializer of numbers, or of codes that stand for numbers."""
        return self.network.is_float_weight(name) or name in self.codes

    def value(self, name: str) -> Array:
        """The numbers of a weight."""
        code = self.codes.get(name)
        return decoded(self.network, name, code) if code else self.network.weights[name]

    @cached_property
    def contracting(self) -> frozenset[int]:
        """Indices of the nodes that sum over more than one unit."""
        return frozenset(c.node.index for c in self.contractions if c.term.size > 1)

    @cached_property
    def members(self) -> Mapping[Factor, tuple[tuple[str, int], ...]]:
        """The (initializer, axis) pairs of weights that carry each factor, in graph order."""
        found: dict[Factor, dict[tuple[str, int], None]] = {}
        for node in self.network.nodes:
            for name in node.inputs:
                if self.is_weight(name):
                    for axis, term in enumerate(self.axes.get(name, ())):
                        for leaf in leaves(term):
                            found.setdefault(leaf, {})[name, axis] = None
        return {leaf: tuple(pairs) for leaf, pairs in found.items()}


def _place(node: Node) -> str:
    return f"{node.op} {node.name}"


def couple(network: Network) -> Coupling:
    """Solve the axes of every tensor of the network."""
    return _Coupler(network).run()


class _Coupler:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.dims: Mapping[str, Dims] = follow_dims(network)
        self.unifier = Unifier()
        self.axes: dict[str, tuple[Term, ...]] = {}
        self.freezes: list[tuple[Term, Freeze]] = []
        self.resizes: list[Resize] = []
        self.rescales: list[Rescale] = []
        self.contractions: list[Contraction] = []
        self.lines: dict[int, Line] = {}
        self.refusals: dict[int, str] = {}

    def run(self) -> Coupling:
        for name in self.network.inputs:
            self._freeze_tensor(name, Freeze("it is a graph input", name))
        for node in self.network.nodes:
            self._add(node)
        for twin in self.network.twins:
            self._tie(twin)
        for name in self.network.outputs:
            self._freeze_tensor(name, Freeze("it is a graph output", name))
        self._freeze_integer_tables()
        self._freeze_conflicting_slots()
        return self._result()

    def _axes_of(self, name: str) -> tuple[Term, ...]:
        if name not in self.axes:
            self.axes[name] = tuple(fresh(size) for size in self.network.shapes.get(name, ()))
        return self.axes[name]

    def _freeze_tensor(self, name: str, freeze: Freeze) -> None:
        self.freezes.extend((term, freeze) for term in self._axes_of(name))

    def _add(self, node: Node) -> None:
        self._pin_computed_sizes(node)
        view = View(node, self.network, self.dims)
        line = line_of(view)
        if isinstance(line, Refusal):
            self.refusals[node.index] = line.reason
            for name in (*node.inputs, *node.outputs, *node.captured):
                if name:
                    self._freeze_tensor(name, Freeze(line.reason, _place(node)))
            return
        self.lines[node.index] = line
        rule = find_rule(view)
        self._equate(node, line, Freeze(rule.why if rule else "", _place(node)))

    def _equate(self, node: Node, line: Line, freeze: Freeze) -> None:
        operands = list(_operands(node, line))
        sizes = letter_sizes(line, [(op, self.network.shapes[name]) for op, name in operands])
        terms = {letter: fresh(size) for letter, size in sizes.items()}
        for operand, name in operands:
            for axis, term in zip(operand.axes or (), self._axes_of(name), strict=True):
                expr = build(axis.expr, terms)
                self._unify(term, expr, _place(node))
                self.freezes.extend((build(part, terms), freeze) for part in axis.frozen)
        for left, right in line.equations:
            self._unify(build(left, terms), build(right, terms), _place(node))
        for size in line.sizes:
            self._hold(node, line, size.target, size.index, build(size.expr, terms))
        for times in line.times:
            self.rescales.append(Rescale(_target(node, line, times.target), build(times.expr, terms), times.power))
        self._note_contractions(node, line, operands, terms)

    def _tie(self, twin: Twin) -> None:
        """One weight loses the same units wherever it is stored."""
        first, second = self._axes_of(twin.first), self._axes_of(twin.second)
        for left, right in zip(first, reversed(second) if twin.transposed else second, strict=True):
            self._unify(left, right, f"{twin.first} and {twin.second}, which are equal")

    def _unify(self, left: Term, right: Term, place: str) -> None:
        try:
            self.unifier.unify(left, right)
        except MisalignedError as error:
            freeze = Freeze(f"it cannot be aligned: {error}", place)
            self.freezes.extend((term, freeze) for term in error.terms)

    def _hold(self, node: Node, line: Line, target: str, index: int | None, term: Term) -> None:
        """Tie an integer of the graph to the size of a term."""
        position = next((i for i, op in enumerate(line.inputs) if op.name == target), None)
        if position is None:
            self.resizes.append(Resize(AttributeSlot(node.index, target, index), term))
            return
        dim: Dim = self.dims[node.inputs[position]].ravel()[index or 0]
        if isinstance(dim.origin, Literal):
            self.resizes.append(Resize(dim.origin, term))
        elif isinstance(dim.origin, AxisSize):
            self._unify(term, self._axes_of(dim.origin.tensor)[dim.origin.axis], _place(node))
        else:
            self.freezes.append((term, Freeze("its size is computed from other sizes", _place(node))))

    def _pin_computed_sizes(self, node: Node) -> None:
        """Arithmetic on sizes that ends in this node: the axes it started from may not change."""
        if any(name in self.dims for name in node.outputs):
            return  # the arithmetic goes on
        dims = [dim for name in node.inputs if name in self.dims for dim in self.dims[name].ravel()]
        pinned = {axis for dim in dims if isinstance(dim.origin, Computed) for axis in dim.origin.sources}
        freeze = Freeze("a size is computed from it", _place(node))
        self.freezes.extend((self._axes_of(axis.tensor)[axis.axis], freeze) for axis in pinned)

    def _note_contractions(
        self, node: Node, line: Line, operands: list[tuple[Operand, str]], terms: Mapping[str, Term]
    ) -> None:
        summed = [(name, [operand.name for operand in line.inputs]) for name in _contracted(line)]
        summed += [(letter.name, list(over.operands)) for over in line.overs for letter in letters(over.expr)]
        for name, among in summed:
            carriers = [
                (tensor, axis)
                for operand, tensor in operands
                for axis, entry in enumerate(operand.axes or ())
                if operand.name in among and any(letter.name == name for letter in letters(entry.expr))
            ]
            self.contractions.append(Contraction(node, terms[name], tuple(carriers)))

    def _freeze_integer_tables(self) -> None:
        codes = find_codes(self.network, self.lines)
        cut = {*codes, *(code.zero for code in codes.values())}
        for name, terms in self.axes.items():
            if name in self.network.weights and name not in cut and self.network.types[name] not in FLOATS:
                freeze = Freeze("an integer table lies along it", name)
                self.freezes.extend((term, freeze) for term in terms)

    def _freeze_conflicting_slots(self) -> None:
        """One integer cannot hold two sizes: where its terms differ, all of them freeze."""
        slots: dict[object, Resize] = {}
        for resize in self.resizes:
            first = slots.setdefault(resize.slot, resize)
            if self.unifier.resolve(first.term) != self.unifier.resolve(resize.term):
                freeze = Freeze("one integer holds the size of two axes", str(resize.slot))
                self.freezes.extend([(first.term, freeze), (resize.term, freeze)])

    def _result(self) -> Coupling:
        resolve = self.unifier.resolve
        contractions = tuple(Contraction(c.node, resolve(c.term), c.operands) for c in self.contractions)
        frozen: dict[Factor, dict[Freeze, None]] = {}
        axes = {name: tuple(map(resolve, terms)) for name, terms in self.axes.items()}
        codes = find_codes(self.network, self.lines)
        spared = spare(self.network, axes, self.lines, codes)
        zero = zero_factors(self.network, axes, self.lines, codes, spared)
        self.freezes.extend(_inexact(zero, contractions))
        for term, freeze in self.freezes:
            for leaf in leaves(resolve(term)):
                frozen.setdefault(leaf, {})[freeze] = None
        for leaf, freeze in _apart(self.network, axes):
            if leaf not in frozen:
                frozen[leaf] = {freeze: None}
        return Coupling(
            network=self.network,
            axes=axes,
            frozen={leaf: tuple(reasons) for leaf, reasons in frozen.items()},
            resizes=tuple(Resize(r.slot, resolve(r.term)) for r in self.resizes),
            rescales=tuple(self._rescales()),
            contractions=contractions,
            lines=self.lines,
            refusals=self.refusals,
            codes=codes,
            spared=spared,
        )

    def _rescales(self) -> Iterator[Rescale]:
        """The factors that a cut owes, on constants wherever one can hold them."""
        for rescale in self.rescales:
            term, target = self.unifier.resolve(rescale.term), rescale.target
            if isinstance(target, str) and target in self.network.producers:
                yield from (Rescale(*owed) for owed in absorbed(self.network, target, term, rescale.power))
            else:
                yield Rescale(target, term, rescale.power)


def _apart(network: Network, axes: Mapping[str, tuple[Term, ...]]) -> Iterator[tuple[Factor, Freeze]]:
    """The factors of constants that no data meets: what is made of them is computed once, or is stored already.

    Exporters and optimizers differ in how far they take that computation; there is nothing to gain in it.
    """
    met = {leaf for name in network.varying for term in axes.get(name, ()) for leaf in leaves(term)}
    for node in network.nodes:
        if network.varying.isdisjoint(node.outputs):
            terms = (term for name in node.inputs if network.is_float_weight(name) for term in axes.get(name, ()))
            for leaf in (leaf for term in terms for leaf in leaves(term) if leaf not in met):
                yield leaf, Freeze("nothing that is computed from data lies along it", _place(node))


def _operands(node: Node, line: Line) -> Iterator[tuple[Operand, str]]:
    """The line's followed operands with the tensors they stand for; absent tensors are left out."""
    for operands, names in ((line.inputs, node.inputs), (line.outputs, node.outputs)):
        for operand, name in zip(operands, names, strict=False):
            if name and operand.axes is not None:
                yield operand, name


def _target(node: Node, line: Line, name: str) -> str | AttributeSlot:
    """The tensor of an operand, or the attribute of that name."""
    operands = (*zip(line.inputs, node.inputs, strict=False), *zip(line.outputs, node.outputs, strict=False))
    return next((tensor for operand, tensor in operands if operand.name == name), AttributeSlot(node.index, name, None))


def _contracted(line: Line) -> list[str]:
    """Letters of inputs that are summed over: not in an output, an equation or a part that is sliced off."""
    if any(operand.axes is None for operand in line.outputs):
        return []  # only sizes are read
    passed = {letter.name for op in line.outputs for axis in op.axes or () for letter in letters(axis.expr)}
    passed |= {letter.name for equation in line.equations for side in equation for letter in letters(side)}
    gone: dict[str, None] = {}
    for operand in line.inputs:
        for axis in operand.axes or ():
            held = passed | {letter.name for part in axis.frozen for letter in letters(part)}
            if not isinstance(axis.expr, Concatenation):
                gone.update((letter.name, None) for letter in letters(axis.expr) if letter.name not in held)
    return list(gone)


def _inexact(zero: Zero, contractions: tuple[Contraction, ...]) -> Iterator[tuple[Term, Freeze]]:
    """Sums over units that are not zero once their weights are: cutting those would be no masking."""
    for contraction in contractions:
        for leaf in leaves(contraction.term):
            if not any(leaf in zero.get(tensor, ()) for tensor, _ in contraction.operands):
                reason = "it is summed over after an operator that does not keep zero"
                yield leaf, Freeze(reason, _place(contraction.node))
