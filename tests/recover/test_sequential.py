"""Layer by layer on what the cut model computes, or each layer alone on what the dense model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_mdp.axes.terms import keep, leaves
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import Analysis
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.recover.refit import Refitter
from onnx_mdp.rewrite.plan import Plan, factors, plan_edits
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.positions import Positions
from onnx_mdp.statistics.walk import Walk
from tests.conftest import MODELS, analysis_of
from tests.recover.test_refit import error, inputs_of


def readers(analysis: Analysis) -> dict[str, set[int]]:
    """The nodes that sum over each group."""
    sums = analysis.coupling.contractions
    return {g.name: {c.node.index for c in sums if g.factor in leaves(c.term)} for g in analysis.groups}


def one_shot(analysis: Analysis, plan: Plan, inputs: Inputs, runtime: Runtime) -> onnx.ModelProto:
    """The cut model with every layer fitted alone: its inputs are the dense model's, less what it loses."""
    found: dict[str, np.ndarray] = {}
    positions = Positions(analysis.coupling, inputs, runtime)
    summed = readers(analysis)
    for index in sorted(set().union(*(summed[name] for name in plan.kept))):
        part = Plan({name: units for name, units in plan.kept.items() if index in summed[name]}, ())
        model = rewrite(analysis.network.model, plan_edits(analysis, part))
        walk = Walk(analysis.network.model, inputs, runtime, 1 << 28)
        refitter = Refitter(analysis, part, model, inputs, walk, positions=positions)
        pairs = [pair for pair in refitter.pairs() if pair.dense.node.index == index]
        for pair, _ in refitter.fits(pairs):
            for name, own in ((pair.dense.weight, pair.cut.weight), (pair.dense.bias, pair.cut.bias)):
                if name and own:
                    values = np.array(analysis.network.weights[name])
                    axes = analysis.coupling.axes[name]
                    values[np.ix_(*(keep(term, factors(analysis, part)) for term in axes))] = refitter.values(own)
                    found[name] = values
    dense = onnx.ModelProto()
    dense.CopyFrom(analysis.network.model)
    for tensor in dense.graph.initializer:
        if tensor.name in found:
            tensor.CopyFrom(numpy_helper.from_array(found[tensor.name], tensor.name))
    assert found
    return rewrite(dense, plan_edits(analysis, plan))


def sequential(analysis: Analysis, plan: Plan, inputs: Inputs, runtime: Runtime) -> onnx.ModelProto:
    """The cut model as it is recovered."""
    model = rewrite(analysis.network.model, plan_edits(analysis, plan))
    walk = Walk(analysis.network.model, inputs, runtime, 1 << 28)
    positions = Positions(analysis.coupling, inputs, runtime)
    refitter = Refitter(analysis, plan, model, inputs, walk, positions=positions)
    assert list(refitter.run(lambda done, total: None))
    return refitter.model


@pytest.mark.parametrize(("name", "share"), [("digits_cnn.onnx", 0.5), ("digits_vit.onnx", 1.0)])
def test_layers_that_mend_what_those_before_them_left(
    name: str, share: float, calibration: Path, runtime: Runtime
) -> None:
    """It is worth much on a CNN, and must not be worse on a transformer."""
    analysis, x = analysis_of(MODELS / name), np.load(calibration)["input"]
    inner = [g for g in analysis.groups if len(readers(analysis)[g.name]) == 1]
    plan = Plan({g.name: np.arange(max(g.units // 2, g.floor)) for g in inner}, ())
    inputs = inputs_of(x[:128], "input")
    once, after = (fit(analysis, plan, inputs, runtime) for fit in (one_shot, sequential))
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    errors = [error(analysis, model, x[128:], runtime) for model in (cut, once, after)]
    assert errors[1] < errors[0]
    assert errors[2] < share * errors[1]
