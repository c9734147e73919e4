"""What was cut comes back as far as the inputs tell, and nothing gets worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node as node

from onnx_mdp.graph.check import check
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import Analysis
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.recover.mend import Mender
from onnx_mdp.recover.refit import Refit, Refitter, touched_nodes
from onnx_mdp.rewrite.plan import Plan, dense_plan, plan_edits
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.walk import Walk
from tests.conftest import MODELS, analysis_of, build_model

BOTH = pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])


def inputs_of(x: np.ndarray, name: str) -> Inputs:
    return load_inputs({name: x}, (InputSpec(name, x.dtype, x.shape[1:], None),))


def half(analysis: Analysis) -> Plan:
    return Plan({g.name: np.arange(max(g.units // 2, g.floor)) for g in analysis.groups}, ())


def recovered(analysis: Analysis, plan: Plan, x: np.ndarray, runtime: Runtime) -> tuple[onnx.ModelProto, list[Refit]]:
    model = rewrite(analysis.network.model, plan_edits(analysis, plan))
    (name,) = analysis.network.inputs
    inputs = inputs_of(x, name)
    refitter = Refitter(analysis, plan, model, inputs, Walk(analysis.network.model, inputs, runtime, 1 << 28))
    return refitter.model, list(refitter.run(lambda done, total: None))


def error(analysis: Analysis, model: onnx.ModelProto, x: np.ndarray, runtime: Runtime) -> float:
    """Mean squared difference of the outputs, relative to the dense model's variance."""
    (name,) = analysis.network.inputs
    dense, cut = (runtime.open(m.SerializeToString()).run({name: x})[0] for m in (analysis.network.model, model))
    return float(np.square(dense - cut).mean() / dense.var())


@BOTH
def test_most_of_what_was_cut_comes_back(name: str, calibration: Path, runtime: Runtime) -> None:
    analysis, x = analysis_of(MODELS / name), np.load(calibration)["input"]
    cut = rewrite(analysis.network.model, plan_edits(analysis, half(analysis)))
    model, refits = recovered(analysis, half(analysis), x[:128], runtime)
    check(model)
    before, after = (error(analysis, m, x[128:], runtime) for m in (cut, model))
    assert after < 0.5 * before
    assert refits
    assert all(refit.after <= refit.before for refit in refits)
    assert {t.name: tuple(t.dims) for t in model.graph.initializer if len(t.dims) > 1} == {
        t.name: tuple(t.dims) for t in cut.graph.initializer if len(t.dims) > 1
    }


@BOTH
def test_a_removed_block_is_made_good_in_part(name: str, calibration: Path, runtime: Runtime) -> None:
    analysis, x = analysis_of(MODELS / name), np.load(calibration)["input"]
    plan = Plan({}, (analysis.blocks[0].name,))
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    model, _ = recovered(analysis, plan, x[:128], runtime)
    assert error(analysis, model, x[128:], runtime) < 0.7 * error(analysis, cut, x[128:], runtime)


