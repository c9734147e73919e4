"""A walk gives the same tensors wherever it stands, and what is ahead may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_mdp.graph.expose import exposed
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.part import live, part, sort_nodes
from onnx_mdp.graph.weights import put
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.walk import Walk
from tests.conftest import MODELS, analysis_of

BOTH = pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])


def network_and_inputs(name: str, calibration: Path) -> tuple[Network, Inputs]:
    x = np.load(calibration)["input"][:10]
    inputs = load_inputs({"input": x}, (InputSpec("input", x.dtype, x.shape[1:], None),))
    return analysis_of(MODELS / name).network, inputs


def expected(network: Network, inputs: Inputs, tensor: str, runtime: Runtime) -> np.ndarray:
    session = runtime.open(exposed(network.model, [tensor]).SerializeToString())
    return np.concatenate([session.run(batch, [tensor])[0] for batch in inputs.batches()])


@BOTH
def test_a_tensor_is_the_same_from_everywhere(name: str, calibration: Path, runtime: Runtime) -> None:
    network, inputs = network_and_inputs(name, calibration)
    (output,) = network.outputs
    wanted = expected(network, inputs, output, runtime)
    walk = Walk(network.model, inputs, runtime, 1 << 30)
    for position in range(0, len(network.nodes), len(network.nodes) // 6):
        walk.advance(position)
        assert walk.position == position
        found = np.concatenate([batch[output] for batch in walk.run([output])])
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_nothing_is_kept_beyond_the_limit(calibration: Path, runtime: Runtime) -> None:
    network, inputs = network_and_inputs("digits_cnn.onnx", calibration)
    (output,) = network.outputs
    walk = Walk(network.model, inputs, runtime, 100)
    walk.advance(5)
    assert walk.position == 0
    found = np.concatenate([batch[output] for batch in walk.run([output])])
    np.testing.assert_allclose(found, expected(network, inputs, output, runtime), atol=1e-5)


@BOTH
def test_it_goes_on_while_it_runs(name: str, calibration: Path, runtime: Runtime) -> None:
    network, inputs = network_and_inputs(name, calibration)
    (output,) = network.outputs
    middle = len(network.nodes) // 2
    early = network.nodes[middle // 2].outputs[0]
    walk = Walk(network.model, inputs, runtime, 1 << 30)
    found = np.concatenate([batch[early] for batch in walk.run([early], middle)])
    np.testing.assert_allclose(found, expected(network, inputs, early, runtime), atol=1e-5)
    assert walk.position == middle
    found = np.concatenate([batch[output] for batch in walk.run([output], 3)])
    np.testing.assert_allclose(found, expected(network, inputs, output, runtime), atol=1e-5)
    assert walk.position == middle  # never back


def test_it_stays_where_too_much_would_be_kept(calibration: Path, runtime: Runtime) -> None:
    network, inputs = network_and_inputs("digits_cnn.onnx", calibration)
    (output,) = network.outputs
    walk = Walk(network.model, inputs, runtime, 100)
    found = np.concatenate([batch[output] for batch in walk.run([output], 5)])
    np.testing.assert_allclose(found, expected(network, inputs, output, runtime), atol=1e-5)
    assert walk.position == 0


def test_a_weight_ahead_may_change(calibration: Path, runtime: Runtime) -> None:
    network, inputs = network_and_inputs("digits_cnn.onnx", calibration)
    (output,) = network.outputs
    walk = Walk(network.model, inputs, runtime, 1 << 30)
    last = next(n for n in reversed(network.nodes) if n.op in ("Gemm", "MatMul"))
    walk.advance(last.index)
    tensor = next(t for t in network.model.graph.initializer if t.name == last.inputs[1])
    put(tensor, np.zeros(tuple(tensor.dims), np.float32), tensor.name)
    found = np.concatenate([batch[output] for batch in walk.run([output])])
    assert np.ptp(found, axis=0).max() < 1e-6


@BOTH
def test_what_is_live_suffices_for_the_rest(name: str, calibration: Path, runtime: Runtime) -> None:
    network, inputs = network_and_inputs(name, calibration)
    feeds = next(inputs.batches())
    middle = len(network.nodes) // 2
    names = live(network.model, middle, list(feeds))
    first = runtime.open(part(network.model, feeds, names).SerializeToString())
    held = dict(zip(names, first.run(feeds, names), strict=True))
    rest = part(network.model, held, network.outputs)
    produced = {o for n in network.model.graph.node[:middle] for o in n.output}
    assert not produced & {o for n in rest.graph.node for o in n.output}
    (found,) = runtime.open(rest.SerializeToString()).run(held, list(network.outputs))
    (wanted,) = runtime.open(network.model.SerializeToString()).run(feeds, list(network.outputs))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@BOTH
def test_nodes_are_sorted_by_rank(name: str) -> None:
    model = analysis_of(MODELS / name).network.model
    order = [node.output[0] for node in model.graph.node]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    sort_nodes(shuffled, {name: i for i, name in enumerate(order)})
    assert [node.output[0] for node in shuffled.graph.node] == order
