"""Recovers a cut model: fits its weights anew, and keeps that if held-out inputs say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from onnx_mdp.divergence import Divergence
from onnx_mdp.graph.check import check
from onnx_mdp.graph.edit import Edits, rewrite
from onnx_mdp.graph.external import Loadable, loadable
from onnx_mdp.graph.weights import with_weights
from onnx_mdp.groups.find import Analysis
from onnx_mdp.inputs.base import Array, Inputs
from onnx_mdp.recover.refit import Refit, Refitter
from onnx_mdp.rewrite.plan import Plan
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.positions import Positions
from onnx_mdp.statistics.walk import Walk

_KEPT_BYTES = 384 << 20  # of activations, of each of the two models
_HELD_OUT = 4  # one in so many inputs, where none were held out before


@dataclass(frozen=True, eq=False)
class Recovery:
    """What became of a cut model.

    Attributes:
        model: the recovered one; the one given where that is no worse on held-out inputs.
        before: how far the cut model's outputs are from the dense one's on held-out inputs.
        after: the same of the recovered one.
        unit: of both.
        inputs: how many were held out.
        refits: what was fitted, in graph order.
    """

    model: onnx.ModelProto
    before: float
    after: float
    unit: str
    inputs: int
    refits: tuple[Refit, ...]

    @property
    def kept(self) -> bool:
        """Whether the recovered model was the better one."""
        return self.after < self.before


def recover(
    analysis: Analysis,
    plan: Plan,
    model: onnx.ModelProto,
    fit: Inputs,
    held: Inputs | None,
    runtime: Runtime,
    progress: Callable[[int, int], None],
    positions: Positions | None = None,
) -> Recovery:
    """Fit the weights of a cut model to what the dense model computes on its inputs.

    Args:
        analysis: of the dense model.
        plan: what was cut.
        model: the cut model; it is left as it is.
        fit: inputs to fit to.
        held: inputs to judge by; by default a part of `fit`, which then is not fitted to.
        runtime: what all models run on.
        progress: is told layers done and layers in all.
        positions: what the positions of the dense model's streams count, by `fit`; by default they are measured.
    """
    if held is None:
        first = max(fit.count // _HELD_OUT, 1)
        fit, held = fit.take(first, fit.count), fit.take(0, first)
    divergence = Divergence.fit(_outputs(analysis.network.model, held, runtime))
    before = divergence.divergence(_outputs(model, held, runtime))
    copy = with_weights(model, model.graph.initializer)
    walk = Walk(analysis.network.model, fit, runtime, _KEPT_BYTES)
    positions = positions or Positions(analysis.coupling, fit, runtime)
    refits = tuple(Refitter(analysis, plan, copy, fit, walk, positions=positions).run(progress))
    recovered = rewrite(copy, Edits())  # what was copied for single uses and stayed equal becomes one again
    check(recovered)
    after = divergence.divergence(_outputs(recovered, held, runtime))
    return Recovery(recovered if after < before else model, before, after, divergence.unit, held.count, refits)


def distance(dense: Loadable, model: Loadable, inputs: Inputs, runtime: Runtime) -> tuple[float, str]:
    """How far a model's outputs are from the dense one's, and what that is counted in."""
    divergence = Divergence.fit(_outputs(dense, inputs, runtime))
    return divergence.divergence(_outputs(model, inputs, runtime)), divergence.unit


def _outputs(model: Loadable, inputs: Inputs, runtime: Runtime) -> Iterator[Sequence[Array]]:
    with loadable(model) as reference:
        session = runtime.open(reference)
    for feeds in inputs.batches():
        yield session.run(feeds)
