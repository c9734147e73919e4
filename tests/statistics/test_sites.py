"""Every site is a matrix product: rows times matrix plus bias is what the operator puts out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from onnx_mdp.graph.expose import exposed
from onnx_mdp.graph.network import Network
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.sites import Site, bias_of, carried_bias, choose_picks, find_sites
from onnx_mdp.statistics.streams import normalized_stream, residual, row_weights
from tests.conftest import analysis_of, build_model

IMAGE, TOKENS = (3, 8, 9, 7), (3, 5, 8)
CONVOLUTIONS = {
    "plain": ({"pads": [1, 1, 1, 1]}, (6, 8, 3, 3)),
    "strided": ({"pads": [0, 1, 2, 1], "strides": [2, 3]}, (6, 8, 3, 2)),
    "dilated": ({"dilations": [2, 1]}, (6, 8, 3, 3)),
    "grouped": ({"group": 2, "pads": [1, 1, 1, 1]}, (6, 4, 3, 3)),
    "depthwise": ({"group": 8, "pads": [1, 1, 1, 1]}, (8, 1, 3, 3)),
    "same upper": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (6, 8, 3, 3)),
    "same lower": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (6, 8, 2, 2)),
}
TRANSPOSED = {
    "plain": ({}, (8, 6, 2, 2)),
    "upsampling": ({"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, (8, 6, 3, 3)),
    "grouped": ({"group": 2, "strides": [3, 2], "pads": [0, 1, 2, 0]}, (8, 3, 3, 4)),
    "dilated": ({"dilations": [2, 1], "strides": [1, 2], "pads": [3, 0, 4, 1]}, (8, 6, 3, 2)),
}


def models() -> dict[str, onnx.ModelProto]:
    found = {}
    for name, (attributes, shape) in CONVOLUTIONS.items():
        nodes = [node("Conv", ["x", "w", "b"], ["y"], **attributes)]
        found[f"Conv {name}"] = build_model(nodes, {"x": IMAGE}, ["y"], {"w": shape, "b": (shape[0],)})
    for name, (attributes, shape) in TRANSPOSED.items():
        nodes = [node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)]
        outputs = shape[1] * attributes.get("group", 1)
        found[f"ConvTranspose {name}"] = build_model(nodes, {"x": IMAGE}, ["y"], {"w": shape, "b": (outputs,)})
    found["Conv 1d"] = build_model([node("Conv", ["x", "w"], ["y"])], {"x": (3, 8, 9)}, ["y"], {"w": (4, 8, 3)})
    gemm = [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5)]
    found["Gemm"] = build_model(gemm, {"x": (3, 8)}, ["y"], {"w": (6, 8), "b": (6,)})
    product = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["b", "a"], ["y"])]
    found["MatMul"] = build_model(product, {"x": TOKENS}, ["y"], {"w": (8, 6), "b": (6,)})
    bare = [node("MatMul", ["x", "w"], ["y"])]
    found["MatMul without bias"] = build_model(bare, {"x": TOKENS}, ["y"], {"w": (8, 6)})
    return found


MODELS = models()


def site_of(model: onnx.ModelProto) -> tuple[Network, Site]:
    network = analysis_of(model).network
    (site,) = find_sites(network)
    return network, site


@pytest.mark.parametrize("name", MODELS)
def test_rows_times_matrix_is_the_output(name: str, runtime: Runtime) -> None:
    network, site = site_of(MODELS[name])
    x = np.random.default_rng(0).normal(size=network.shapes["x"]).astype(np.float32)
    session = runtime.open(exposed(network.model, [site.y]).SerializeToString())
    (y,) = session.run({"x": x})
    matrix = site.matrix(network.weights[site.weight])
    picks = np.arange(site.positions(y.shape))[::2]
    found = site.rows(x, picks) @ matrix + bias_of(site, network.weights, matrix.shape)[:, None]
    np.testing.assert_allclose(found, site.places(y, picks), rtol=0, atol=2e-5)
    assert np.ptp(found) > 1


@pytest.mark.parametrize("name", MODELS)
def test_a_weight_survives_its_matrix(name: str) -> None:
    network, site = site_of(MODELS[name])
    weight = network.weights[site.weight]
    again = site.weight_of(site.matrix(weight), weight)
    np.testing.assert_array_equal(again, weight)
    assert again.dtype == weight.dtype


def normalized_conv() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["y"]),
    ]
    vectors = dict.fromkeys(("scale", "shift", "mean"), (6,))
    return build_model(nodes, {"x": IMAGE}, ["y"], {"w": (6, 8, 1, 1), **vectors, "variance": np.ones(6, np.float32)})


def test_a_batch_normalization_carries_the_bias_in_its_mean() -> None:
    network, site = site_of(normalized_conv())
    assert (site.bias, site.subtracted) == ("mean", True)
    np.testing.assert_array_equal(bias_of(site, network.weights, (1, 8, 6)), np.zeros((1, 6)))
    mean = network.weights["mean"]
    np.testing.assert_allclose(carried_bias(site, mean, np.full((1, 6), 2.0)), mean - 2, rtol=1e-6)


def test_what_is_no_site() -> None:
    twice = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    left = [node("MatMul", ["w", "x"], ["y"])]
    for nodes, shape in ((twice, (8, 8)), (left, (4, 5))):
        assert not find_sites(analysis_of(build_model(nodes, {"x": TOKENS}, ["y"], {"w": shape})).network)


def test_the_way_to_a_residual_sum() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        node("Add", ["x", "b"], ["c"]),
        node("Relu", ["c"], ["y"]),
    ]
    vectors = dict.fromkeys(("scale", "shift", "mean"), (8,))
    model = build_model(nodes, {"x": IMAGE}, ["y"], {"w": (8, 8, 1, 1), **vectors, "variance": np.ones(8, np.float32)})
    network, site = site_of(model)
    assert [step.op for step in residual(network, site)] == ["BatchNormalization", "Add"]
    network, site = site_of(normalized_conv())
    assert list(residual(network, site)) == []


def test_fewer_positions_where_there_are_more_than_enough() -> None:
    _, site = site_of(MODELS["Conv plain"])
    assert len(choose_picks(site, 49, (1, 72, 6), 100)) == 49
    some = choose_picks(site, 10_000, (1, 72, 6), 1000)
    assert 72 * 8 / 1000 <= len(some) < 10_000
    assert np.array_equal(some, choose_picks(site, 10_000, (1, 72, 6), 1000))
    assert np.all(np.diff(some) > 0)


def test_rows_count_by_what_a_layer_normalization_divides_by() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["x", "a"], ["b"]),
        node("LayerNormalization", ["b", "scale", "shift"], ["y"]),
    ]
    weights = {"w": (8, 8), "scale": (8,), "shift": (8,)}
    network, site = site_of(build_model(nodes, {"x": TOKENS}, ["y"], weights))
    assert normalized_stream(network, site) == "b"
    stream = np.random.default_rng(0).normal(size=TOKENS).astype(np.float32)
    stream[:, 2] *= 100
    found = row_weights(site, stream, np.arange(5)).reshape(3, 5)
    assert found[:, 2].max() < 1e-3 * found[:, [0, 1, 3, 4]].min()
    bare = build_model(nodes[:2], {"x": TOKENS}, ["b"], {"w": (8, 8)})
    assert normalized_stream(*site_of(bare)) is None
