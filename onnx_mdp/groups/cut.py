"""Turns kept units and removed blocks into edits of the graph. The one place where terms meet weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from onnx_mdp.axes.terms import Indices, Kept, Term, keep, leaves, size
from onnx_mdp.graph.dims import Literal
from onnx_mdp.graph.edit import Edits
from onnx_mdp.groups.blocks import Block
from onnx_mdp.groups.couple import AttributeSlot, Coupling


def slices(coupling: Coupling, kept: Kept) -> dict[str, dict[int, Indices]]:
    """Kept positions of every floating point initializer, for the axes that lose any."""
    cut = {leaf for leaf, units in kept.items() if len(units) < leaf.size}
    found: dict[str, dict[int, Indices]] = {}
    for name, terms in coupling.axes.items():
        if coupling.network.is_float_weight(name):
            axes = {axis: keep(term, kept) for axis, term in enumerate(terms) if not cut.isdisjoint(leaves(term))}
            if axes:
                found[name] = axes
    return found


def sizes(coupling: Coupling, kept: Kept) -> tuple[dict[str, dict[int, int]], dict[int, dict[str, Any]]]:
    """The integers that change: initializer -> index -> value, and node -> attribute -> value."""
    widths = {leaf: len(units) for leaf, units in kept.items()}
    values: dict[str, dict[int, int]] = {}
    attributes: dict[int, dict[str, Any]] = {}
    for resize in coupling.resizes:
        new = size(resize.term, widths)
        if new == resize.term.size:
            continue
        if isinstance(resize.slot, Literal):
            values.setdefault(resize.slot.initializer, {})[resize.slot.index] = new
        else:
            _set_attribute(coupling, attributes.setdefault(resize.slot.node, {}), resize.slot, new)
    return values, attributes


def _set_attribute(coupling: Coupling, changed: dict[str, Any], slot: AttributeSlot, new: int) -> None:
    if slot.index is None:
        changed[slot.name] = new
        return
    elements = changed.setdefault(slot.name, list(coupling.network.nodes[slot.node].attributes[slot.name]))
    elements[slot.index] = new


def edits(coupling: Coupling, kept: Kept, removed: Iterable[Block]) -> Edits:
    """Everything that has to change for the units in `kept` to remain and the `removed` blocks to go."""
    values, attributes = sizes(coupling, kept)
    bypasses = {block.output: block.entry for block in removed}
    return Edits(slices(coupling, kept), values, attributes, {name: _end(bypasses, name) for name in bypasses})


def _end(bypasses: Mapping[str, str], name: str) -> str:
    while name in bypasses:
        name = bypasses[name]
    return name


def first_units(term: Term, widths: Mapping[Any, int]) -> Kept:
    """The first `widths[leaf]` units of every leaf: what a timing model keeps, since values do not matter there."""
    return {leaf: np.arange(widths[leaf]) for leaf in leaves(term) if leaf in widths}
