"""Rotated streams: the model computes the same, is cut exactly, and gets its operators back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.network import Network
from onnx_mdp.groups.find import analyze
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.rewrite.plan import Plan, plan_edits
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.streams.turn import turn
from onnx_mdp.verify.oracle import relative_error
from tests.streams.networks import TOKENS, D, Net, feeds_of
from tests.streams.proof import Proven, copy_of, prove_streams, turned_model

Made = Callable[[], onnx.ModelProto]
NETWORKS: dict[str, tuple[Made, int]] = {}


def network(streams: int = 1) -> Callable[[Made], Made]:
    """Register a network, with the number of its streams that can be rotated."""

    def register(made: Made) -> Made:
        NETWORKS[made.__name__] = made, streams
        return made

    return register


def normal_form(model: onnx.ModelProto) -> Network:
    return prepare(copy_of(model), {}, lossless=True).network


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def proven(model: onnx.ModelProto, runtime: Runtime, tolerance: float = 1e-5) -> Proven:
    return prove_streams(model, [feeds_of(model, seed) for seed in (1, 2)], runtime, tolerance=tolerance)


@network()
def pre_norm() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    return net.model(net.head(net.block(net.block(x))))


@network()
def without_biases() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D, bias=False)
    x = net.op("Add", x, net.linear(net.layer_norm(x), D, D, bias=False))
    return net.model(net.linear(net.layer_norm(x), D, 7, bias=False))


@network()
def batch_of_three() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input(3, TOKENS, 6), 6, D)
    return net.model(net.linear(net.layer_norm(net.op("Add", x, net.mlp(net.layer_norm(x)))), D, 7))


@network()
def layer_scale() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    for _ in range(2):
        x = net.op("Add", x, net.op("Mul", net.mlp(net.layer_norm(x)), net.weight(D)))
        x = net.op("Add", x, net.op("Mul", net.constant(np.float32(0.5)), net.mlp(net.layer_norm(x))))
    return net.model(net.head(x))


@network()
def class_token() -> onnx.ModelProto:
    net = Net()
    image = net.input("n", 3, 8, 8)
    x = net.op("Conv", image, net.weight(D, 3, 4, 4), net.weight(D), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, D, 4)), perm=[0, 2, 1])
    batch = net.op("Gather", net.op("Shape", image), net.ints(0))
    shape = net.op("Concat", batch, net.ints(1, D), axis=0)
    token = net.op("Expand", net.weight(1, 1, D), shape)
    x = net.op("Add", net.op("Concat", token, x, axis=1), net.weight(1, TOKENS, D))
    x = net.layer_norm(net.block(x))
    return net.model(net.linear(net.op("Gather", x, net.constant(np.int64(0)), axis=1), D, 7))


@network()
def tokens_replaced_by_a_mask() -> onnx.ModelProto:
    net = Net()
    x = net.input("n", TOKENS, 6)
    hidden = net.op("Less", net.op("ReduceMean", x, axes=[-1]), net.constant(np.float32(0)))
    x = net.op("Where", hidden, net.weight(1, 1, D), net.linear(x, 6, D))
    return net.model(net.head(net.block(x)))


@network()
def normalized_and_padded_by_a_convolution() -> onnx.ModelProto:
    net = Net()
    x = net.op("Conv", net.input("n", 3, 6, 6), net.weight(D, 3, 3, 3), net.weight(D), pads=[1, 1, 1, 1])
    y = net.op("Transpose", net.layer_norm(net.op("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])
    y = net.op("Relu", net.op("Conv", y, net.weight(24, D, 3, 3), pads=[1, 1, 1, 1]))
    x = net.op("Add", x, net.op("Conv", y, net.weight(D, 24, 1, 1), net.weight(D)))
    return net.model(net.head(net.op("Transpose", x, perm=[0, 2, 3, 1])))


@network()
def masked_token() -> onnx.ModelProto:
    """Zeros of the stream's shape, as some exports begin a sum or a token with."""
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    zeros = net.op("ConstantOfShape", net.op("Shape", x))
    return net.model(net.head(net.block(net.op("Add", zeros, x))))


@network()
def rms() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.block(net.block(x, net.rms_norm), net.rms_norm)
    return net.model(net.linear(net.rms_norm(x), D, 7, bias=False), opset=23)


