"""Reconstruction: what cannot be made good by re-fitting the weights that stay.

Units are dropped greedily, those first whose loss costs the layers that read them least after least squares have
re-fitted what is left (`onnx_mdp.importance.elimination`). Groups that several layers read add up their losses. Where
units are summed over by something else than a weight (queries with keys), nothing is re-fitted and the energy of what
is lost counts, as for `activation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.axes.terms import Factor, Term, keep
from onnx_mdp.groups.blocks import innermost
from onnx_mdp.groups.couple import Contraction
from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.activation import ActivationScorer
from onnx_mdp.importance.base import Curve, Scores, Vector, contractions_by_factor, total_shares
from onnx_mdp.importance.elimination import Layer, eliminate
from onnx_mdp.importance.statistics import Moments
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.collect import collect, gram_bytes
from onnx_mdp.statistics.gram import Gram
from onnx_mdp.statistics.positions import Positions
from onnx_mdp.statistics.sites import Site, find_sites
from onnx_mdp.statistics.walk import Walk

Array = NDArray[Any]
Progress = Callable[[int, int], None]
_CHUNK_BYTES = 384 << 20  # of moments and of activations
_KEPT_BYTES = 384 << 20


def unit_columns(term: Term, factor: Factor, groups: int, columns: int) -> dict[int, Array]:
    """The columns of each unit in the matrices of a site, by the group of the convolution: (units, C) each.

    `term` is that of the axis which is summed over; each of its positions has the same number of columns.
    """
    others = keep(term, {factor: np.arange(0)})
    channels = [np.setdiff1d(keep(term, {factor: np.array([u])}), others) for u in range(factor.size)]
    window = columns * groups // term.size
    found = (np.stack(channels)[:, :, None] * window + np.arange(window)).reshape(factor.size, -1)
    return {
        g: (found[found // columns == g] - g * columns).reshape(factor.size, -1) for g in np.unique(found // columns)
    }


class ReconstructionScorer(ActivationScorer):
    """A unit is worth what the layers that read it lose without it after they are re-fitted."""

    name: ClassVar[str] = "reconstruction"

    def __init__(
        self,
        analysis: Analysis,
        moments: Moments,
        inputs: Inputs,
        runtime: Runtime,
        positions: Positions | None = None,
    ) -> None:
        super().__init__(analysis, moments)
        self._inputs = inputs
        self._positions = positions or Positions(analysis.coupling, inputs, runtime)
        self._walk = Walk(analysis.network.model, inputs, runtime, _KEPT_BYTES)
        self._sites = {site.node.index: site for site in find_sites(analysis.network)}

    def score(self, analysis: Analysis) -> Scores:
        """Orders, curves and removal damage of everything that can be pruned."""
        shares = total_shares(analysis, {block.name: self.share(block) for block in analysis.blocks})
        by_factor = contractions_by_factor(analysis)
        order: dict[str, NDArray[np.int64]] = {}
        curves: list[Curve] = []
        for groups in self._chunks(by_factor):
            sites = {s.weight: s for g in groups for c in by_factor.get(g.factor, []) if (s := self._site(c))}
            self._walk.advance(min((site.node.index for site in sites.values()), default=0))
            grams = collect(analysis.network, self._walk, list(sites.values()), self._inputs.count, self._positions)
            for group in groups:
                found = self._eliminate(group, by_factor.get(group.factor, []), grams, shares)
                order[group.name] = found[0]
                curves += found[1]
        return Scores(order, tuple(curves), shares)

    def _site(self, contraction: Contraction) -> Site | None:
        """The site that sums over the units, if it is one and its weight is all that carries them."""
        site = self._sites.get(contraction.node.index)
        return site if site and site.x in [tensor for tensor, _ in contraction.operands] else None

    def _chunks(self, by_factor: Mapping[Any, Sequence[Contraction]]) -> Iterator[list[Group]]:
        """Groups in graph order whose moments and activations fit into memory together."""
        network = self._analysis.network
        first = {
            g.name: min((c.node.index for c in by_factor.get(g.factor, ())), default=0) for g in self._analysis.groups
        }
        chunk: list[Group] = []
        held: dict[str, int] = {}
        for group in sorted(self._analysis.groups, key=lambda g: first[g.name]):
            sites = [s for c in by_factor.get(group.factor, ()) if (s := self._site(c))]
            sizes = {s.weight: gram_bytes(network, s) for s in sites}
            sizes |= {n: 4 * self._inputs.batch * math.prod(network.shapes[n]) for s in sites for n in (s.x, s.y)}
            if chunk and sum({**held, **sizes}.values()) > _CHUNK_BYTES:
                yield chunk
                chunk, held = [], {}
            chunk.append(group)
            held |= sizes
        if chunk:
            yield chunk

    def _eliminate(
        self,
        group: Group,
        contractions: Sequence[Contraction],
        grams: Mapping[str, Gram],
        shares: Mapping[str, float],
    ) -> tuple[NDArray[np.int64], list[Curve]]:
        """A group's order and curves."""
        layers: list[tuple[str | None, Layer]] = []
        fixed: list[tuple[str | None, Vector]] = []
        for contraction in contractions:
            block = innermost(self._analysis.blocks, contraction.node.index)
            weight = shares[block] if block else 1.0
            site = self._site(contraction)
            if site is None:
                energy = np.maximum(self.energy(contraction, group), 0)
                fixed.append((block, weight * energy / (energy.sum() or 1.0)))
            else:
                layers += [(block, layer) for layer in self._layers(group, site, grams[site.weight], weight)]
        found = eliminate([layer for _, layer in layers], [v for _, v in fixed], group.units)
        blocks = [block for block, _ in (*layers, *fixed)]
        summed: dict[str | None, Vector] = {}
        for block, losses in zip(blocks, found.losses, strict=True):
            summed[block] = summed.get(block, np.zeros(group.units + 1)) + losses
        return found.order, [Curve(group.name, block, losses) for block, losses in summed.items()]

    def _layers(self, group: Group, site: Site, gram: Gram, share: float) -> list[Layer]:
        """The least squares problems of a site that units of the group enter, one for each group of a convolution."""
        matrix = np.asarray(site.matrix(self._analysis.network.weights[site.weight]), np.float64)
        term = self._analysis.coupling.axes[site.x][site.x_axis]
        columns = unit_columns(term, group.factor, len(matrix), matrix.shape[1])
        moments = gram.a[:, :-1, :-1] / max(gram.rows, 1e-30)
        if site.bias is not None:  # which then takes up the mean of what is lost
            mean = gram.a[:, -1, :-1] / max(gram.rows, 1e-30)
            moments = moments - mean[:, :, None] * mean[:, None, :]
        layers = [Layer(moments[g], matrix[g], columns[g], share) for g in columns]
        total = sum(layer.energy for layer in layers)
        for layer in layers:
            layer.share = share * layer.energy / total
        return layers
