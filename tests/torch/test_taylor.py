"""Importance by gradients is what a loss changes by when a unit is scaled a little: by differences in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.helper import make_node as node

import onnx_mdp
from onnx_mdp.errors import ModelError, OptionError
from onnx_mdp.importance.registry import choose_scorer, make_scorer
from onnx_mdp.importance.taylor import TaylorScorer
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.torch.gradients import products
from tests.conftest import analysis_of, build_model

Loss = Callable[[np.ndarray], float]
BATCH = 4


def inputs_of(x: np.ndarray, labels: np.ndarray | None = None) -> Inputs:
    """Samples of the input x, with labels."""
    return replace(load_inputs({"x": x}, (InputSpec("x", x.dtype, x.shape[1:], None),)), labels=labels)


def scores(model: onnx.ModelProto, inputs: Inputs, runtime: Runtime) -> dict[str, np.ndarray]:
    """What the units of each group are worth."""
    analysis = analysis_of(model)
    scorer = make_scorer("taylor", analysis, inputs, runtime, lambda done, total: None)
    assert isinstance(scorer, TaylorScorer)
    return dict(scorer._units)


def change(model: onnx.ModelProto, parts: dict[str, int], unit: int, x: np.ndarray, loss: Loss) -> float:
    """The derivative of the loss by a factor on the unit in all of the parts, {weight: axis}."""

    def at(factor: float) -> float:
        scaled = onnx.ModelProto()
        scaled.CopyFrom(model)
        for tensor in scaled.graph.initializer:
            if tensor.name in parts:
                values = np.array(numpy_helper.to_array(tensor))
                np.moveaxis(values, parts[tensor.name], 0)[unit] *= factor
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        session = ort.InferenceSession(scaled.SerializeToString(), providers=["CPUExecutionProvider"])
        return loss(session.run(None, {"x": x})[0].astype(np.float64))

    h = 1e-2
    return (at(1 + h) - at(1 - h)) / (2 * h)


def cross_entropy(labels: np.ndarray) -> Loss:
    """Mean cross-entropy of logits."""

    def loss(logits: np.ndarray) -> float:
        shifted = logits - logits.max(1, keepdims=True)
        return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())

    return loss


def residual_model() -> onnx.ModelProto:
    """A stream that a normalized convolution and one without write to, then a classifier."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "w2", "b2"], ["d"]),
        node("Add", ["b", "d"], ["e"], name="sum"),
        node("GlobalAveragePool", ["e"], ["f"]),
        node("Flatten", ["f"], ["g"]),
        node("Gemm", ["g", "w3", "b3"], ["y"]),
    ]
    weights = {"w1": (6, 3, 3, 3), "w2": (6, 6, 1, 1), **dict.fromkeys(("b1", "gamma", "beta", "mean", "b2"), (6,))}
    weights |= {"var": np.full(6, 0.8, np.float32), "w3": (6, 4), "b3": (4,)}
    return build_model(nodes, {"x": ("N", 3, 5, 5)}, ["y"], weights, opset=17)


def test_unit_is_worth_the_change_of_the_loss(runtime: Runtime) -> None:
    """With labels; a product's units have the value that scaling its weight and bias has."""
    nodes = [node("Gemm", ["x", "w1", "b1"], ["a"]), node("Tanh", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    model = build_model(nodes, {"x": ("N", 6)}, ["y"], {"w1": (6, 8), "b1": (8,), "w2": (8, 3)})
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(2 * BATCH, 6)).astype(np.float32), rng.integers(0, 3, 2 * BATCH)
    (found,) = scores(model, inputs_of(x, labels), runtime).values()
    batches = [slice(0, BATCH), slice(BATCH, 2 * BATCH)]
    for unit in range(8):
        each = [change(model, {"w1": 1, "b1": 0}, unit, x[b], cross_entropy(labels[b])) for b in batches]
        assert found[unit] == pytest.approx(np.mean(np.abs(each)), rel=1e-3, abs=1e-6)


def test_normalized_and_coupled_layers(runtime: Runtime) -> None:
    """A layer before a normalization counts by its scale and shift; the layers of a stream add up."""
    model = residual_model()
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(BATCH, 3, 5, 5)).astype(np.float32), rng.integers(0, 4, BATCH)
    (found,) = scores(model, inputs_of(x, labels), runtime).values()
    for unit in range(6):
        together = change(model, {"gamma": 0, "beta": 0, "w2": 0, "b2": 0}, unit, x, cross_entropy(labels))
        assert found[unit] == pytest.approx(abs(together), rel=1e-2, abs=1e-5)


