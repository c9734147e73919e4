"""A stretch of nodes as a model: it computes what they computed, with weights as they are or replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_mdp.graph.span import Positions, span
from onnx_mdp.graph.weights import put
from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of


@pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_two_stretches_in_a_row_are_the_whole(model: str, runtime: Runtime, calibration: Path) -> None:
    network = analysis_of(MODELS / model).network
    positions = Positions(network)
    x = np.load(calibration)["input"][:1]
    (expected,) = runtime.open(network.model.SerializeToString()).run({"input": x})
    for position in range(1, positions.end, 7):
        live = positions.live(position)
        first = span(network, 0, position, [name for name in live if name != "input"], {})
        second = span(network, position, positions.end, network.outputs, {})
        onnx.checker.check_model(second)
        held = runtime.open(first.SerializeToString()).run({"input": x})
        feeds = {"input": x, **dict(zip((name for name in live if name != "input"), held, strict=True))}
        assert {value.name for value in second.graph.input} == set(live)
        (found,) = runtime.open(second.SerializeToString()).run({name: feeds[name] for name in live})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_only_what_an_output_needs_is_there() -> None:
    network = analysis_of(MODELS / "digits_cnn.onnx").network
    early = network.nodes[3].outputs[0]
    part = span(network, 0, len(network.nodes), [early], {})
    assert len(part.graph.node) <= 4
    assert {tensor.name for tensor in part.graph.initializer} < set(network.weights)


def test_scalars_stay_scalars() -> None:
    """A Gather by a scalar index drops an axis, by a vector of one it does not."""
    tensor = onnx.TensorProto()
    put(tensor, np.array(3, np.int64), "index")
    assert list(tensor.dims) == []
    assert onnx.numpy_helper.to_array(tensor) == 3
