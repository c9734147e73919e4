"""The property every network and every plan must have: cutting is masking, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_mdp.graph.check import check, random_feeds, signature
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import Analysis
from onnx_mdp.rewrite.plan import Plan, from_json, masked_original, plan_edits, to_json
from onnx_mdp.runtime.base import Array, Feeds, Runtime
from onnx_mdp.verify.oracle import FP32_TOLERANCE
from tests.random_networks.networks import Example

Results = list[list[Array]]


@dataclass(frozen=True)
class Outcome:
    """What one comparison is worth.

    Attributes:
        model: the pruned network.
        groups: number of free groups.
        cut: whether a weight that is still in the pruned network lost units, or a block went.
        changed: whether masking changed an output of the dense network.
        depends: whether the dense network's outputs depend on its inputs.
        varies: whether the pruned network's do.
    """

    model: onnx.ModelProto
    groups: int
    cut: bool
    changed: bool
    depends: bool
    varies: bool


def draw_plan(data: st.DataObject, analysis: Analysis) -> Plan:
    """Random units of every group, down to its floor, and random blocks gone; shrinks towards the dense plan."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed of the kept units"))
    all_to_the_floor = data.draw(st.sampled_from([False] * 7 + [True]), label="all to the floor")
    kept = {}
    for group in analysis.groups:
        most = group.units - group.floor
        dropped = most if all_to_the_floor else data.draw(st.integers(0, most), label=f"cut from {group.name}")
        kept[group.name] = np.sort(rng.permutation(group.units)[dropped:])
    removed = [b.name for b in analysis.blocks if data.draw(st.booleans(), label=f"remove {b.name}")]
    return Plan(kept, tuple(removed))


def assert_exact(example: Example, analysis: Analysis, plan: Plan, runtime: Runtime) -> Outcome:
    """Cut as planned and compare with the masked original, on the batch that was analyzed and on another one."""
    source, normal = example.model, analysis.network.model
    edits = plan_edits(analysis, plan)
    pruned = rewrite(normal, edits)
    check(pruned)
    assert signature(pruned) == signature(source)
    feeds = _feeds(example, analysis)
    dense = _run(runtime, source, feeds)
    _assert_close(runtime, source, dense, _run(runtime, normal, feeds), feeds, dense)
    reference = masked_original(analysis, plan)
    expected, found = _run(runtime, reference, feeds), _run(runtime, pruned, feeds)
    _assert_close(runtime, reference, expected, found, feeds, dense)
    alive = {tensor.name for tensor in pruned.graph.initializer}
    cut = bool(edits.bypasses) or not alive.isdisjoint(edits.slices)
    changed = any(_differ(a, b) for a, b in zip(dense, expected, strict=True))
    return Outcome(pruned, len(analysis.groups), cut, changed, _differ(*dense[:2]), _differ(*found[:2]))


def assert_saved_plan_is_the_same(analysis: Analysis, plan: Plan) -> None:
    """A plan that is written and read back makes the same edits."""
    again = from_json(analysis, to_json(analysis, plan))
    first, second = plan_edits(analysis, plan), plan_edits(analysis, again)
    assert first.slices.keys() == second.slices.keys()
    for name, cuts in first.slices.items():
        assert all(np.array_equal(kept, second.slices[name][axis]) for axis, kept in cuts.items())
    assert (first.values, first.attributes, first.bypasses) == (second.values, second.attributes, second.bypasses)
    assert first.scales == second.scales


def _feeds(example: Example, analysis: Analysis) -> list[Feeds]:
    shapes = analysis.network.inputs
    feeds: list[Feeds] = [random_feeds(example.model, shapes, seed) for seed in (1, 2)]
    if example.dynamic:
        larger = {name: (3, *shape[1:]) for name, shape in shapes.items()}
        feeds.append(random_feeds(example.model, larger, 3))
    return feeds


def _run(runtime: Runtime, model: onnx.ModelProto, feeds: Sequence[Feeds]) -> Results:
    session = runtime.open(model.SerializeToString())
    return [session.run(f) for f in feeds]


def _assert_close(
    runtime: Runtime, model: onnx.ModelProto, expected: Results, found: Results, feeds: Sequence[Feeds], dense: Results
) -> None:
    """What a model computes and what another one does differ no more than rounding explains."""
    error = _error(expected, found, dense)
    assert error <= FP32_TOLERANCE or error <= _error(expected, _run(runtime, _shaken(model), feeds), dense)


def _error(expected: Results, found: Results, dense: Results) -> float:
    """Largest error relative to an output's largest value, of which a mask may leave next to nothing."""
    worst = 0.0
    for row in zip(expected, found, dense, strict=True):
        for a, b, original in zip(*row, strict=True):
            assert a.shape == b.shape
            assert np.isfinite([a, b]).all()
            scale = max(np.abs(a).max(), 1e-3 * np.abs(original).max())
            worst = max(worst, float(np.abs(a - b).max() / scale) if scale else 0.0)
    return worst


def _shaken(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every weight changed by about a millionth.

    What that changes, rounding may change too: where large terms cancel, float noise exceeds any fixed tolerance.
    """
    rng = np.random.default_rng(0)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim:  # no exponent of a formula
            shaken = values * (1 + 1e-6 * rng.standard_normal(values.shape))
            tensor.CopyFrom(numpy_helper.from_array(shaken.astype(np.float32), tensor.name))
    return copy


def _differ(left: Sequence[Array], right: Sequence[Array]) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(left, right, strict=True))
