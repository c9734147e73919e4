"""One currency: what a curve says at a measured width is what the cut does to the outputs, and it adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.helper import make_node as node
from scipy.stats import spearmanr

from onnx_mdp.divergence import Divergence
from onnx_mdp.errors import OptionError
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.base import Curve, Scores, blurred
from onnx_mdp.importance.currency import Effort, _finer, calibrate, find_effort, scaled, split_inputs
from onnx_mdp.importance.registry import make_scorer
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.rewrite.plan import Plan, masked_original, plan_of_widths
from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of, build_model

BOTH = pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])
FEW = Effort((0.5,), 8)


def inputs_of(x: np.ndarray, name: str = "input", batch: int | None = None) -> Inputs:
    return load_inputs({name: x}, (InputSpec(name, x.dtype, x.shape[1:], batch),))


def scored(analysis: Analysis, inputs: Inputs | None, runtime: Runtime, name: str = "auto") -> Scores:
    return make_scorer(name, analysis, inputs, runtime, lambda done, total: None).score(analysis)


def total(scores: Scores, group: str) -> np.ndarray:
    return np.sum([curve.damage for curve in scores.curves if curve.group == group], axis=0)


def damage_of(analysis: Analysis, plan: Plan, x: np.ndarray, runtime: Runtime) -> float:
    """The divergence of a masked model, run whole."""
    dense, cut = (
        runtime.open(model.SerializeToString()).run({"input": x})
        for model in (analysis.network.model, masked_original(analysis, plan))
    )
    return Divergence.fit([dense]).divergence([cut])


@BOTH
@pytest.mark.parametrize("levels", [(0.5,), (0.5, 0.75)], ids=["one", "two"])
def test_curves_go_through_what_whole_models_do(
    model: str, levels: tuple[float, ...], runtime: Runtime, calibration: Path
) -> None:
    analysis = analysis_of(MODELS / model)
    x = np.load(calibration)["input"]
    local = scored(analysis, inputs_of(x[:16]), runtime)
    found = calibrate(analysis, local, inputs_of(x[16:24]), runtime, Effort(levels, 8))
    assert found.unit == "KL"
    whole = {group.name: group.units for group in analysis.groups}
    for group in analysis.groups:
        assert np.array_equal(found.order[group.name], local.order[group.name])
        curve = total(found, group.name)
        assert curve[-1] == 0
        assert np.all(np.diff(curve) <= 1e-12)
        half = max(round(group.units / 2), 1)
        plan = plan_of_widths(analysis, found.order, {**whole, group.name: half})
        expected = damage_of(analysis, plan, x[16:24], runtime)
        if len(levels) == 1:  # of two, the wider may by chance do more damage, and both then count as that
            assert curve[half] == pytest.approx(expected, rel=2e-3, abs=1e-6)
        assert curve[half] >= (1 - 2e-3) * expected - 1e-6
    for block in analysis.blocks:
        plan = plan_of_widths(analysis, found.order, whole, (block.name,))
        assert found.removal[block.name] == pytest.approx(
            damage_of(analysis, plan, x[16:24], runtime), rel=2e-3, abs=1e-6
        )


@BOTH
def test_damage_adds_up_better_than_local_errors_do(model: str, runtime: Runtime, calibration: Path) -> None:
    """What the solver minimizes must rank joint plans as their outputs do, on inputs that none of it has seen.

    Weights stay as they are here, so units are chosen for that: reconstruction counts on fitting them anew, and without
    that the damage of nearly every plan is near that of guessing.
    """
    analysis = analysis_of(MODELS / model)
    x = np.load(calibration)["input"]
    local = scored(analysis, inputs_of(x[:32]), runtime, "activation")
    found = calibrate(analysis, local, inputs_of(x[32:64]), runtime, Effort((0.5,), 32))
    rng = np.random.default_rng(4)
    widths = [
        {g.name: max(round(g.units * rng.choice([1, 1, 0.9, 0.75, 0.5])), 1) for g in analysis.groups}
        for _ in range(20)
    ]
    removed = [tuple(b.name for b in analysis.blocks if rng.random() < 0.1) for _ in widths]
    plans = [plan_of_widths(analysis, found.order, *pair) for pair in zip(widths, removed, strict=True)]
    true = [damage_of(analysis, plan, x[64:96], runtime) for plan in plans]
    ranks = [spearmanr(true, [additive(scores, plan) for plan in plans]).statistic for scores in (local, found)]
    print("local", ranks[0], "measured", ranks[1])
    assert ranks[1] > 0.75
    assert ranks[1] > ranks[0]


def additive(scores: Scores, plan: Plan) -> float:
    kept = sum(c.damage[plan.widths()[c.group]] for c in scores.curves if c.block not in plan.removed)
    return float(kept + sum(scores.removal[name] for name in plan.removed))


def two_branches() -> Analysis:
    """Twice one hidden layer, in two orders of units; what the second computes reaches the output at a thousandth."""
    nodes = []
    for i in (1, 2):
        nodes += [
            node("Gemm", ["x", f"u{i}"], [f"a{i}"]),
            node("Relu", [f"a{i}"], [f"b{i}"]),
            node("Gemm", [f"b{i}", f"v{i}"], [f"c{i}"]),
            node("Mul", [f"c{i}", f"s{i}"], [f"d{i}"]),
        ]
    nodes.append(node("Add", ["d1", "d2"], ["y"]))
    rng = np.random.default_rng(5)
    u, v = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 4)))
    weights = {"u1": u, "u2": u[:, ::-1], "v1": v, "v2": v[::-1], "s1": np.float32(1), "s2": np.float32(1e-3)}
    return analysis_of(build_model(nodes, {"x": ("N", 6)}, ["y"], weights))


def test_what_hardly_reaches_the_outputs_is_cheap(runtime: Runtime) -> None:
    """A scorer that sees only the layers that read a group cannot tell these two apart."""
    analysis = two_branches()
    x = inputs_of(np.random.default_rng(6).normal(size=(12, 6)).astype(np.float32), "x")
    local = scored(analysis, x, runtime)
    assert total(local, "u1")[4] == pytest.approx(total(local, "u2")[4])
    found = calibrate(analysis, local, x, runtime, FEW)
    assert total(found, "u1")[4] > 1000 * total(found, "u2")[4] > 0


def test_units_that_a_scorer_finds_dead_do_not_inflate_the_others(runtime: Runtime) -> None:
    """The measured half is all dead but for rounding: it says next to nothing about the other half."""
    analysis = two_branches()
    x = inputs_of(np.random.default_rng(6).normal(size=(12, 6)).astype(np.float32), "x")
    local = scored(analysis, x, runtime)
    dead = np.array([1.0, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0])
    local = replace(local, curves=tuple(replace(curve, damage=dead) for curve in local.curves))
    tiny = {"u1": 1e-4, "u2": 0.0}

    def patch(plan: Plan) -> dict[str, np.ndarray]:
        (group,) = [group for group in analysis.groups if group.name in plan.kept]
        first = group.members[0][0]
        return {first: (analysis.network.weights[first] * (1 + tiny[group.name])).astype(np.float32)}

    found = calibrate(analysis, local, x, runtime, FEW, patch)
    assert 1e-9 < total(found, "u1")[0] < 1e-3


def test_a_patch_says_what_the_weights_are_after_a_cut(runtime: Runtime) -> None:
    """A scorer that repairs all damage is believed, and is asked for every group at its widths."""
    analysis = two_branches()
    x = inputs_of(np.random.default_rng(6).normal(size=(12, 6)).astype(np.float32), "x")
    local = scored(analysis, x, runtime)
    asked: list[tuple[str, int]] = []

    def patch(plan: Plan) -> dict[str, np.ndarray]:
        asked.extend((name, len(kept)) for name, kept in plan.kept.items())
        return {}

    found = calibrate(analysis, local, x, runtime, Effort((0.5, 0.75), 8), patch)
    assert sorted(asked) == [("u1", 4), ("u1", 6), ("u2", 4), ("u2", 6)]
    assert all(np.all(total(found, name)[1:] < 1e-6) for name in ("u1", "u2"))


def test_the_same_inputs_give_the_same_numbers(runtime: Runtime, calibration: Path) -> None:
    analysis = analysis_of(MODELS / "digits_vit.onnx")
    x = inputs_of(np.load(calibration)["input"][:6])
    local = scored(analysis, None, runtime)
    first, second = (calibrate(analysis, local, x, runtime, FEW) for _ in range(2))
    assert first.removal == second.removal
    for left, right in zip(first.curves, second.curves, strict=True):
        assert np.array_equal(left.damage, right.damage)


def test_progress_ends_with_all_trials(runtime: Runtime, calibration: Path) -> None:
    analysis = analysis_of(MODELS / "digits_cnn.onnx")
    steps: list[tuple[int, int]] = []
    x = inputs_of(np.load(calibration)["input"][:4])
    calibrate(analysis, scored(analysis, None, runtime), x, runtime, FEW, progress=lambda *step: steps.append(step))
    trials = len(analysis.groups) + len(analysis.blocks)
    assert steps[-1] == (trials, trials)


def test_fast_measures_nothing(runtime: Runtime) -> None:
    analysis = two_branches()
    x = inputs_of(np.zeros((9, 6), np.float32), "x")
    local = scored(analysis, None, runtime)
    assert calibrate(analysis, local, x, runtime, find_effort("fast")) is local
    assert split_inputs(x, find_effort("fast")) == (x, None)
    assert local.unit == "relative error"


def test_unknown_effort_is_named() -> None:
    with pytest.raises(OptionError, match="--effort extreme: choose from fast, balanced, thorough"):
        find_effort("extreme")


@pytest.mark.parametrize(("count", "batch", "held"), [(300, None, 64), (30, None, 10), (30, 4, 8), (2, None, 0)])
def test_held_out_inputs_are_not_the_scorers(count: int, batch: int | None, held: int) -> None:
    x = np.arange(count, dtype=np.float32)[:, None]
    fit, out = split_inputs(inputs_of(x, "x", batch), find_effort("balanced"))
    assert fit is not None
    assert fit.count == (count - held) // (batch or 1) * (batch or 1)
    if out is None:
        assert held == 0
        return
    assert out.count == held
    assert not set(fit.first(fit.count)["x"].ravel()) & set(out.columns["x"][out.rows].ravel())


@given(
    st.lists(st.floats(0, 10), min_size=4, max_size=20),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 100),
    st.data(),
)
def test_fits_are_monotone_and_exact(
    losses: list[float], low: float, high: float, most: float, data: st.DataObject
) -> None:
    """Whatever was measured: damage falls with width, is zero uncut, and is what was measured where it was."""
    error = np.concatenate([np.cumsum(losses[::-1])[::-1], [0.0]])
    narrow = data.draw(st.integers(1, len(losses) - 2))
    wide = data.draw(st.integers(narrow + 1, len(losses) - 1))
    few, many = sorted((low, high))
    halves = [Curve("g", None, 0.25 * error), Curve("g", "b", 0.75 * error)]
    found = scaled(halves, {narrow: many, wide: few}, most)
    damage = found[0].damage + found[1].damage
    assert np.all(np.diff(damage) <= 1e-9 * (1 + damage[0]))
    assert damage[-1] == 0
    assert np.allclose(3 * found[0].damage, found[1].damage)
    if error[wide] > 1e-6 and error[narrow] > 1.01 * error[wide]:
        assert damage[wide] == pytest.approx(few, rel=1e-6, abs=1e-9)
        assert damage[narrow] == pytest.approx(many, rel=1e-6, abs=1e-9)


def test_only_groups_that_a_half_cut_ruins_are_tried_at_larger_widths() -> None:
    """A stream's damage saturates; a width that is tried is halfway to the whole, down to a sixteenth cut."""
    analysis = analysis_of(MODELS / "digits_vit.onnx")
    names = [group.name for group in analysis.groups]
    widths = {group.name: [group.units // 2] for group in analysis.groups}
    found = {f"{group.name}={group.units // 2}": 0.01 for group in analysis.groups}
    assert _finer(analysis, widths, found) == {}
    ruined = next(group for group in analysis.groups if group.units >= 64)
    found[f"{ruined.name}={ruined.units // 2}"] = 4.0
    assert _finer(analysis, widths, found) == {ruined.name: [3 * ruined.units // 4]}
    last = ruined.units - ruined.units // 16
    found[f"{ruined.name}={last}"] = 4.0
    assert _finer(analysis, {**widths, ruined.name: [last]}, found) == {}
    assert set(names) >= {ruined.name}


def test_blurred_damage_is_off_by_one_factor_a_group_and_block() -> None:
    damage = np.array([4.0, 2.0, 1.0, 0.0])
    curves = tuple(Curve(f"group {i % 40}", "block" if i > 39 else None, damage) for i in range(80))
    scores = Scores({}, curves, {f"block {i}": 1.0 for i in range(40)})
    found = blurred(scores, 0.15, np.random.default_rng(3))
    factors = [curve.damage[:3] / damage[:3] for curve in found.curves]
    assert all(
        factor.std() < 1e-12 and curve.damage[3] == 0 for factor, curve in zip(factors, found.curves, strict=True)
    )
    by_group = np.array([factor[0] for factor in factors])
    assert np.array_equal(by_group[:40], by_group[40:])
    drawn = np.log([*by_group[:40], *found.removal.values()])
    assert 0.1 < drawn.std() < 0.2
    assert abs(drawn.mean()) < 0.06
