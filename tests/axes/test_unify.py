"""Unification: cutting commutes with every operator of random reshape, transpose, concat, split and slice graphs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_mdp.axes.terms import Factor, Kept, Prod, Sum, Term, concat, fresh, keep, leaves, prod, size
from onnx_mdp.axes.unify import MisalignedError, Unifier


@dataclass
class Tensor:
    """An array of ids with the term of each axis."""

    values: np.ndarray
    axes: list[Term]


@dataclass
class Step:
    """One operator: its name, operands, results and parameters given by terms."""

    op: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    axis: int = 0
    order: tuple[int, ...] = ()
    before: Term | None = None


class Program:
    """A random graph, built operator by operator, with equations as the rules state them."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.unifier = Unifier()
        self.tensors: list[Tensor] = []
        self.steps: list[Step] = []
        self.frozen: list[Term] = []
        for _ in range(draw(st.integers(1, 3))):
            self.source(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 12]), min_size=1, max_size=3)))

    def source(self, shape: list[int]) -> None:
        start = sum(t.values.size for t in self.tensors)
        values = np.arange(start, start + math.prod(shape)).reshape(shape)
        self.tensors.append(Tensor(values, [fresh(n) for n in shape]))

    def equate(self, left: Term, right: Term) -> None:
        try:
            self.unifier.unify(left, right)
        except MisalignedError as error:
            self.frozen += error.terms

    def grow(self) -> None:
        op = self.draw(st.sampled_from(["reshape", "reshape", "transpose", "concat", "split", "slice", "add"]))
        tensor = self.draw(st.sampled_from(self.tensors))
        getattr(self, op)(tensor)

    def emit(self, step: Step) -> None:
        self.steps.append(step)
        self.tensors += step.outputs

    def reshape(self, x: Tensor) -> None:
        shape: list[int] = []
        rest = x.values.size
        while rest > 1 and len(shape) < 3:
            part = self.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
            shape.append(part)
            rest //= part
        y = Tensor(x.values.reshape([*shape, rest]), [fresh(n) for n in [*shape, rest]])
        self.equate(prod(x.axes), prod(y.axes))
        self.emit(Step("reshape", [x], [y]))

    def transpose(self, x: Tensor) -> None:
        order = tuple(self.draw(st.permutations(range(x.values.ndim))))
        self.emit(Step("transpose", [x], [Tensor(x.values.transpose(order), [x.axes[i] for i in order])], order=order))

    def concat(self, x: Tensor) -> None:
        axis = self.draw(st.integers(0, x.values.ndim - 1))
        shape = [n for i, n in enumerate(x.values.shape) if i != axis]
        same = [
            t
            for t in self.tensors
            if t.values.ndim == x.values.ndim and [n for i, n in enumerate(t.values.shape) if i != axis] == shape
        ]
        other = self.draw(st.sampled_from(same))
        for i, (a, b) in enumerate(zip(x.axes, other.axes, strict=True)):
            if i != axis:
                self.equate(a, b)
        axes = list(x.axes)
        axes[axis] = concat([x.axes[axis], other.axes[axis]])
        self.emit(Step("concat", [x, other], [Tensor(np.concatenate([x.values, other.values], axis), axes)], axis))

    def split(self, x: Tensor) -> None:
        axis = self.draw(st.integers(0, x.values.ndim - 1))
        if x.values.shape[axis] < 2:
            return
        at = self.draw(st.integers(1, x.values.shape[axis] - 1))
        parts = [fresh(at), fresh(x.values.shape[axis] - at)]
        self.equate(x.axes[axis], concat(parts))
        outputs = []
        for values, part in zip(np.split(x.values, [at], axis), parts, strict=True):
            axes = list(x.axes)
            axes[axis] = part
            outputs.append(Tensor(values, axes))
        self.emit(Step("split", [x], outputs, axis, before=parts[0]))

    def slice(self, x: Tensor) -> None:
        axis = self.draw(st.integers(0, x.values.ndim - 1))
        n = x.values.shape[axis]
        start = self.draw(st.integers(0, n - 1))
        stop = self.draw(st.integers(start + 1, n))
        head, body, tail = (fresh(k) if k else Sum(()) for k in (start, stop - start, n - stop))
        self.equate(x.axes[axis], concat([head, body, tail]))
        axes = list(x.axes)
        axes[axis] = body
        values = x.values[(slice(None),) * axis + (slice(start, stop),)]
        self.emit(Step("slice", [x], [Tensor(values, axes)], axis, before=head))

    def add(self, x: Tensor) -> None:
        other = self.draw(st.sampled_from([t for t in self.tensors if t.values.shape == x.values.shape]))
        for a, b in zip(x.axes, other.axes, strict=True):
            self.equate(a, b)
        self.emit(Step("add", [x, other], [Tensor(x.values + 1000 * other.values, list(x.axes))]))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A random graph of up to eight operators."""
    program = Program(draw)
    for _ in range(draw(st.integers(1, 8))):
        program.grow()
    return program


def cut(program: Program, tensor: Tensor, kept: Kept) -> np.ndarray:
    """The tensor with the dropped units gone."""
    values = tensor.values
    for axis, term in enumerate(tensor.axes):
        values = np.take(values, keep(program.unifier.resolve(term), kept), axis=axis)
    return values


def rerun(program: Program, step: Step, inputs: list[np.ndarray], widths: dict[Factor, int]) -> list[np.ndarray]:
    """The operator on cut operands, its integer parameters recomputed from the terms."""

    def width(term: Term | None) -> int:
        return size(program.unifier.resolve(term), widths) if term else 0

    match step.op:
        case "reshape":
            return [inputs[0].reshape([width(term) for term in step.outputs[0].axes])]
        case "transpose":
            return [inputs[0].transpose(step.order)]
        case "concat":
            return [np.concatenate(inputs, step.axis)]
        case "split":
            return np.split(inputs[0], [width(step.before)], step.axis)
        case "slice":
            start = width(step.before)
            stop = start + width(step.outputs[0].axes[step.axis])
            return [inputs[0][(slice(None),) * step.axis + (slice(start, stop),)]]
        case _:
            return [inputs[0] + 1000 * inputs[1]]


@settings(max_examples=300)
@given(programs(), st.data())
def test_cutting_commutes_with_every_operator(program: Program, data: st.DataObject) -> None:
    resolve = program.unifier.resolve
    frozen = {leaf for term in program.frozen for leaf in leaves(resolve(term))}
    free = dict.fromkeys(leaf for t in program.tensors for term in t.axes for leaf in leaves(resolve(term)))
    kept = {
        leaf: np.array(sorted(data.draw(st.sets(st.integers(0, leaf.size - 1), min_size=1))), dtype=np.int64)
        for leaf in free
        if leaf not in frozen
    }
    widths = {leaf: len(units) for leaf, units in kept.items()}
    for step in program.steps:
        found = rerun(program, step, [cut(program, t, kept) for t in step.inputs], widths)
        for expected, result in zip(step.outputs, found, strict=True):
            assert np.array_equal(cut(program, expected, kept), result), step.op


@settings(max_examples=200)
@given(programs())
def test_resolving_is_idempotent_and_keeps_sizes(program: Program) -> None:
    for tensor in program.tensors:
        for axis, term in enumerate(tensor.axes):
            once = program.unifier.resolve(term)
            assert once.size == tensor.values.shape[axis]
            assert program.unifier.resolve(once) == once


def test_heads_split_a_width_everywhere() -> None:
    unifier = Unifier()
    width, heads, dim = Factor(768), Factor(12), Factor(64)
    unifier.unify(width, prod([heads, dim]))
    assert unifier.resolve(width) == Prod((heads, dim))


def test_channel_shuffle_makes_both_halves_one() -> None:
    unifier = Unifier()
    left, right, two, half = Factor(58), Factor(58), Factor(2), Factor(58)
    unifier.unify(concat([left, right]), prod([two, half]))
    assert unifier.resolve(left) == unifier.resolve(right) == unifier.resolve(half)


def test_chains_of_factors_as_long_as_a_network_resolve() -> None:
    """A stream through a thousand layers is a thousand factors bound one to the next."""
    unifier = Unifier()
    chain = [Factor(8) for _ in range(5000)]
    for left, right in itertools.pairwise(chain):
        unifier.unify(left, right)
    assert unifier.resolve(chain[0]) is unifier.resolve(chain[2500]) is chain[-1]


def test_sums_are_cut_from_the_left() -> None:
    unifier = Unifier()
    whole, a, b = Factor(96), Factor(64), Factor(32)
    unifier.unify(whole, concat([a, b]))
    assert unifier.resolve(whole) == Sum((a, b))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (prod([Factor(2), Factor(3)]), prod([Factor(3), Factor(2)])),
        (concat([Factor(3), Factor(5)]), prod([Factor(4), Factor(2)])),
        (Factor(4), Factor(5)),
    ],
    ids=["coprime factors", "a sum across units", "sizes differ"],
)
def test_what_cannot_be_aligned_is_refused(left: Term, right: Term) -> None:
    with pytest.raises(MisalignedError):
        Unifier().unify(left, right)


def test_only_what_cannot_be_aligned_is_named() -> None:
    """A rolled map against windows: the channels behind them are none of it."""
    rows, channels = concat([Factor(53), Factor(3)]), Factor(96)
    windows, others = prod([Factor(8), Factor(7)]), Factor(96)
    unifier = Unifier()
    with pytest.raises(MisalignedError) as caught:
        unifier.unify(prod([Factor(2), rows, channels]), prod([Factor(2), windows, others]))
    assert unifier.resolve(channels) is unifier.resolve(others)
    assert not {channels, others}.intersection(leaf for term in caught.value.terms for leaf in leaves(term))
