"""Sequential ridge least squares: each layer of a cut model learns what the dense layer put out.

In graph order, every operator that is linear in a weight (a site) is fitted, weight and bias, and the scale and bias of
every normalization that is spelled out, so that from the cut model's own input it makes the dense model's output, as in
Channel Pruning (He et al., 2017) and Optimal Brain Compression (Frantar & Alistarh, 2022). Where the output joins a
residual stream the target is what the sum should be: dense sum minus the cut model's other summand, so that a block
also mends what those before it left. Weights are drawn towards those of the cut, by as much as held-out inputs favor;
where no fit does better on them, the cut's weights stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_mdp.axes.terms import Factor, keep, leaves
from onnx_mdp.graph.network import Network, Node, Weights, read_network
from onnx_mdp.graph.part import sort_nodes
from onnx_mdp.graph.unshare import unshare
from onnx_mdp.graph.weights import array, put
from onnx_mdp.groups.find import Analysis
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.rewrite.plan import Plan, factors, removed_blocks
from onnx_mdp.statistics.gram import Gram
from onnx_mdp.statistics.positions import Positions, PositionWeights, parts_of
from onnx_mdp.statistics.scales import SCALE_WORK, ScaleSite, find_scales
from onnx_mdp.statistics.sites import WORK, Indices, Site, bias_of, carried_bias, choose_picks, find_sites
from onnx_mdp.statistics.streams import is_normalized, residual, row_weights
from onnx_mdp.statistics.walk import Batch, Walk

Array = NDArray[Any]

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_HELD_OUT = 5  # every fifth batch
_EXACT = 1e-10  # relative error that is rounding
_BIASLESS = ("MatMul", "Mul")  # operators that add nothing


@dataclass(frozen=True)
class Refit:
    """One site: its weight, and its mean squared error on held-out inputs relative to the target's energy."""

    weight: str
    before: float
    after: float
    ridge: float | None


@dataclass(frozen=True)
class _Target:
    """What a site should put out.

    `others` are the other summand of the residual sum, dense and cut; `scale` what lies between the site and the sum;
    `weighs` says whether a normalization reads that, and `weights` what its positions then count, if they differ.
    """

    dense: Site
    kept: Indices
    others: tuple[str, str] | None
    scale: Array
    weighs: bool
    weights: PositionWeights | None = None


@dataclass(frozen=True)
class Pair:
    """A site of the cut model, and the same of the dense one."""

    cut: Site
    dense: Site


