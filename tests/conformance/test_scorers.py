"""Every scorer: orders are permutations, damage falls with width, and blocks cost what they carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node as node

from onnx_mdp.errors import OptionError
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.base import Scores
from onnx_mdp.importance.registry import make_scorer, scorer_names
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of, build_model

Score = Callable[[Analysis, np.ndarray], Scores]


@pytest.fixture(params=[name for name in scorer_names() if name != "auto"])
def score(request: pytest.FixtureRequest, runtime: Runtime) -> Score:
    if request.param == "taylor":
        pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-mdp[torch]'")

    def run(analysis: Analysis, x: np.ndarray) -> Scores:
        (name,) = analysis.network.inputs
        inputs = load_inputs({name: x}, (InputSpec(name, x.dtype, x.shape[1:], None),))
        return make_scorer(request.param, analysis, inputs, runtime, lambda done, total: None).score(analysis)

    return run


@pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_scores_are_well_formed(score: Score, model: str, calibration: Path) -> None:
    analysis = analysis_of(MODELS / model)
    scores = score(analysis, np.load(calibration)["input"][:16])
    assert set(scores.order) == {group.name for group in analysis.groups}
    assert set(scores.removal) == {block.name for block in analysis.blocks}
    assert all(0 < damage < 1 for damage in scores.removal.values())
    for group in analysis.groups:
        assert sorted(scores.order[group.name].tolist()) == list(range(group.units))
        curves = [curve for curve in scores.curves if curve.group == group.name]
        assert curves
        for curve in curves:
            assert curve.damage.shape == (group.units + 1,)
            assert curve.damage[-1] == 0
            assert curve.damage[0] > 0
            assert np.all(np.diff(curve.damage) <= 1e-12)


def dead_unit_model(dead: int) -> onnx.ModelProto:
    """A two-layer network in which one hidden unit is nearly zero on both sides."""
    nodes = [node("Gemm", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    model = build_model(nodes, {"x": ("N", 6)}, ["y"], {"w1": (6, 8), "w2": (8, 3)})
    for tensor, axis in zip(model.graph.initializer, (1, 0), strict=True):
        values = np.array(numpy_helper.to_array(tensor))
        np.moveaxis(values, axis, 0)[dead] *= 1e-3
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


@pytest.mark.parametrize("dead", [0, 5])
def test_useless_unit_goes_first_and_costs_nothing(score: Score, dead: int) -> None:
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    scores = score(analysis_of(dead_unit_model(dead)), x)
    (name,) = scores.order
    assert scores.order[name][-1] == dead
    (curve,) = scores.curves
    assert curve.damage[7] < 1e-3 * curve.damage[0]


def test_emptying_a_block_costs_what_removing_it_does(score: Score) -> None:
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "w1"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Gemm", ["c", "w2"], ["d"]),
        node("Add", ["a", "d"], ["e"], name="residual"),
        node("Gemm", ["e", "w3"], ["y"]),
    ]
    model = build_model(nodes, {"x": ("N", 4)}, ["y"], {"w0": (4, 8), "w1": (8, 6), "w2": (6, 8), "w3": (8, 2)})
    scores = score(analysis_of(model), np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    inner = [curve for curve in scores.curves if curve.group == "w1"]
    assert [curve.block for curve in inner] == ["residual"]
    assert inner[0].damage[0] == pytest.approx(scores.removal["residual"])


def test_activation_sees_what_the_inputs_use(runtime: Runtime) -> None:
    """Two units with equal weights; the inputs excite only one of them."""
    nodes = [node("Gemm", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    weights = {"w1": np.eye(4, dtype=np.float32), "w2": np.ones((4, 1), np.float32)}
    model = build_model(nodes, {"x": ("N", 4)}, ["y"], weights)
    x = np.tile(np.array([[3.0, 1.0, 0.1, 2.0]], np.float32), (8, 1))
    analysis = analysis_of(model)
    inputs = load_inputs({"x": x}, (InputSpec("x", x.dtype, (4,), None),))
    scores = make_scorer("activation", analysis, inputs, runtime, lambda done, total: None).score(analysis)
    assert scores.order["w1"].tolist() == [0, 3, 1, 2]
    assert scores.curves[0].damage[1] == pytest.approx((4 + 1 + 0.01) / (9 + 4 + 1 + 0.01))


def test_choosing_a_scorer(runtime: Runtime) -> None:
    analysis = analysis_of(dead_unit_model(0))
    with pytest.raises(OptionError, match="choose from magnitude, activation, taylor, reconstruction, auto"):
        make_scorer("taylor2", analysis, None, runtime, lambda done, total: None)
    with pytest.raises(OptionError, match="needs calibration inputs: add --inputs"):
        make_scorer("activation", analysis, None, runtime, lambda done, total: None)
    assert make_scorer("auto", analysis, None, runtime, lambda done, total: None).name == "magnitude"
