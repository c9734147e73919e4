"""Random cuts of a model, compared with the masked original: the property every architecture must have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnx_mdp.graph.check import check, random_feeds
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import Analysis
from onnx_mdp.rewrite.plan import Plan, masked_original, plan_edits
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.verify.oracle import FP32_TOLERANCE, relative_error
from tests.conftest import analysis_of


@dataclass(frozen=True)
class Cut:
    """A cut model with its analysis and plan."""

    analysis: Analysis
    plan: Plan
    model: onnx.ModelProto


def random_plan(analysis: Analysis, seed: int, *, blocks: bool) -> Plan:
    """About half of every group's units, at random; half of the blocks."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in analysis.groups:
        count = max(int(rng.integers(group.units // 4, group.units)), group.floor, 1)
        kept[group.name] = np.sort(rng.permutation(group.units)[:count])
    removed = tuple(block.name for block in analysis.blocks if blocks and rng.random() < 0.5)
    return Plan(kept, removed)


def assert_exact(model: onnx.ModelProto, runtime: Runtime, seed: int = 0, *, blocks: bool = False) -> Cut:
    """Cut at random; the result must equal the masked original, and the comparison must mean something."""
    analysis = analysis_of(model)
    plan = random_plan(analysis, seed, blocks=blocks)
    edits = plan_edits(analysis, plan)
    pruned = rewrite(analysis.network.model, edits)
    check(pruned)
    reference = masked_original(analysis, plan)
    sessions = [runtime.open(m.SerializeToString()) for m in (model, reference, pruned)]
    feeds = [random_feeds(model, analysis.network.inputs, s) for s in (1, 2)]
    dense, expected, found = ([session.run(f) for f in feeds] for session in sessions)
    for wanted, got in zip(expected, found, strict=True):
        for a, b in zip(wanted, got, strict=True):
            assert relative_error(a, b) <= FP32_TOLERANCE
    assert any(not np.array_equal(a, b) for a, b in zip(found[0], found[1], strict=True)), "outputs ignore the input"
    if edits.slices or edits.bypasses:
        changed = any(not np.array_equal(a, b) for a, b in zip(dense[0], expected[0], strict=True))
        assert changed, "the mask changes nothing"
    return Cut(analysis, plan, pruned)
