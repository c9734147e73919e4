"""Turns kept units and removed blocks into edits of the graph. The one place where terms meet weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from onnx_mdp.axes.terms import Factor, Indices, Kept, keep, leaves, size
from onnx_mdp.graph.dims import Literal
from onnx_mdp.graph.edit import Edits, zeroed_outside
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.shapes import Array
from onnx_mdp.groups.blocks import Block
from onnx_mdp.groups.codes import zero_code
from onnx_mdp.groups.couple import Coupling, Resize

_EPSILON = {"SkipSimplifiedLayerNormalization": 1e-12}  # defaults; 1e-5 for all others
Values = dict[str, dict[int, int]]
Attributes = dict[int, dict[str, Any]]


def edits(coupling: Coupling, kept: Kept, removed: Iterable[Block]) -> Edits:
    """Everything that has to change for the units in `kept` to remain and the `removed` blocks to go."""
    widths = {leaf: len(units) for leaf, units in kept.items()}
    values, attributes = resized(coupling.network, coupling.resizes, widths)
    bypasses = {block.output: block.entry for block in removed}
    ends = {name: _end(bypasses, name) for name in bypasses}
    scales = rescaled(coupling, widths, attributes)
    return Edits(slices(coupling, kept), values, attributes, ends, scales)


def slices(coupling: Coupling, kept: Kept) -> dict[str, dict[int, Indices]]:
    """Kept positions of every weight, and of zero points beside it, for the axes that lose any."""
    points = {code.zero for code in coupling.codes.values()}
    cut = {leaf for leaf, units in kept.items() if len(units) < leaf.size}
    found: dict[str, dict[int, Indices]] = {}
    for name, terms in coupling.axes.items():
        if coupling.is_weight(name) or name in points:
            axes = {axis: keep(term, kept) for axis, term in enumerate(terms) if not cut.isdisjoint(leaves(term))}
            if axes:
                found[name] = axes
    return found


def masks(coupling: Coupling, kept: Kept) -> dict[str, dict[int, Indices]]:
    """As `slices`, for the masked original: without the factors that a weight is spared of."""
    found = slices(coupling, kept)
    for code in coupling.codes.values():
        found.pop(code.zero, None)
    for name, factors in coupling.spared.items():
        if name in found:
            left = {leaf: units for leaf, units in kept.items() if leaf not in factors}
            found[name] = {axis: keep(coupling.axes[name][axis], left) for axis in found[name]}
    return found


def masked_weights(coupling: Coupling, kept: Kept, removed: Iterable[Block] = ()) -> dict[str, Array]:
    """What the weights that a cut touches are in the masked original: zero at dropped positions, and where silenced."""
    cuts = masks(coupling, kept)
    cuts |= {name: {0: np.empty(0, np.int64)} for block in removed for name in block.silenced}
    weights, codes = coupling.network.weights, coupling.codes
    zeros = {name: zero_code(coupling.network, name, codes[name]) for name in cuts if name in codes}
    return {name: zeroed_outside(weights[name], axes, zeros.get(name)) for name, axes in cuts.items()}


def zero_codes(coupling: Coupling) -> dict[str, Array]:
    """For every weight stored as codes, the codes of zero."""
    return {name: zero_code(coupling.network, name, code) for name, code in coupling.codes.items()}


def resized(network: Network, resizes: Iterable[Resize], widths: Mapping[Factor, int]) -> tuple[Values, Attributes]:
    """The integers that change: initializer -> index -> value, and node -> attribute -> value.

    One that holds a size that stays may change too: a bound counted from the end of an axis that shrinks.
    """
    values: Values = {}
    attributes: Attributes = {}
    for resize in resizes if widths else ():
        slot, new = resize.slot, size(resize.term, widths)
        if new == _held(network, resize):
            continue
        if isinstance(slot, Literal):
            values.setdefault(slot.initializer, {})[slot.index] = new
        elif slot.index is None:
            attributes.setdefault(slot.node, {})[slot.name] = new
        else:
            elements = list(network.nodes[slot.node].attributes[slot.name])
            attributes.setdefault(slot.node, {}).setdefault(slot.name, elements)[slot.index] = new
    return values, attributes


def _held(network: Network, resize: Resize) -> int:
    """The integer that stands in the graph now."""
    slot = resize.slot
    if isinstance(slot, Literal):
        return int(network.values[slot.initializer].reshape(-1)[slot.index])
    value = network.nodes[slot.node].attributes.get(slot.name, resize.term.size)
    return int(value if slot.index is None else value[slot.index])


def rescaled(coupling: Coupling, widths: Mapping[Factor, int], attributes: Attributes) -> dict[str, Array]:
    """What tensors are to be multiplied with; attributes that change likewise are added to `attributes`."""
    scales: dict[str, Array] = {}
    for rescale in coupling.rescales:
        left = size(rescale.term, widths) / rescale.term.size
        if left == 1:
            continue
        scale, slot = left**rescale.power, rescale.target
        if isinstance(slot, str):
            scales[slot] = np.asarray(scale * scales.get(slot, 1.0), coupling.network.dtype(slot))
        else:
            node = coupling.network.nodes[slot.node]
            value = node.attributes.get(slot.name, _EPSILON.get(node.op, 1e-5))
            attributes.setdefault(slot.node, {})[slot.name] = value * scale
    return scales


def _end(bypasses: Mapping[str, str], name: str) -> str:
    while name in bypasses:
        name = bypasses[name]
    return name