def test_drawn_classes_give_the_fisher_information(runtime: Runtime) -> None:
    """Without labels: over many draws, the mean square of a unit's change is its Fisher information."""
    nodes = [node("Gemm", ["x", "w1"], ["a"]), node("Tanh", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    model = build_model(nodes, {"x": ("N", 4)}, ["y"], {"w1": (4, 3), "w2": (3, 3)})
    x = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)
    drawn = [p.along("w1", 1) for p in products(model, [({"x": x}, None)] * 2000, seed=0)]
    measured = np.mean(np.square(drawn), axis=0)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"x": x})[0][0].astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum()
    for unit in range(3):
        each = [change(model, {"w1": 1}, unit, x, cross_entropy(np.array([c]))) for c in range(3)]
        assert measured[unit] == pytest.approx(float(np.sum(chances * np.square(each))), rel=0.15)


def test_other_outputs_and_seeds(runtime: Runtime) -> None:
    """A map of numbers has a value as well, and the same one each time."""
    nodes = [node("Conv", ["x", "w1", "b1"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w2"], ["y"])]
    model = build_model(nodes, {"x": ("N", 3, 5, 5)}, ["y"], {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (2, 4, 1, 1)})
    inputs = inputs_of(np.random.default_rng(0).normal(size=(8, 3, 5, 5)).astype(np.float32))
    (first,), (second,) = (scores(model, inputs, runtime).values() for _ in range(2))
    assert np.array_equal(first, second)
    assert (first > 0).all()
    assert len(set(first)) == 4


def test_a_transformer_whose_streams_are_opened() -> None:
    """Its normalizations are spelled as runtimes know them, which the scorer has to run as well."""
    models = Path(__file__).parents[2] / "models"
    options = {"inputs": models / "digits_calibration.npz", "importance": "taylor", "force": True}
    result = onnx_mdp.prune(models / "digits_vit.onnx", ratio="50%", **options)
    streams = [group for group in result.report.groups if group["kind"] == "stream"]
    assert streams
    assert all(group["kept"] < group["units"] for group in streams)
    assert result.report.recovery["after"] < result.report.recovery["before"]


def test_half_precision(runtime: Runtime) -> None:
    """The order is about that of the same network in single precision."""
    nodes = [node("Gemm", ["x", "w1", "b1"], ["a"]), node("Tanh", ["a"], ["b"]), node("Gemm", ["b", "w2"], ["y"])]
    model = build_model(nodes, {"x": ("N", 6)}, ["y"], {"w1": (6, 8), "b1": (8,), "w2": (8, 3)})
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    x = np.random.default_rng(0).normal(size=(BATCH, 6)).astype(np.float32)
    labels = np.array([0, 1, 2, 0])
    (single,) = scores(model, inputs_of(x, labels), runtime).values()
    (found,) = scores(half, inputs_of(x.astype(np.float16), labels), runtime).values()
    assert found == pytest.approx(single, rel=0.05, abs=1e-3)


def test_missing_inputs_and_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--importance taylor needs calibration inputs: add --inputs"):
        choose_scorer("taylor", has_inputs=False)
    monkeypatch.setattr("onnx_mdp.importance.taylor.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"PyTorch is not installed: pip install 'onnx-mdp\[torch\]', or use recon"):
        choose_scorer("taylor", has_inputs=True)


def test_operator_without_a_form_names_another_scorer(runtime: Runtime) -> None:
    nodes = [
        node("Gemm", ["x", "w1"], ["a"]),
        node("BiasGelu", ["a", "b1"], ["b"], domain="com.microsoft"),
        node("Gemm", ["b", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": (4, 6)}, ["y"], {"w1": (6, 8), "b1": (8,), "w2": (8, 3)})
    with pytest.raises(ModelError, match="BiasGelu .*or use --importance reconstruction"):
        scores(model, inputs_of(np.ones((4, 6), np.float32)), runtime)