def redundant(op: str) -> onnx.ModelProto:
    """A hidden layer of which every second unit is a copy of the one before."""
    conv = op == "Conv"
    nodes = [node(op, ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node(op, ["b", "w2"], ["y"])]
    shapes = ((8, 3, 3, 3), (4, 8, 1, 1)) if conv else ((6, 8), (8, 4))
    model = build_model(
        nodes, {"x": ("N", 3, 6, 6) if conv else ("N", 6)}, ["y"], dict(zip(("w1", "w2"), shapes, strict=True))
    )
    first = model.graph.initializer[0]
    values = np.array(numpy_helper.to_array(first))
    moved = np.moveaxis(values, 0 if conv else 1, 0)
    moved[1::2] = moved[::2]
    first.CopyFrom(numpy_helper.from_array(values, first.name))
    return model


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_copies_are_recovered_exactly(op: str, runtime: Runtime) -> None:
    analysis = analysis_of(redundant(op))
    shape = (64, 3, 6, 6) if op == "Conv" else (64, 6)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (group,) = analysis.groups
    plan = Plan({group.name: np.arange(0, 8, 2)}, ())
    model, (refit,) = recovered(analysis, plan, x[:48], runtime)
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    assert error(analysis, cut, x[48:], runtime) > 0.1
    assert error(analysis, model, x[48:], runtime) < 1e-4
    assert refit.after < 1e-4 < refit.before


def test_nothing_is_touched_where_nothing_is_cut(calibration: Path, runtime: Runtime) -> None:
    analysis, x = analysis_of(MODELS / "digits_cnn.onnx"), np.load(calibration)["input"][:16]
    assert not touched_nodes(analysis, dense_plan(analysis))
    model, refits = recovered(analysis, dense_plan(analysis), x, runtime)
    assert refits == []
    assert error(analysis, model, x, runtime) < 1e-10


def test_noise_is_not_fitted(runtime: Runtime) -> None:
    """Fewer rows than columns, and a target that they do not explain: held-out inputs say no, or nearly nothing."""
    nodes = [node("Gemm", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    analysis = analysis_of(build_model(nodes, {"x": ("N", 40)}, ["y"], {"w1": (40, 64), "w2": (64, 3)}))
    x = np.random.default_rng(0).normal(size=(420, 40)).astype(np.float32)
    cut = rewrite(analysis.network.model, plan_edits(analysis, half(analysis)))
    model, (refit,) = recovered(analysis, half(analysis), x[:20], runtime)
    assert refit.ridge is None or refit.ridge >= 0.1
    assert error(analysis, model, x[20:], runtime) < 1.1 * error(analysis, cut, x[20:], runtime)


@BOTH
def test_a_mended_cut_computes_what_the_cut_model_would(name: str, calibration: Path, runtime: Runtime) -> None:
    """The weights in full shape, in the dense model, are those of the cut and partly fitted one."""
    analysis, x = analysis_of(MODELS / name), np.load(calibration)["input"]
    mend = Mender(analysis, inputs_of(x[:64], "input"), runtime)
    for group in analysis.groups:
        plan = Plan({group.name: np.arange(group.units // 2)}, ())
        changes = mend(plan)
        dense = onnx.ModelProto()
        dense.CopyFrom(analysis.network.model)
        for tensor in dense.graph.initializer:
            if tensor.name in changes:
                assert changes[tensor.name].shape == tuple(tensor.dims)
                tensor.CopyFrom(numpy_helper.from_array(changes[tensor.name], tensor.name))
        cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
        assert error(analysis, dense, x[64:], runtime) < error(analysis, cut, x[64:], runtime)
        again = rewrite(dense, plan_edits(analysis, plan))
        y = [runtime.open(m.SerializeToString()).run({"input": x[64:80]})[0] for m in (dense, again)]
        np.testing.assert_allclose(*y, atol=1e-4)


def test_trials_take_whole_batches_however_large(runtime: Runtime) -> None:
    """A model that fixes a batch of more inputs than trials fit on."""
    nodes = [node("Gemm", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    analysis = analysis_of(build_model(nodes, {"x": (160, 6)}, ["y"], {"w1": (6, 8), "w2": (8, 4)}))
    x = np.random.default_rng(0).normal(size=(800, 6)).astype(np.float32)
    inputs = load_inputs({"x": x}, (InputSpec("x", x.dtype, x.shape[1:], 160),))
    (group,) = analysis.groups
    found = Mender(analysis, inputs, runtime)(Plan({group.name: np.arange(4)}, ()))
    assert set(found) == {"w1", "w2"}


@BOTH
def test_the_target_makes_up_for_what_the_residual_path_lost(
    name: str, calibration: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block learns the dense sum less what is left of the stream beside it, not what it put out itself."""
    analysis, x = analysis_of(MODELS / name), np.load(calibration)["input"]
    plan = half(analysis)
    corrected, _ = recovered(analysis, plan, x[:128], runtime)
    monkeypatch.setattr("onnx_mdp.recover.refit.residual", lambda network, site: iter(()))
    plain, _ = recovered(analysis, plan, x[:128], runtime)
    errors = [error(analysis, model, x[128:], runtime) for model in (corrected, plain)]
    assert errors[0] < 0.97 * errors[1]
