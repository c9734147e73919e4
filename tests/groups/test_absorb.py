"""What a cut owes a mean goes to constants behind it, and runtimes still know the normalization."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_mdp.groups.find import Analysis
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of
from tests.cutting import assert_exact
from tests.streams.networks import TOKENS, D, Net

ROOTS = ["div", "reciprocal", "power", "maximum", "sum"]


def normalized(net: Net, x: str, form: str) -> str:
    """A root mean square normalization in one of the ways it is written."""
    mean = net.op("ReduceMean", net.op("Mul", x, x), axes=[-1])
    epsilon, scale = net.constant(np.float32(0.1)), net.weight(D, mean=1)
    mean = net.op("Max" if form == "maximum" else "Add", mean, epsilon)
    if form == "power":
        y = net.op("Mul", x, net.op("Pow", mean, net.constant(np.float32(-0.5))))
    elif form == "reciprocal":
        y = net.op("Mul", x, net.op("Reciprocal", net.op("Sqrt", mean)))
    else:
        y = net.op("Div", x, net.op("Sqrt", mean))
    return net.op("Add" if form == "sum" else "Mul", y, scale)


def model_of(form: str) -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.op("Add", x, net.mlp(normalized(net, x, form)))
    return net.model(net.linear(normalized(net, x, form), D, 7))


def targets(analysis: Analysis) -> Counter[tuple[bool, float]]:
    """How often what a cut scales is a weight, and by which power."""
    weights = analysis.network.weights
    return Counter((rescale.target in weights, rescale.power) for rescale in analysis.coupling.rescales)


@pytest.mark.parametrize("form", ROOTS)
def test_constants_take_what_a_mean_is_owed(form: str, runtime: Runtime) -> None:
    model = model_of(form)
    cut = assert_exact(model, runtime)
    found = targets(cut.analysis)
    assert found == ({(False, 1.0): 2} if form == "sum" else {(True, -1.0): 2, (True, -0.5): 2})
    added = len(cut.model.graph.node) - len(cut.analysis.network.nodes)
    assert added == (2 if form == "sum" else 0)


def test_an_epsilon_of_layers_that_are_cut_apart_is_theirs_alone(runtime: Runtime) -> None:
    """Exporters store it once; each width scales it by another ratio."""
    net = Net()
    epsilon, streams = net.constant(np.float32(0.1)), []
    for _ in range(2):
        x = net.linear(net.input("n", TOKENS, 6), 6, D)
        mean = net.op("ReduceMean", net.op("Mul", x, x), axes=[-1])
        y = net.op("Div", x, net.op("Sqrt", net.op("Add", mean, epsilon)))
        streams.append(net.linear(net.op("Mul", y, net.weight(D, mean=1)), D, 7))
    cut = assert_exact(net.model(*streams), runtime)
    assert targets(cut.analysis) == {(True, -1.0): 2, (True, -0.5): 2}


def fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that onnxruntime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_onnxruntime_still_knows_the_normalization(tmp_path: Path, runtime: Runtime) -> None:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.op("Add", x, net.mlp(net.spelled_rms_norm(x)))
    model = net.model(net.linear(net.spelled_rms_norm(x), D, 7))
    cut = assert_exact(model, runtime)
    assert fused(cut.model, tmp_path)["SimplifiedLayerNormalization"] == 2
    assert fused(cut.model, tmp_path) == fused(analysis_of(model).network.model, tmp_path)