@network()
def spelled_rms() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.block(net.block(x, net.spelled_rms_norm), net.spelled_rms_norm)
    return net.model(net.linear(net.spelled_rms_norm(x), D, 7))


@network()
def spelled_layer_norm() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.block(net.block(x, net.spelled_layer_norm), net.spelled_layer_norm)
    return net.model(net.linear(net.spelled_layer_norm(x), D, 7), opset=13)


@network()
def tied_embedding() -> onnx.ModelProto:
    net = Net()
    tokens = net.input("n", TOKENS, elem=TensorProto.INT64)
    table = net.weight(9, D)
    x = net.op("Add", net.op("Gather", table, tokens), net.weight(TOKENS, D))
    x = net.layer_norm(net.block(x))
    return net.model(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))


@network()
def tied_by_gemm() -> onnx.ModelProto:
    net = Net()
    tokens = net.input("n", elem=TensorProto.INT64)
    table = net.weight(9, D)
    x = net.op("Gather", table, tokens)
    x = net.layer_norm(net.op("Add", x, net.mlp(net.layer_norm(x))))
    return net.model(net.op("Gemm", x, table, transB=1))


@network()
def one_table_read_twice() -> onnx.ModelProto:
    """An encoder and a decoder that share their embedding, and positions that are cut from one table."""
    net = Net()
    table, places = net.weight(9, D), net.weight(1, 2 * TOKENS, D)
    halves = []
    for start in (0, TOKENS):
        tokens = net.input("n", TOKENS, elem=TensorProto.INT64)
        part = net.op("Slice", places, net.ints(start), net.ints(start + TOKENS), net.ints(1))
        halves.append(net.op("Add", net.op("Gather", table, tokens), part))
    return net.model(net.head(net.block(net.op("Concat", *halves, axis=1), tokens=2 * TOKENS)))


@network()
def normalized_output() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.layer_norm(net.block(x))
    return net.model(x, net.linear(x, D, 7))


@network(2)
def norm_before_the_stream() -> onnx.ModelProto:
    """CLIP normalizes what it embeds, and adds to that."""
    net = Net()
    x = net.layer_norm(net.linear(net.input("n", TOKENS, 6), 6, D))
    for _ in range(9):
        x = net.block(x)
    return net.model(net.head(x))


@network()
def patch_merging() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", 4, 4, 6), 6, D)
    x = net.op("Add", x, net.mlp(net.rms_norm(x)))
    return net.model(net.linear(net.rms_norm(merged(net, x), 4 * D), 4 * D, 7), opset=23)


def merged(net: Net, x: str) -> str:
    """Four neighbors of a map of four by four, one after the other."""
    parts = []
    for row in (0, 1):
        for column in (0, 1):
            starts, ends = net.ints(row, column), net.ints(4, 4)
            parts.append(net.op("Slice", x, starts, ends, net.ints(1, 2), net.ints(2, 2)))
    return net.op("Concat", *parts, axis=-1)


@network()
def read_with_its_mean() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.op("Add", x, net.linear(net.op("Relu", net.linear(x, D, 24)), 24, D))
    return net.model(net.linear(net.layer_norm(x), D, 7), x)


@network()
def merged_with_means() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", 4, 4, 6), 6, D)
    x = net.op("Add", x, net.mlp(net.layer_norm(x)))
    return net.model(net.linear(net.layer_norm(merged(net, x), 4 * D), 4 * D, 7))


@network()
def pooled_by_a_vector() -> onnx.ModelProto:
    """A weight for every token, from an inner product that is written without a matrix."""
    net = Net()
    x = net.layer_norm(net.block(net.linear(net.input("n", TOKENS, 6), 6, D)))
    scores = net.op("ReduceSum", net.op("Mul", x, net.weight(D)), net.ints(-1), keepdims=1)
    weighted = net.op("Mul", net.op("Softmax", scores, axis=1), x)
    return net.model(net.linear(net.op("ReduceSum", weighted, net.ints(1), keepdims=0), D, 7))


