"""Around a plan, curves change by what was measured there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node as node

from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.around import Around, Place
from onnx_mdp.importance.base import Scores
from onnx_mdp.importance.currency import Effort, calibrate
from onnx_mdp.importance.registry import make_scorer
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.pipeline.program import Program
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.solve.problem import open_gates, value
from tests.conftest import MODELS, analysis_of, build_model

BOTH = pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])


def inputs_of(x: np.ndarray, name: str = "input") -> Inputs:
    return load_inputs({name: x}, (InputSpec(name, x.dtype, x.shape[1:], None),))


def measured(analysis: Analysis, x: Inputs, runtime: Runtime) -> Scores:
    local = make_scorer("auto", analysis, None, runtime, lambda done, total: None).score(analysis)
    return calibrate(analysis, local, x, runtime, Effort((0.5,), 8))


def around_of(model: str, calibration: Path, runtime: Runtime) -> Around:
    analysis = analysis_of(MODELS / model)
    x = inputs_of(np.load(calibration)["input"][:8])
    return Around(analysis, measured(analysis, x, runtime), x, runtime)


def dense(analysis: Analysis) -> dict[str, int]:
    return {group.name: group.units for group in analysis.groups}


@BOTH
def test_around_the_dense_model_blocks_cost_what_they_cost_alone(
    model: str, calibration: Path, runtime: Runtime
) -> None:
    around = around_of(model, calibration, runtime)
    place = around.place(dense(around.analysis), ())
    assert around.damage(place) < 1e-9
    found = around.rescored(place)
    for name, damage in around.scores.removal.items():
        assert found.removal[name] == pytest.approx(damage, rel=1e-3, abs=1e-6)


@BOTH
def test_a_step_from_the_plan_changes_the_sum_as_it_changes_the_outputs(
    model: str, calibration: Path, runtime: Runtime
) -> None:
    """For each group and block; steps that by chance do good count as harmless."""
    around = around_of(model, calibration, runtime)
    analysis = around.analysis
    widths = {group.name: max(round(0.85 * group.units), 1) for group in analysis.groups}
    gone = analysis.blocks[1].name
    place = around.place(widths, (gone,))
    found, here = around.rescored(place), around.damage(place)
    compared = 0
    for group in analysis.groups:
        if analysis.homes.get(group.name) == gone:
            continue
        narrow = max(widths[group.name] - max(1, round(group.units / 8)), group.floor)
        if narrow == widths[group.name]:
            continue
        moved = replace(place, widths={**widths, group.name: narrow})
        change = around.damage(moved) - here
        compared += change > 0
        promised = around.promised(moved, found) - around.promised(place, found)
        assert promised == pytest.approx(max(change, 0), rel=1e-2, abs=1e-3 * here)
    assert compared > len(analysis.groups) / 4
    for block in analysis.blocks:
        moved = around.toggled(place, block)
        change = around.damage(moved) - here
        promised = around.promised(moved, found) - around.promised(place, found)
        if found.removal[block.name] > 0:
            assert promised == pytest.approx(change, rel=1e-2, abs=1e-3 * here)


def nested() -> Analysis:
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "w1"], ["b"]),
        node("Gemm", ["b", "w2"], ["c"]),
        node("Add", ["b", "c"], ["d"], name="inner"),
        node("Gemm", ["d", "w3"], ["e"]),
        node("Add", ["a", "e"], ["f"], name="outer"),
        node("Gemm", ["f", "w4"], ["y"]),
    ]
    weights = {"w0": (3, 8), "w1": (8, 8), "w2": (8, 8), "w3": (8, 8), "w4": (8, 2)}
    return analysis_of(build_model(nodes, {"x": ("N", 3)}, ["y"], weights))


def test_removing_a_block_does_not_cost_those_inside_it_as_well(runtime: Runtime) -> None:
    """What the program counts for a plan is what is promised for it."""
    analysis = nested()
    x = inputs_of(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), "x")
    scores = measured(analysis, x, runtime)
    around = Around(analysis, scores, x, runtime)
    program = Program(analysis, scores, (), {group.factor: (group.units,) for group in analysis.groups}, {})
    problem = program.unhurried()
    for removed in ((), ("inner",), ("outer",), ("inner", "outer")):
        kept = {block.name: block.name not in removed for block in analysis.blocks}
        levels = {choice.name: 0 for choice in problem.choices}
        counted = value(problem.objective, levels, open_gates(problem.gates, kept))
        place = around.place(dense(analysis), removed)
        assert counted == pytest.approx(around.promised(place, scores))
        assert counted == pytest.approx(around.damage(place), rel=1e-3, abs=1e-9)


def test_rescoring_inside_a_removed_block_is_asked_of_nothing(runtime: Runtime) -> None:
    analysis = nested()
    x = inputs_of(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), "x")
    around = Around(analysis, measured(analysis, x, runtime), x, runtime)
    place = around.place(dense(analysis), ("outer",))
    assert place == Place(dense(analysis), frozenset({"inner", "outer"}))
    found = around.rescored(place)
    assert around.promised(place, found) == pytest.approx(around.damage(place), rel=1e-3)
