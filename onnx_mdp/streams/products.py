"""Streams of products alone: bottlenecks, and the widths inside of attention heads.

What one matrix writes and another reads stays the same under any change of basis of the one and the inverse of it of
the other; so does a product of queries with keys, and a mix of values is linear in each of their units. As every head
reads only its own, each may have a basis of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_mdp.axes.terms import Factor, Prod, Sum, Term, leaves
from onnx_mdp.graph.network import Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.streams.basis import instances
from onnx_mdp.streams.places import Places
from onnx_mdp.streams.stream import PRODUCTS, Member, Stream

_SAME_PLACES = {"Add", "Cast", "Div", "Identity", "Mul", "Sub", *PRODUCTS}  # of results as of operands along the axis


def of_products(places: Places, stream: Stream, mixed: Sequence[Node]) -> Stream:
    """A stream that nothing but products write and read, with what changes by the inverse, and what heads have apart.

    Of `mixed`, products of computed tensors, some keep the axis and some sum over it.
    """
    pairs = [node for node in mixed if not places.carrying(node.outputs)]
    tensors = [*(name for name, _ in stream.reads.values()), *(name for node in pairs for name in node.inputs)]
    if not pairs:
        inverse = {m: _positions(places, stream, m) for m, before in stream.members.items() if not before.writes}
    else:
        inverse = {} if stream.reads else _inverse(places, stream, pairs)
    heads = _heads(places, stream, tensors) if mixed else None
    return replace(stream, linear=True, pairs=pairs, heads=heads, inverse=inverse)


def _positions(places: Places, stream: Stream, member: Member) -> Array:
    """Where a stream lies on a member."""
    return instances(places.coupling.axes[member[0]][member[1]], stream.factor).ravel()


def _inverse(places: Places, stream: Stream, pairs: Sequence[Node]) -> dict[Member, Array]:
    """The positions on members that right operands come from; none where left ones come from them too."""
    left, right = ([_behind(places, stream, node.inputs[side]) for node in pairs] for side in (0, 1))
    found: dict[Member, Array] = {}
    for member in stream.members:
        every = _positions(places, stream, member)
        sides = [
            np.unique(np.concatenate([*(behind.get(member, []) for behind in side), []])) for side in (left, right)
        ]
        if not np.array_equal(np.sort(np.concatenate(sides)), np.sort(every)):
            return {}
        if sides[1].size:
            found[member] = sides[1].astype(np.int64)
    return found


def _behind(places: Places, stream: Stream, tensor: str) -> dict[Member, list[int]]:
    """The positions on members that a tensor is computed from along the axis; as if of all where they are not known."""
    pending: list[tuple[str, tuple[int, ...] | None]] = [(tensor, None)]
    seen: set[tuple[str, tuple[int, ...] | None]] = set()
    found: dict[Member, list[int]] = {}
    while pending:
        name, positions = pending.pop()
        if (name, positions) in seen:
            continue
        seen.add((name, positions))
        for member in stream.members:
            if member[0] == name:
                every = _positions(places, stream, member)
                kept = every if positions is None else np.intersect1d(every, positions)
                found.setdefault(member, []).extend(kept.tolist())
        node = places.network.producers.get(name)
        if node is None:
            continue
        if node.op == "Split" and node.attributes.get("axis", 0) % len(places.coupling.axes[name]) in places.axes(name):
            start = sum(places.length(other) for other in node.outputs[: node.outputs.index(name)])
            own = range(places.length(name)) if positions is None else positions
            pending.append((node.inputs[0], tuple(start + position for position in own)))
        else:
            same = node.op in _SAME_PLACES
            pending += [(other, positions if same else None) for other in places.carrying(node.inputs)]
    return found


def _heads(places: Places, stream: Stream, tensors: Sequence[str]) -> Factor | None:
    """The first factor that is beside the stream in every weight, and lies on every tensor that is looked at."""
    axes = places.coupling.axes
    beside = [_beside(axes[name][axis], stream.factor) for name, axis in stream.members]
    on = [[leaf for term in axes[name] for leaf in leaves(term)] for name in tensors]
    return next((leaf for leaf in beside[0] if all(leaf in others for others in [*beside[1:], *on])), None)


def _beside(term: Term, factor: Factor) -> list[Factor]:
    """The factors that a factor is multiplied with, wherever it occurs."""
    if isinstance(term, Sum):
        found = [_beside(part, factor) for part in term.parts if factor in leaves(part)]
        return [leaf for leaf in found[0] if all(leaf in others for others in found[1:])]
    if not isinstance(term, Prod):
        return []
    if factor in term.parts:
        return [part for part in term.parts if isinstance(part, Factor) and part is not factor]
    return [leaf for part in term.parts if factor in leaves(part) for leaf in _beside(part, factor)]