@network()
def normalized_and_padded() -> onnx.ModelProto:
    """Windows of a padded map: its padding is zero, not the normalization's bias."""
    net = Net()
    x = net.linear(net.input("n", 3, 3, 6), 6, D)
    y = net.op("Pad", net.layer_norm(x), net.ints(0, 0, 0, 0, 0, 1, 1, 0))
    y = net.op("Reshape", y, net.ints(0, 2, 2, 2, 2, D))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), net.ints(-1, 4, D))
    y = net.attention(y, tokens=4)
    y = net.op("Transpose", net.op("Reshape", y, net.ints(-1, 2, 2, 2, 2, D)), perm=[0, 1, 3, 2, 4, 5])
    y = net.op("Slice", net.op("Reshape", y, net.ints(-1, 4, 4, D)), net.ints(0, 0), net.ints(3, 3), net.ints(1, 2))
    return net.model(net.head(net.op("Add", x, y)))


@network(2)
def shifted_windows() -> onnx.ModelProto:
    """A normalized map that is rolled, then padded."""
    net = Net()
    x = net.linear(net.input("n", 3, 3, 6), 6, D)
    y = net.layer_norm(x)
    for axis in (1, 2):
        last = net.op("Slice", y, net.ints(2), net.ints(3), net.ints(axis))
        first = net.op("Slice", y, net.ints(0), net.ints(2), net.ints(axis))
        y = net.op("Concat", last, first, axis=axis)
    y = net.op("Pad", y, net.ints(0, 0, 0, 0, 0, 1, 1, 0))
    y = net.op("Reshape", net.linear(y, D, D), net.ints(0, 16, D))
    return net.model(net.head(y), net.head(net.op("Reshape", x, net.ints(0, 9, D))))


@network()
def gemms() -> onnx.ModelProto:
    """Rows of tokens, and Gemms in both layouts, with and without a bias."""
    net = Net()
    x = net.op("Gemm", net.input("n", 6), net.weight(6, D), net.weight(D))
    for turned, bias in ((1, True), (0, False)):
        shape = (24, D) if turned else (D, 24)
        hidden = net.op("Gemm", net.layer_norm(x), net.weight(*shape), *([net.weight(24)] * bias), transB=turned)
        back = net.op("Gemm", net.op("Relu", hidden), net.weight(D, 24), net.weight(D), transB=1)
        x = net.op("Add", x, back)
    return net.model(net.op("Gemm", net.layer_norm(x), net.weight(7, D), net.weight(1, 7), transB=1, beta=0.5))


