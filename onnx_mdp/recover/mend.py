"""What a cut would cost after recovery, without recovering all of the model.

For trials of single cuts: the layers that lost inputs are fitted anew, and the next few behind them, as the recovery of
the whole model will do. A block whose absence the next block can make good is cheap, and looks dear without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.axes.terms import keep, leaves
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.cut import masked_weights
from onnx_mdp.groups.find import Analysis
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.recover.refit import Pair, Refitter
from onnx_mdp.rewrite.plan import Plan, factors, plan_edits, removed_blocks
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.positions import Positions
from onnx_mdp.statistics.scales import ScaleSite
from onnx_mdp.statistics.walk import Walk

Array = NDArray[Any]
_NEXT = 4  # sites behind a cut that are fitted too
_KEPT_BYTES = 256 << 20
_WORK = 1e9  # as for `Refitter`: less than for the model that is written
_INPUTS = 64  # likewise: trials compare cuts with each other, and twice as many move damage by less than a tenth


class Mender:
    """Weights of the dense model that compute what a cut and partly recovered one would.

    Cuts should come in graph order: what lies before the first of them is computed once.
    """

    def __init__(
        self, analysis: Analysis, inputs: Inputs, runtime: Runtime, positions: Positions | None = None
    ) -> None:
        self._analysis = analysis
        self._inputs = inputs.take(0, max(_INPUTS, inputs.batch))
        self._runtime = runtime
        self._positions = positions or Positions(analysis.coupling, inputs, runtime)
        self._walk = self._start()

    def __call__(self, plan: Plan) -> dict[str, Array]:
        """Initializers in full shape, zero where the plan cuts, and those fitted anew."""
        analysis, kept = self._analysis, factors(self._analysis, plan)
        found = masked_weights(analysis.coupling, kept, removed_blocks(analysis, plan))
        first = min(self._readers(found), default=0)
        if first < self._walk.position:
            self._walk = self._start()
        self._walk.advance(first)
        model = rewrite(analysis.network.model, plan_edits(analysis, plan))
        dense = self._walk.fork(self._walk.model)
        refitter = Refitter(analysis, plan, model, self._inputs, dense, _WORK, self._positions)
        for pair, fitted in refitter.fits(self._chosen(refitter.pairs(), plan)):
            if fitted.ridge is not None:
                found.update(self._spread(pair, refitter, plan, found))
        return found

    def _start(self) -> Walk:
        return Walk(self._analysis.network.model, self._inputs, self._runtime, _KEPT_BYTES)

    def _readers(self, weights: dict[str, Array]) -> Iterator[int]:
        for name in weights:
            yield from (node.index for node in self._analysis.network.consumers[name])

    def _chosen(self, pairs: list[Pair], plan: Plan) -> list[Pair]:
        """The sites that lost inputs, or scale what is cut, and the first few behind the cut."""
        cut, axes = set(factors(self._analysis, plan)), self._analysis.coupling.axes
        lost = {c.node.index for c in self._analysis.coupling.contractions if not cut.isdisjoint(leaves(c.term))}
        scales = [pair.dense for pair in pairs if isinstance(pair.dense, ScaleSite)]
        lost |= {s.node.index for s in scales if not cut.isdisjoint(x for t in axes[s.weight] for x in leaves(t))}
        direct = [pair for pair in pairs if pair.dense.node.index in lost]
        behind = [pair for pair in pairs if pair.dense.node.index not in lost][:_NEXT]
        return sorted([*direct, *behind], key=lambda pair: pair.dense.node.index)

    def _spread(
        self, pair: Pair, refitter: Refitter, plan: Plan, found: dict[str, Array]
    ) -> Iterator[tuple[str, Array]]:
        """The fitted weight and bias of a site at the places of the dense one."""
        kept, axes = factors(self._analysis, plan), self._analysis.coupling.axes
        for name, own in ((pair.dense.weight, pair.cut.weight), (pair.dense.bias, pair.cut.bias)):
            if name is None or own is None:
                continue
            values = np.array(found.get(name, self._analysis.network.weights[name]))
            places = [keep(term, kept) for term in axes[name]]
            values[np.ix_(*places)] = refitter.values(own)
            yield name, values
