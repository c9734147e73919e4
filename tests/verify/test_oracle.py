"""The oracle must fail when a cut is wrong: each test breaks a correct cut in one way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_mdp.errors import ProofError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.verify.oracle import FP32_TOLERANCE, _compare, prove, relative_error
from tests.cutting import random_plan

Cut = tuple[Source, Analysis, Plan, onnx.ModelProto]


@pytest.fixture
def cut(cnn: Path) -> Cut:
    source, proto = load(cnn)
    normalize(proto, {})
    analysis = analyze(read_network(proto, {}))
    plan = random_plan(analysis, 3, blocks=True)
    return source, analysis, plan, rewrite(proto, plan_edits(analysis, plan))


def test_correct_cut_is_proven(cut: Cut, runtime: Runtime) -> None:
    source, analysis, plan, model = cut
    proof = prove(source, analysis, plan, model, runtime, [])
    assert proof.max_relative_error <= proof.tolerance == 1e-5
    assert proof.input_sets == 3, "two of batch 1, one of batch 3"
    assert proof.varies


def change(model: onnx.ModelProto, name: str, how: object) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = np.array(numpy_helper.to_array(tensor))
    how(values)  # type: ignore[operator]
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def swap_channels(values: np.ndarray) -> None:
    values[[0, 1]] = values[[1, 0]]


def nudge(values: np.ndarray) -> None:
    values.reshape(-1)[0] += 0.01


@pytest.mark.parametrize("how", [swap_channels, nudge])
def test_wrong_weights_are_found(cut: Cut, runtime: Runtime, how: object) -> None:
    source, analysis, plan, model = cut
    change(model, "stem.weight", how)
    with pytest.raises(ProofError, match="differs from the masked original"):
        prove(source, analysis, plan, model, runtime, [])


def test_wrong_plan_is_found(cut: Cut, runtime: Runtime) -> None:
    source, analysis, plan, model = cut
    name = analysis.groups[0].name
    other = np.setdiff1d(np.arange(analysis.groups[0].units), plan.kept[name])
    kept = {**plan.kept, name: np.sort(np.concatenate([plan.kept[name][1:], other[:1]]))}
    with pytest.raises(ProofError):
        prove(source, analysis, Plan(kept, plan.removed), model, runtime, [])


def test_block_that_should_have_stayed_is_found(cut: Cut, runtime: Runtime) -> None:
    source, analysis, plan, model = cut
    assert plan.removed
    with pytest.raises(ProofError):
        prove(source, analysis, Plan(plan.kept, plan.removed[1:]), model, runtime, [])


def test_changed_signature_is_found(cut: Cut, runtime: Runtime) -> None:
    source, analysis, plan, model = cut
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ProofError, match="inputs or outputs differ"):
        prove(source, analysis, plan, model, runtime, [])


def test_invalid_model_is_found(cut: Cut, runtime: Runtime) -> None:
    source, analysis, plan, model = cut
    model.graph.node[3].input[0] = "nowhere"
    with pytest.raises(ProofError, match="not valid ONNX"):
        prove(source, analysis, plan, model, runtime, [])


def test_relative_error() -> None:
    a = np.array([1.0, -4.0, 2.0])
    assert relative_error(a, a) == 0
    assert relative_error(a, a + [0, 0, 0.4]) == pytest.approx(0.1)
    assert relative_error(a, a[:2]) == float("inf")
    assert relative_error(a, np.array([1.0, np.nan, 2.0])) == float("inf")
    assert relative_error(np.zeros(3), np.array([0.0, 0.5, 0.0])) == 0.5
    assert relative_error(np.zeros(0), np.zeros(0)) == 0
    assert relative_error(a, a + [0, 0, 0.4], scale=8) == pytest.approx(0.05)
    masked = np.array([1.0, -np.inf, 2.0])
    assert relative_error(masked, masked + [0.2, 0, 0]) == pytest.approx(0.1), "an infinity does not hide the rest"
    assert relative_error(masked, np.array([1.0, np.inf, 2.0])) == float("inf")
    assert relative_error(masked, a) == float("inf")


def test_output_that_nearly_cancels_on_one_input_is_measured_by_the_others() -> None:
    """Two logits may be nearly zero on one input by chance; rounding is then large beside them, but no error."""
    a, noise = np.float32([[3.0, -4.0]]), np.float32([[2e-7, 0.0]])
    _compare([[a], [a * np.float32(1e-3)]], [[a], [a * np.float32(1e-3) + noise]], FP32_TOLERANCE, "this", "that")
    with pytest.raises(ProofError, match="this differs from that"):
        _compare(
            [[a], [a * np.float32(1e-3)]], [[a], [a * np.float32(1e-3) + noise * 1000]], FP32_TOLERANCE, "this", "that"
        )
