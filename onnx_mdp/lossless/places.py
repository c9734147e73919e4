"""Where the positions of an axis come from: from an operator's output back to its inputs, by its rule.

An operator passes an axis when its rule has a letter for it that is neither frozen nor summed over: then position i of
the output depends on position i of the inputs that carry the letter, and on nothing else along it. Letters are found
inside of products too, so that a Reshape that keeps the axis apart, or carries it in a larger one, passes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx_mdp.graph.network import Node
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.rules.line import Concatenation, Expr, Letter, Line, Operand, letters
from onnx_mdp.rules.terms import letter_sizes


@dataclass(frozen=True)
class Place:
    """Positions inside of an axis that is a product of `outer`, the positions, and the rest."""

    axis: int
    outer: int = 1


@dataclass(frozen=True)
class Held:
    """Element `index` of integer input `position` holds `size` times the number of positions."""

    position: int
    index: int
    size: int


@dataclass(frozen=True)
class Passage:
    """Where an operator's inputs hold the positions of its output, by input, and the integers that count them."""

    inputs: Mapping[int, Place]
    held: tuple[Held, ...]


def passage(line: Line, node: Node, shapes: Mapping[str, Shape], place: Place, length: int) -> Passage | None:
    """Where the `length` positions at a place of a node's first output come from; None if they do not pass."""
    axes = line.outputs[0].axes
    if axes is None:
        return None
    sizes = letter_sizes(line, list(_known(line, node, shapes)))
    first = _letter_at(_flat(axes[place.axis].expr), sizes, place.outer, length)
    carriers = None if first is None else _equal(line, sizes, first, length)
    if carriers is None or not carriers.keys().isdisjoint(_fixed(line)):
        return None
    inputs: dict[int, Place] = {}
    for position, (operand, name) in enumerate(zip(line.inputs, node.inputs, strict=False)):
        found = list(_carried(operand, sizes, carriers))
        if len(found) > 1 or None in found:
            return None
        inputs.update((position, where) for where in found if where is not None and name)
    held = _held(line, sizes, carriers, length)
    return Passage(inputs, held) if held or (inputs and held is not None) else None


def _known(line: Line, node: Node, shapes: Mapping[str, Shape]) -> Iterable[tuple[Operand, Shape]]:
    for operands, names in ((line.inputs, node.inputs), (line.outputs, node.outputs)):
        for operand, name in zip(operands, names, strict=False):
            if name and operand.axes is not None:
                yield operand, shapes[name]


def _flat(expr: Expr) -> list[str] | None:
    """The letters of a product from the slowest to the fastest; None where it has a sum in it."""
    if isinstance(expr, Letter):
        return [expr.name]
    parts = [None if isinstance(expr, Concatenation) else _flat(part) for part in expr.parts]
    return None if None in parts else [name for part in parts for name in part or ()]


def _letter_at(
    names: Sequence[str] | None, sizes: Mapping[str, int], outer: int, length: int
) -> tuple[str, int] | None:
    """The letter of a product that the positions lie inside of, and how many outer ones it has itself."""
    before = 1
    for name in names or ():
        if outer % before == 0 and (before * sizes[name]) % (outer * length) == 0:
            return name, outer // before
        before *= sizes[name]
    return None


def _equal(line: Line, sizes: Mapping[str, int], first: tuple[str, int], length: int) -> dict[str, int] | None:
    """All letters that hold the positions, as the equations say, each with its outer ones; None if they disagree."""
    found, pending = dict([first]), [first]
    while pending:
        name, outer = pending.pop()
        for left, right in (pair for equation in line.equations for pair in (equation, equation[::-1])):
            here, there = _flat(left), _flat(right)
            if here is None or name not in here:
                continue
            above = _size(here[: here.index(name)], sizes) * outer
            other = _letter_at(there, sizes, above, length)
            if other is None or found.get(other[0], other[1]) != other[1]:
                return None
            if other[0] not in found:
                found.update([other])
                pending.append(other)
    return found


def _fixed(line: Line) -> set[str]:
    """Letters whose positions depend on each other, or that more than positions depend on."""
    operands = (*line.inputs, *line.outputs)
    exprs = [part for operand in operands for axis in operand.axes or () for part in axis.frozen]
    exprs += [over.expr for over in line.overs] + [times.expr for times in line.times]
    return {letter.name for expr in exprs for letter in letters(expr)}


def _carried(operand: Operand, sizes: Mapping[str, int], carriers: Mapping[str, int]) -> Iterable[Place | None]:
    """The places of an operand that carry the positions, None for one inside of a sum."""
    for i, axis in enumerate(operand.axes or ()):
        for letter in letters(axis.expr):
            if letter.name in carriers:
                names = _flat(axis.expr)
                before = [] if names is None else names[: names.index(letter.name)]
                yield None if names is None else Place(i, _size(before, sizes) * carriers[letter.name])


def _held(line: Line, sizes: Mapping[str, int], carriers: Mapping[str, int], length: int) -> tuple[Held, ...] | None:
    """The integers that count the positions; None where one is not an element of an input."""
    held = []
    for size in line.sizes:
        if carriers.keys().isdisjoint(letter.name for letter in letters(size.expr)):
            continue
        position = next((i for i, operand in enumerate(line.inputs) if operand.name == size.target), None)
        names = _flat(size.expr)
        if position is None or names is None:
            return None
        held.append(Held(position, size.index or 0, _size(names, sizes) // length))
    return tuple(held)


def _size(names: Iterable[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[name] for name in names)