@network()
def convolutions() -> onnx.ModelProto:
    """A map with channels first, normalized with channels last."""
    net = Net()
    x = net.op("Conv", net.input("n", 3, 6, 6), net.weight(D, 3, 3, 3), net.weight(D), pads=[1, 1, 1, 1])
    for size in (1, 2):
        y = net.op("Transpose", net.layer_norm(net.op("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])
        y = net.op("Relu", net.op("Conv", y, net.weight(24, D, size, size), strides=[size, size]))
        y = net.op("ConvTranspose", y, net.weight(24, 20, size, size), strides=[size, size])
        x = net.op("Add", x, net.op("Conv", y, net.weight(D, 20, 1, 1), net.weight(D)))
    return net.model(net.head(net.op("ReduceMean", net.op("Transpose", x, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)))


@network(2)
def two_streams() -> onnx.ModelProto:
    net = Net()
    x = net.block(net.linear(net.input("n", TOKENS, 6), 6, D))
    y = net.linear(net.op("Relu", net.linear(net.layer_norm(x), D, 20)), 20, 24)
    return net.model(net.head(net.block(y, size=24), 24))


@network(2)
def epsilon_of_all() -> onnx.ModelProto:
    """Two streams of other widths whose normalizations share a number."""
    net = Net()
    epsilon = net.constant(np.float32(1e-2))
    two = net.constant(np.float32(2))
    net._root = lambda x: net.op(  # type: ignore[method-assign]
        "Sqrt", net.op("Add", net.op("ReduceMean", net.op("Pow", x, two), axes=[-1]), epsilon)
    )
    x = net.block(net.linear(net.input("n", TOKENS, 6), 6, D), net.spelled_rms_norm)
    y = net.linear(net.op("Relu", net.linear(net.spelled_rms_norm(x), D, 20)), 20, 24)
    return net.model(net.linear(net.spelled_rms_norm(net.block(y, net.spelled_rms_norm, 24), 24), 24, 7))


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_are_rotated_and_cut_exactly(name: str, runtime: Runtime) -> None:
    made, streams = NETWORKS[name]
    found = proven(made(), runtime)
    normalized = [stream for stream in found.turned.streams.values() if not stream.linear]
    assert len(normalized) == streams, [str(fixed.freeze) for fixed in found.turned.fixed]


@network()
def one_bias_for_all() -> onnx.ModelProto:
    """Exporters store equal biases once: of normalizations, of what writes to the stream, and of what does not."""
    net = Net()
    x, bias = net.linear(net.input("n", TOKENS, 6), 6, D, bias=False), net.weight(D)
    for _ in range(2):
        hidden = net.op("LayerNormalization", x, net.weight(D, mean=1), bias)
        x = net.op("Add", x, net.op("Add", net.op("MatMul", hidden, net.weight(D, D)), bias))
        hidden = net.op("Relu", net.op("Add", net.op("MatMul", net.layer_norm(x), net.weight(D, D)), bias))
        x = net.op("Add", x, net.linear(hidden, D, D))
    return net.model(net.head(x))


@network()
def batch_norms() -> onnx.ModelProto:
    """Convolutions read the stream through batch normalizations, as in hybrids of both kinds."""
    net = Net()
    x = net.op("Conv", net.input("n", 3, 6, 6), net.weight(D, 3, 3, 3), net.weight(D), pads=[1, 1, 1, 1])
    variances = net.constant(net.rng.uniform(0.5, 2, D).astype(np.float32))
    y = net.op("BatchNormalization", x, net.weight(D, mean=1), net.weight(D), net.weight(D), variances)
    y = net.op("Conv", net.op("Relu", net.op("Conv", y, net.weight(24, D, 1, 1))), net.weight(D, 24, 1, 1))
    rows = net.op("Reshape", net.op("Transpose", net.op("Add", x, y), perm=[0, 2, 3, 1]), net.ints(0, 36, D))
    return net.model(net.head(net.block(rows, tokens=36)))


@network()
def map_as_output() -> onnx.ModelProto:
    """Features with channels first, as detectors read them, from a normalization with channels last."""
    net = Net()
    x = net.linear(net.input("n", 36, 6), 6, D)
    x = net.op(
        "Transpose", net.op("Reshape", net.layer_norm(net.block(x, tokens=36)), net.ints(0, 6, 6, D)), perm=[0, 3, 1, 2]
    )
    return net.model(x, net.op("Conv", x, net.weight(5, D, 1, 1)))


@network()
def folded_into_patches() -> onnx.ModelProto:
    """Channels are one with rows of patches while these are put back into a map."""
    net = Net()
    x = net.op("Conv", net.input("n", 3, 8, 8), net.weight(D, 3, 2, 2), net.weight(D), strides=[2, 2])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(-1, 2, 2, 2)), perm=[0, 2, 1, 3])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(-1, D, 4, 4)), perm=[0, 3, 2, 1])
    x = net.layer_norm(net.block(net.op("Reshape", x, net.ints(-1, 4, D)), tokens=4))
    x = net.op("Transpose", net.op("Reshape", x, net.ints(-1, 4, 4, D)), perm=[0, 3, 2, 1])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(-1, 2, 2, 2)), perm=[0, 2, 1, 3])
    return net.model(net.op("Conv", net.op("Reshape", x, net.ints(-1, D, 4, 4)), net.weight(5, D, 1, 1)))


REFUSED: dict[str, tuple[Made, str]] = {}


def refused(reason: str) -> Callable[[Made], Made]:
    """Register a network whose stream cannot be rotated, with the reason and the node."""

    def register(made: Made) -> Made:
        REFUSED[made.__name__] = made, reason
        return made

    return register


@refused("a grouped convolution works on single units of it (Conv Conv_3)")
def depthwise() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    rows = net.op("Conv", net.op("Transpose", x, perm=[0, 2, 1]), net.weight(D, 1, 3), pads=[1, 1], group=D)
    x = net.op("Add", x, net.op("Transpose", rows, perm=[0, 2, 1]))
    return net.model(net.head(x))


