"""On random networks of every kind of layer, what is measured is what the masked original does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings

from onnx_mdp.divergence import Divergence
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.around import Around
from onnx_mdp.importance.base import Scores
from onnx_mdp.importance.currency import Effort, calibrate
from onnx_mdp.importance.registry import make_scorer
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.rewrite.plan import Plan, masked_original, plan_of_widths
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of
from tests.random_networks.net import described
from tests.random_networks.networks import Example, networks
from tests.random_networks.seed import SEED


def test_measured_damage_is_that_of_the_masked_original(runtime: Runtime) -> None:
    measured: list[int] = []

    @seed(SEED)
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(networks())
    def measured_right(example: Example) -> None:
        note(f"ONNX_MDP_SEED={SEED}\n{described(example.model)}")
        measured.append(examine(analysis_of(example.model), runtime))

    measured_right()
    assert sum(measured) > 25


def examine(analysis: Analysis, runtime: Runtime) -> int:
    """Compare every group and block; returns how many there were."""
    network = analysis.network
    feeds = [random_feeds(network.model, network.inputs, number) for number in range(3)]
    arrays = {name: np.concatenate([feed[name] for feed in feeds]) for name in network.inputs}
    batch = next(iter(network.inputs.values()))[0]
    specs = tuple(InputSpec(name, array.dtype, array.shape[1:], batch) for name, array in arrays.items())
    given = load_inputs(arrays, specs)
    local = make_scorer("magnitude", analysis, None, runtime, lambda done, total: None).score(analysis)
    found = calibrate(analysis, local, given, runtime, Effort((0.5,), 3))
    dense = runtime.open(network.model.SerializeToString())
    divergence = Divergence.fit(dense.run(feed) for feed in feeds)

    def damage(plan: Plan) -> float:
        whole = runtime.open(masked_original(analysis, plan).SerializeToString())
        return divergence.divergence(whole.run(feed) for feed in feeds)

    for promised, (plan, *wider) in single_cuts(analysis, found):
        true = damage(plan)
        if promised > true * 1.002 + 1e-6:  # a wider cut that was measured too did more: curves never rise with width
            true = min((d for d in map(damage, wider) if d > true), key=lambda d: abs(d - promised), default=true)
        assert promised == pytest.approx(true, rel=2e-3, abs=1e-6)
    rescored_makes_sense(analysis, found, given, runtime)
    return len(analysis.groups) + len(analysis.blocks)


def single_cuts(analysis: Analysis, scores: Scores) -> list[tuple[float, list[Plan]]]:
    """The damage that the scores promise of each group at half its units, the cut itself, and cuts to more of them.

    After these each block removed.
    """
    whole = {group.name: group.units for group in analysis.groups}
    found: list[tuple[float, list[Plan]]] = []
    for group in (group for group in analysis.groups if group.floor < group.units):
        width = int(np.clip(round(0.5 * group.units), group.floor, group.units - 1))
        damage = sum(curve.damage[width] for curve in scores.curves if curve.group == group.name)
        widths = range(width, group.units)
        plans = [plan_of_widths(analysis, scores.order, {**whole, group.name: kept}) for kept in widths]
        found.append((float(damage), plans))
    return found + [
        (scores.removal[block.name], [plan_of_widths(analysis, scores.order, whole, (block.name,))])
        for block in analysis.blocks
    ]


def rescored_makes_sense(analysis: Analysis, scores: Scores, inputs: Inputs, runtime: Runtime) -> None:
    """Around a plan too, curves fall with width and nothing does good."""
    around = Around(analysis, scores, inputs, runtime)
    widths = {group.name: max(group.floor, 1, round(0.75 * group.units)) for group in analysis.groups}
    found = around.rescored(around.place(widths, [block.name for block in analysis.blocks[:1]]))
    assert all(np.all(np.diff(curve.damage) <= 1e-9 * (1 + curve.damage[0])) for curve in found.curves)
    assert all(damage >= 0 for damage in found.removal.values())
