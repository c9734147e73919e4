"""A removed block at its mean: the branch is a constant, where the block has a bias that can hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node as node

from onnx_mdp.graph.expose import exposed
from onnx_mdp.importance.currency import Effort, calibrate
from onnx_mdp.importance.means import at_means, final_bias
from onnx_mdp.importance.registry import make_scorer
from onnx_mdp.importance.replay import Replay
from onnx_mdp.inputs.arrays import Inputs, InputSpec, load_inputs
from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of, build_model


def inputs_of(x: np.ndarray, name: str = "input") -> Inputs:
    return load_inputs({name: x}, (InputSpec(name, x.dtype, x.shape[1:], None),))


@pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_the_branch_is_its_mean_for_every_input(model: str, calibration: Path, runtime: Runtime) -> None:
    analysis = analysis_of(MODELS / model)
    x = np.load(calibration)["input"][:8]
    removal = at_means(analysis, inputs_of(x), runtime)
    for block in analysis.blocks:
        bias = final_bias(analysis, block)
        assert bias in block.silenced
        whole = runtime.open(exposed(analysis.network.model, [block.branch]).SerializeToString())
        (dense,) = whole.run({"input": x})
        axis = 1 if dense.ndim == 4 else dense.ndim - 1
        expected = dense.mean(axis=tuple(i for i in range(dense.ndim) if i != axis))
        np.testing.assert_allclose(removal(block)[bias], expected, rtol=1e-3, atol=1e-5)


def test_a_branch_that_hardly_varies_costs_nothing_at_its_mean(runtime: Runtime) -> None:
    """Its bias is all that the network needs of it."""
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "w1", "b1"], ["c"]),
        node("Add", ["a", "c"], ["d"], name="block"),
        node("Relu", ["d"], ["e"]),
        node("Gemm", ["e", "w2"], ["y"]),
    ]
    rng = np.random.default_rng(1)
    weights = {"w0": (3, 8), "w1": rng.normal(0, 1e-3, (8, 8)).astype(np.float32), "w2": (8, 4)}
    analysis = analysis_of(build_model(nodes, {"x": ("N", 3)}, ["y"], {**weights, "b1": np.full(8, 2.0, np.float32)}))
    fit, held = (inputs_of(rng.normal(size=(8, 3)).astype(np.float32), "x") for _ in range(2))
    local = make_scorer("auto", analysis, None, runtime, lambda done, total: None).score(analysis)
    zero = calibrate(analysis, local, held, runtime, Effort((0.5,), 8))
    mean = calibrate(analysis, local, held, runtime, Effort((0.5,), 8), removal=at_means(analysis, fit, runtime))
    assert 0 < mean.removal["block"] < 1e-3 * zero.removal["block"]


def test_a_branch_without_a_last_bias_stays_at_zero(runtime: Runtime) -> None:
    nodes = [
        node("Gemm", ["x", "w0"], ["a"]),
        node("Gemm", ["a", "w1", "b1"], ["b"]),
        node("Relu", ["b"], ["r"]),
        node("MatMul", ["r", "w2"], ["c"]),
        node("Add", ["a", "c"], ["d"], name="block"),
        node("Gemm", ["d", "w3"], ["y"]),
    ]
    weights = {"w0": (3, 8), "w1": (8, 8), "b1": (8,), "w2": (8, 8), "w3": (8, 2)}
    analysis = analysis_of(build_model(nodes, {"x": ("N", 3)}, ["y"], weights))
    (block,) = analysis.blocks
    assert final_bias(analysis, block) is None
    x = inputs_of(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), "x")
    changes = at_means(analysis, x, runtime)(block)
    assert set(changes) == set(block.silenced)
    assert all(np.all(values == 0) for values in changes.values())
    assert len(list(Replay(analysis.network, x, runtime).outputs(changes))) == 8
