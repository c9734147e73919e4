"""What must hold of a rotated model: it computes the same, its streams are cut exactly, and its operators come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_mdp.graph.check import check, signature
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import NORMALIZED, Analysis, Group
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.rewrite.plan import Plan, masked_original, plan_edits
from onnx_mdp.runtime.base import Array, Runtime
from onnx_mdp.streams.fold import MEAN_FREE
from onnx_mdp.streams.turn import Turned, turn
from onnx_mdp.verify.oracle import FP32_TOLERANCE, relative_error

Feeds = Mapping[str, Array]
SHARES = (7 / 8, 3 / 4, 1 / 2)


@dataclass(frozen=True)
class Proven:
    """A rotated network, its analysis, and the largest errors that were found, by what was compared."""

    turned: Turned
    analysis: Analysis
    errors: Mapping[str, float]

    @property
    def groups(self) -> list[Group]:
        """The group of every stream that is rotated, and those of the streams that units are selected of."""
        found = self.analysis.by_factor
        rotated = [found[stream.factor] for stream in self.turned.streams.values()]
        return [*rotated, *(group for group in self.analysis.groups if group.kind == NORMALIZED)]


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def turned_model(model: onnx.ModelProto, sets: Sequence[Feeds], runtime: Runtime, *, refits: bool = True) -> Turned:
    """A copy of a model, rotated to the directions that matter most over some inputs."""
    shapes = {name: values.shape for name, values in sets[0].items()}
    stacked = {name: np.concatenate([feeds[name] for feeds in sets]) for name in sets[0]}
    prepared = prepare(copy_of(model), shapes, stacked, lossless=True)
    assert prepared.inputs is not None
    return turn(prepared.network, runtime, prepared.inputs, refits=refits)


def prove_streams(
    model: onnx.ModelProto,
    sets: Sequence[Feeds],
    runtime: Runtime,
    shares: Sequence[float] = SHARES,
    tolerance: float = FP32_TOLERANCE,
) -> Proven:
    """Make every stream of a model cuttable, cut each and all of them, and compare all that has to be equal."""
    turned = turned_model(model, sets, runtime)
    analysis = turned.analysis()
    proven = Proven(turned, analysis, {})
    errors: dict[str, float] = {}
    changed = False

    def outputs(one: onnx.ModelProto, *, optimize: bool = True) -> list[list[Array]]:
        session = runtime.open(one.SerializeToString(), optimize=optimize)
        return [session.run(feeds) for feeds in sets]

    def same(expected: list[list[Array]], one: onnx.ModelProto, what: str) -> list[list[Array]]:
        check(one)
        assert signature(one) == signature(model), what
        found = outputs(one)
        errors[what] = error(expected, found)
        assert errors[what] <= tolerance, f"{what}: {errors[what]:.1e}"
        return found

    # What selects among nearly equal numbers magnifies rounding: no more is asked than of the runtime's own fusions.
    tolerance = max(tolerance, 2 * error(outputs(model), outputs(model, optimize=False)))
    dense = same(outputs(model), turned.coupling.network.model, "rotated")
    whole = Plan({}, ())
    same(dense, turned.restored(analysis, whole, turned.coupling.network.model), "restored")
    for share in shares if proven.groups else ():
        plan = Plan({group.name: leading(group, share) for group in proven.groups}, ())
        cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
        masked = outputs(masked_original(analysis, plan))
        found = same(masked, cut, f"cut to {share:.3g}")
        restored = turned.restored(analysis, plan, cut)
        same(found, restored, f"cut to {share:.3g} and restored")
        assert mean_free(restored) <= mean_free(model)
        changed |= any(not np.array_equal(a, b) for a, b in zip(dense[0], found[0], strict=True))
    # Directions of products alone are those of these few inputs: weak ones may say nothing of them.
    assert changed or not any(stream.norms for stream in turned.streams.values())
    return Proven(turned, analysis, errors)


def error(expected: list[list[Array]], found: list[list[Array]]) -> float:
    """The largest error of an output, relative to its largest element."""
    return max(
        relative_error(a, b)
        for one, other in zip(expected, found, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def leading(group: Group, share: float) -> Array:
    """A share of a group's units, by eights where it has as many: the strongest, and the one that is pinned."""
    step = 8 if group.units * share >= 8 else 1
    count = max(int(group.units * share) // step * step, group.floor)
    last = np.arange(group.units - group.pinned, group.units)
    return np.r_[np.arange(count - group.pinned), last]


def mean_free(model: onnx.ModelProto) -> int:
    """How many normalizations do not subtract a mean."""
    return sum(node.op_type == MEAN_FREE for node in model.graph.node)