@refused(
    "normalizations stand inside of the stream, and matrices to keep them would cost too much "
    "(LayerNormalization LayerNormalization_22)"
)
def post_norm() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    for _ in range(2):
        x = net.layer_norm(net.op("Add", x, net.attention(x)))
        x = net.layer_norm(net.op("Add", x, net.mlp(x)))
    return net.model(net.linear(x, D, 7))


@refused("Sigmoid works on single units of it (Sigmoid Sigmoid_5)")
def gated() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.op("Mul", x, net.op("Sigmoid", net.linear(net.layer_norm(x), D, D)))
    return net.model(net.head(x))


@refused("its mean is read, which normalizations take off elsewhere (MatMul MatMul_2)")
def spelled_and_read_with_its_mean() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    x = net.op("Add", x, net.linear(net.op("Relu", net.linear(x, D, 24)), 24, D))
    return net.model(net.linear(net.spelled_layer_norm(x), D, 7), opset=13)


@refused("a quantized weight lies along it (DequantizeLinear DequantizeLinear_3)")
def quantized() -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    codes = net.constant(net.rng.integers(-127, 127, (D, 24)).astype(np.int8))
    scale, zero = net.constant(np.float32(0.01)), net.constant(np.int8(0))
    hidden = net.op("MatMul", net.layer_norm(x), net.op("DequantizeLinear", codes, scale, zero))
    return net.model(net.head(net.op("Add", x, net.linear(net.op("Relu", hidden), 24, D))))


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason_and_the_node(name: str, runtime: Runtime) -> None:
    made, reason = REFUSED[name]
    found = proven(made(), runtime)
    assert all(stream.linear for stream in found.turned.streams.values())
    assert [str(fixed.freeze) for fixed in found.turned.fixed] == [reason]


def test_half_precision(runtime: Runtime) -> None:
    net = Net(dtype=np.float16)
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    assert proven(net.model(net.head(net.block(x))), runtime, tolerance=1e-2).groups


@pytest.mark.parametrize("made", [pre_norm, read_with_its_mean, spelled_rms])
def test_bases_turn_a_network_likewise(made: Made, runtime: Runtime) -> None:
    model = made()
    turned = turned_model(model, [feeds_of(model, seed) for seed in (1, 2)], runtime)
    again = turn(normal_form(model), runtime, turned.bases)
    assert again.coupling.network.model.SerializeToString() == turned.coupling.network.model.SerializeToString()


@pytest.mark.parametrize("made", [pre_norm, read_with_its_mean])
def test_what_is_timed_has_the_operators_of_a_result(made: Made, runtime: Runtime) -> None:
    model = made()
    turned = turned_model(model, [feeds_of(model, seed) for seed in (1, 2)], runtime)
    network = turned.coupling.network
    analysis = turned.timed(analyze(network, (), turned.coupling, turned.empty))
    plan = Plan({}, ())
    result = turned.restored(analyze(network, (), turned.coupling, turned.empty), plan, network.model)
    timed = rewrite(analysis.network.model, plan_edits(analysis, plan))
    assert [n.op for n in analysis.network.nodes] == [n.op_type for n in analysis.network.model.graph.node]
    runtime.open(timed.SerializeToString()).run(feeds_of(model, 1))
    assert operators(timed)["LayerNormalization"] == operators(result)["LayerNormalization"] > 0
    assert operators(timed)["MatMul"] == operators(result)["MatMul"]


def test_a_stream_that_follows_the_inputs_is_cut_where_they_vary_least(runtime: Runtime) -> None:
    """Inputs that lie in a plane leave nothing in the other directions: the cut costs nothing."""
    net = Net()
    x = net.op("MatMul", net.input("n", TOKENS, 2), net.weight(2, D))
    model = net.model(net.linear(net.layer_norm(x), D, 7))
    sets = [feeds_of(model, seed) for seed in (1, 2)]
    turned = turned_model(model, sets, runtime, refits=False)
    analysis = analyze(turned.coupling.network, (), turned.coupling, turned.empty)
    group = analysis.groups[0]
    plan = Plan({group.name: np.array([0, 1, D - 1])}, ())
    cut = turned.restored(analysis, plan, rewrite(analysis.network.model, plan_edits(analysis, plan)))
    for feeds in sets:
        dense, small = (runtime.open(m.SerializeToString()).run(feeds) for m in (model, cut))
        assert relative_error(dense[0], small[0]) < 1e-4