class Refitter:
    """Fits the sites of a cut model one after the other.

    Args:
        analysis: of the dense model.
        plan: what was cut.
        model: the cut model; its nodes are sorted and its weights replaced in place.
        inputs: calibration inputs.
        dense: a walk through the dense model, which is not beyond anything that the plan changes.
        work: rows times squared columns to spend on the moments of a site.
        positions: what the positions of its streams count; by default all alike.
    """

    def __init__(
        self,
        analysis: Analysis,
        plan: Plan,
        model: onnx.ModelProto,
        inputs: Inputs,
        dense: Walk,
        work: float = WORK,
        positions: Positions | None = None,
    ) -> None:
        self._work = work
        self._positions = positions
        self._analysis = analysis
        self._plan = plan
        self._kept: Mapping[Factor, Indices] = factors(analysis, plan)
        unshare(model.graph)
        sort_nodes(model, {name: node.index for node in analysis.network.nodes for name in node.outputs})
        self.model = model
        self._network = read_network(model, analysis.network.inputs)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._dense = dense
        self._cut = dense.fork(model)
        self._inputs = inputs

    def run(self, progress: Callable[[int, int], None]) -> Iterator[Refit]:
        """Fit all sites that the cut touches, in order."""
        pairs = self.pairs()
        yield from (found for _, found in self.fits(pairs, progress))
        progress(len(pairs), len(pairs))

    def fits(
        self, pairs: Sequence[Pair], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[tuple[Pair, Refit]]:
        """Fit these sites, in graph order; those that there was something to fit at."""
        for number, pair in enumerate(pairs):
            progress(number, len(pairs))
            self._cut.advance(pair.cut.node.index)
            left = [later.dense.node.index for later in pairs[number:]]
            self._dense.advance(min(left))
            if found := self._fit(pair.cut, self._target(pair.cut, pair.dense), min(left[1:], default=0)):
                yield pair, found

    def pairs(self) -> list[Pair]:
        """The sites whose input the cut changes, in graph order."""
        dense = {site.node.outputs[0]: site for site in _sites(self._analysis.network)}
        touched = touched_nodes(self._analysis, self._plan)
        sites = [(site, dense.get(site.node.outputs[0])) for site in _sites(self._network)]
        return [Pair(site, partner) for site, partner in sites if partner and partner.node.index in touched]

    def values(self, name: str) -> Array:
        """A weight of the cut model as it is now."""
        return array(self._weights[name])

    def _target(self, site: Site, dense: Site) -> _Target:
        network = self._analysis.network
        terms = self._analysis.coupling.axes[dense.y]
        kept = keep(terms[dense.y_axis], self._kept)
        path, cut_path = list(residual(network, dense)), list(residual(self._network, site))
        scale = np.ones(len(kept))
        if not path or len(path) != len(cut_path) or len(terms) != len(network.shapes[dense.y]):
            return _Target(dense, kept, None, scale, weighs=False)
        for node in path[:-1]:
            scale = scale * _gain(network, node, dense)[kept]
        others = _other(path, dense.y, network), _other(cut_path, site.y, self._network)
        stream = path[-1].outputs[0]
        weighs = is_normalized(network, stream)
        return _Target(
            dense, kept, others, scale, weighs, self._positions.of(stream) if weighs and self._positions else None
        )

    def _fit(self, site: Site, target: _Target, then: int) -> Refit | None:
        """Fit one site; None if there is nothing to fit. The walk through the dense model goes to `then` on the way."""
        fitted, held = self._grams(site, target, then)
        weight = array(self._weights[site.weight])
        matrix = np.asarray(site.matrix(weight), np.float64)
        bias = bias_of(site, Weights(self._weights), matrix.shape)
        energy = float((held.c - held.b[:, -1] ** 2 / max(held.rows, 1e-30)).sum() / max(held.rows, 1e-30)) or 1.0
        before = float(held.error(matrix, bias).sum())
        if before <= _EXACT * energy:
            return None
        free = site.bias is not None or site.node.op not in _BIASLESS
        errors = {r: float(held.error(*fitted.fit(matrix, bias, r, free=free)).sum()) for r in _RIDGES}
        ridge = min(errors, key=lambda r: errors[r])
        if not errors[ridge] < before:
            return Refit(site.weight, before / energy, before / energy, None)
        matrix, bias = (fitted + held).fit(matrix, bias, ridge, free=free)
        self._store(site, site.weight_of(matrix, weight), bias)
        return Refit(site.weight, before / energy, errors[ridge] / energy, ridge)

    def _grams(self, site: Site, target: _Target, then: int) -> tuple[Gram, Gram]:
        """Moments on the inputs to fit to, and on those held out."""
        matrix = site.matrix(array(self._weights[site.weight]))
        grams = Gram.empty(*matrix.shape), Gram.empty(*matrix.shape)
        names = [target.dense.y, *(target.others or ())[:1]], [site.x, *(target.others or ())[1:]]
        picks: Indices | None = None
        runs = self._dense.run(names[0], then), self._cut.run(names[1])
        for number, (dense, cut) in enumerate(zip(*runs, strict=True)):
            if picks is None:
                positions = target.dense.positions(dense[target.dense.y].shape)
                work = min(self._work, SCALE_WORK) if isinstance(site, ScaleSite) else self._work
                picks = choose_picks(site, positions, matrix.shape, self._inputs.count, work, parts_of(target.weights))
            y, weights = _wanted(site, target, dense, cut, picks)
            grams[number % _HELD_OUT == _HELD_OUT - 1].add(site.rows(cut[site.x], picks), y, weights)
        return grams

    def _store(self, site: Site, weight: Array, bias: Array) -> None:
        put(self._weights[site.weight], weight, site.weight)
        if site.bias is not None:
            before = array(self._weights[site.bias])
            put(self._weights[site.bias], carried_bias(site, before, bias), site.bias)
        elif site.node.op not in _BIASLESS:
            name = f"{site.weight}/bias"
            self._weights[name] = self.model.graph.initializer.add()
            put(self._weights[name], bias.reshape(-1).astype(weight.dtype), name)
            node = self.model.graph.node[site.node.index]
            del node.input[2:]
            node.input.append(name)


def _sites(network: Network) -> list[Site]:
    """What can be fitted, in graph order."""
    return sorted((*find_sites(network), *find_scales(network)), key=lambda site: site.node.index)


def _wanted(site: Site, target: _Target, dense: Batch, cut: Batch, picks: Indices) -> tuple[Array, Array | None]:
    """The target at the picked positions, and the rows' weights."""
    axis = target.dense.y_axis
    y = _kept(dense[target.dense.y], target.kept, axis)
    if target.others is None:
        return site.places(y, picks), None
    whole, other = dense[target.others[0]], cut[target.others[1]]
    stream = _kept(whole, target.kept, axis)
    gap = np.broadcast_to(stream - other, y.shape)
    shape = [1] * y.ndim
    shape[axis] = -1
    weak = np.abs(target.scale) < 1e-3 * np.abs(target.scale).max(initial=0)
    inverse = np.where(weak, 0.0, 1 / np.where(target.scale == 0, 1.0, target.scale))
    y = y + gap * inverse.astype(np.float32).reshape(shape)
    places = site.places(y, picks)
    return places, row_weights(site, stream, picks, target.weights) if target.weighs else None


def _kept(values: Array, kept: Indices, axis: int) -> Array:
    """In single precision, what is kept along an axis."""
    taken = values if len(kept) == values.shape[axis] else np.take(values, kept, axis=axis)
    return taken.astype(np.float32, copy=False)


def _gain(network: Network, node: Node, dense: Site) -> Array:
    """What a node between a site and the residual sum multiplies each output channel with."""
    width = network.shapes[dense.y][dense.y_axis]
    if node.op == "BatchNormalization":
        scale, variance = (np.asarray(network.weights[node.inputs[i]], np.float64) for i in (1, 4))
        return np.asarray(scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5)))
    if node.op == "Mul":
        factor = next(network.weights[name] for name in node.inputs if name in network.weights)
        return np.broadcast_to(np.asarray(factor, np.float64).reshape(-1), (width,))
    return np.ones(width)


def _other(path: Sequence[Node], y: str, network: Network) -> str:
    """The operand of the sum that the path does not come through."""
    branch = path[-2].outputs[0] if len(path) > 1 else y
    return next(name for name in path[-1].inputs if name != branch)


def touched_nodes(analysis: Analysis, plan: Plan) -> frozenset[int]:
    """Nodes whose result a plan changes: those that sum over what is cut, those behind a removed block, and so on."""
    cut = set(factors(analysis, plan))
    found = {c.node.index for c in analysis.coupling.contractions if not cut.isdisjoint(leaves(c.term))}
    changed = {block.output for block in removed_blocks(analysis, plan)}
    for node in analysis.network.nodes:
        if node.index in found or not changed.isdisjoint((*node.inputs, *node.captured)):
            found.add(node.index)
            changed.update(node.outputs)
    return frozenset(found)
