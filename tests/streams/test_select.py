"""Units of normalized streams that cannot be rotated: cut exactly against statistics of what stays, and put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnx_mdp.graph.check import check
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.groups.find import NORMALIZED, Analysis
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.recover.refit import Refitter
from onnx_mdp.rewrite.plan import Plan, masked_original, plan_edits
from onnx_mdp.runtime.base import Array, Runtime
from onnx_mdp.statistics.walk import Walk
from onnx_mdp.streams.turn import Turned, turn
from onnx_mdp.verify.oracle import relative_error
from tests.recover.test_refit import inputs_of
from tests.streams.networks import TOKENS, D, Net, feeds_of
from tests.streams.proof import copy_of

Made = Callable[[], onnx.ModelProto]


def post_norm(dtype: type = np.float32) -> onnx.ModelProto:
    """An encoder whose normalizations stand in the stream."""
    net = Net(dtype=dtype)
    x = net.layer_norm(net.linear(net.input("n", TOKENS, 6), 6, D))
    for _ in range(2):
        x = net.layer_norm(net.op("Add", x, net.attention(x)))
        x = net.layer_norm(net.op("Add", x, net.mlp(x)))
    return net.model(net.linear(x, D, 7))


def embedded_tokens() -> onnx.ModelProto:
    """Tables of words and of places, and an output that is read off the table of words."""
    net = Net()
    table = net.weight(9, D)
    x = net.op("Gather", table, net.input("n", TOKENS, elem=onnx.TensorProto.INT64))
    x = net.layer_norm(net.op("Add", x, net.weight(1, TOKENS, D)))
    x = net.layer_norm(net.op("Add", x, net.attention(x)))
    return net.model(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))


def convnext() -> onnx.ModelProto:
    """Stages with a depthwise convolution on the stream; maps are normalized with channels last."""
    net = Net()

    def last(x: str) -> str:
        return net.op("Transpose", x, perm=[0, 2, 3, 1])

    def first(x: str) -> str:
        return net.op("Transpose", x, perm=[0, 3, 1, 2])

    x = net.op("Conv", net.input("n", 3, 8, 8), net.weight(D, 3, 2, 2), net.weight(D), strides=[2, 2])
    x = first(net.layer_norm(last(x)))
    for size in (D, 24):
        y = net.op("Conv", x, net.weight(size, 1, 3, 3), net.weight(size), pads=[1, 1, 1, 1], group=size)
        y = net.linear(net.op("Relu", net.linear(net.layer_norm(last(y), size), size, 40)), 40, size)
        x = net.op("Add", x, first(net.op("Mul", y, net.weight(size))))
        if size == D:
            x = first(net.layer_norm(last(x)))
            x = net.op("Conv", x, net.weight(24, D, 2, 2), net.weight(24), strides=[2, 2])
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.linear(net.layer_norm(pooled, 24), 24, 7))


def hidden_states() -> onnx.ModelProto:
    """An encoder that shows its stream: in the middle, where a product reads it as well, and in the end."""
    net = Net()
    x = net.layer_norm(net.op("Add", net.linear(net.input("n", TOKENS, 6), 6, D), net.weight(D)))
    middle = net.op("Add", x, net.attention(x))
    x = net.layer_norm(middle)
    x = net.layer_norm(net.op("Add", x, net.mlp(x)))
    return net.model(middle, x, net.op("Tanh", net.linear(x, D, 7)))


def spelled_out(opset: int = 13) -> onnx.ModelProto:
    """Normalizations that an exporter made of several operators."""
    net = Net()
    x = net.spelled_layer_norm(net.linear(net.input("n", TOKENS, 6), 6, D))
    x = net.spelled_layer_norm(net.op("Add", x, net.attention(x)))
    return net.model(net.linear(net.spelled_layer_norm(net.op("Add", x, net.mlp(x))), D, 7), opset=opset)


def one_scale_for_all() -> onnx.ModelProto:
    """Normalizations that share what they multiply with and what they add, as exporters store equal weights once."""
    net = Net()
    scale, bias = net.weight(D, mean=1), net.weight(D)
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    for _ in range(3):
        x = net.op("LayerNormalization", net.op("Add", x, net.mlp(x)), scale, bias, axis=-1)
    return net.model(net.linear(x, D, 7))


def normalized_branch() -> onnx.ModelProto:
    """What is added to the stream is normalized last, without a bias; queries and keys are too."""
    net = Net()
    x = net.linear(net.input("n", TOKENS, 6), 6, D)
    q, k = (net.layer_norm(net.linear(x, D, 12), 12) for _ in "qk")
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = net.op("LayerNormalization", net.linear(net.op("MatMul", weights, x), D, D), net.weight(D, mean=1))
    return net.model(net.linear(net.op("Sigmoid", net.op("Add", x, y)), D, 7))


NETWORKS: dict[str, tuple[Made, list[int]]] = {
    made.__name__: (made, widths)
    for made, widths in (
        (post_norm, [D]),
        (embedded_tokens, [D]),
        (convnext, [D, 24]),
        (normalized_branch, [12, D]),
        (hidden_states, [D]),
        (spelled_out, [D]),
        (one_scale_for_all, [D]),
    )
}
EVERY = pytest.mark.parametrize("name", NETWORKS)


def opened(model: onnx.ModelProto, runtime: Runtime) -> Turned:
    """A copy of a model with its normalizations spelled out."""
    return turn(prepare(copy_of(model), {}, lossless=True).network, runtime, {}, rotates=False)


def half(analysis: Analysis) -> Plan:
    """Every other unit of the normalized groups."""
    return Plan({g.name: np.arange(0, g.units, 2) for g in analysis.groups if g.kind == NORMALIZED}, ())


def run(model: onnx.ModelProto, runtime: Runtime) -> list[Array]:
    session = runtime.open(model.SerializeToString())
    return [value for seed in (1, 2) for value in session.run(feeds_of(model, seed))]


def error(expected: list[Array], found: list[Array]) -> float:
    return max(relative_error(a, b) for a, b in zip(expected, found, strict=True))


@EVERY
def test_uncut_it_computes_the_same_and_gets_its_own_nodes_back(name: str, runtime: Runtime) -> None:
    model = NETWORKS[name][0]()
    turned = opened(model, runtime)
    spelled = turned.coupling.network.model
    assert not any(node.op_type == "LayerNormalization" for node in spelled.graph.node)
    assert error(run(model, runtime), run(spelled, runtime)) < 1e-5
    before = prepare(copy_of(model), {}, lossless=True).network.model
    found = turned.restored(turned.analysis(), Plan({}, ()), spelled)
    assert found.graph.SerializeToString() == before.graph.SerializeToString()


@EVERY
def test_a_cut_equals_the_original_with_statistics_of_what_stays(name: str, runtime: Runtime) -> None:
    made, widths = NETWORKS[name]
    model = made()
    turned = opened(model, runtime)
    analysis = turned.analysis()
    plan = half(analysis)
    assert sorted(g.units for g in analysis.groups if g.kind == NORMALIZED) == widths
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    masked = run(masked_original(analysis, plan), runtime)
    assert error(masked, run(cut, runtime)) < 1e-6
    restored = turned.restored(analysis, plan, cut)
    check(restored)
    assert error(masked, run(restored, runtime)) < 1e-5
    assert error(run(model, runtime), masked) > 1e-2
    assert not np.array_equal(masked[0], masked[1])


@EVERY
def test_a_result_has_normalizations_of_the_width_it_was_cut_to(name: str, runtime: Runtime) -> None:
    model = NETWORKS[name][0]()
    turned = opened(model, runtime)
    analysis = turned.analysis()
    plan = half(analysis)
    restored = turned.restored(analysis, plan, rewrite(analysis.network.model, plan_edits(analysis, plan)))
    weights = {tensor.name: tensor.dims[0] for tensor in restored.graph.initializer if tensor.dims}
    before, after = ({n.name: n for n in m.graph.node if n.op_type == "LayerNormalization"} for m in (model, restored))
    assert before.keys() == after.keys()
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    for key, node in after.items():
        assert weights[node.input[1]] == sizes[before[key].input[1]] // 2
        epsilons = [next((a.f for a in n.attribute if a.name == "epsilon"), 1e-5) for n in (before[key], node)]
        assert epsilons[1] == pytest.approx(2 * epsilons[0])
    prepared = prepare(copy_of(model), {}, lossless=True).network
    added = {"MatMul": len(turned.bridged), "Add": len(turned.bridged)}
    assert Counter(n.op for n in prepared.nodes) + Counter(added) == Counter(n.op_type for n in restored.graph.node)


@EVERY
def test_what_is_timed_has_the_operators_of_a_result(name: str, runtime: Runtime) -> None:
    model = NETWORKS[name][0]()
    turned = opened(model, runtime)
    analysis, plan = turned.analysis(), half(turned.analysis())
    timed = turned.timed(analysis)
    found = rewrite(timed.network.model, plan_edits(timed, plan))
    result = turned.restored(analysis, plan, rewrite(analysis.network.model, plan_edits(analysis, plan)))
    assert Counter(n.op_type for n in found.graph.node) == Counter(n.op_type for n in result.graph.node)
    assert all(map(np.isfinite, (value.sum() for value in run(found, runtime))))
    live = [n.op for n in timed.network.nodes if not timed.network.varying.isdisjoint(n.outputs)]
    assert Counter(live)["LayerNormalization"] in (len(turned.selected), 0)
    assert Counter(live)["ReduceSum"] == 0


def test_what_something_else_locks_stays_as_it_is(runtime: Runtime) -> None:
    net = Net()
    x = net.layer_norm(net.op("Add", net.input("n", TOKENS, D), net.weight(D)))
    y = net.layer_norm(net.op("Relu", net.linear(x, D, 24)), 24)
    turned = opened(net.model(net.linear(y, 24, 7)), runtime)
    assert [g.units for g in turned.analysis().groups if g.kind == NORMALIZED] == [24]
    assert list(turned.selected) == [y]


def test_means_of_old_opsets(runtime: Runtime) -> None:
    model = spelled_out(11)
    turned = opened(model, runtime)
    analysis = turned.analysis()
    plan = half(analysis)
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    masked = run(masked_original(analysis, plan), runtime)
    assert error(masked, run(turned.restored(analysis, plan, cut), runtime)) < 1e-5
    assert [g.units for g in analysis.groups if g.kind == NORMALIZED] == [D]


def test_half_precision_takes_statistics_in_single_precision(runtime: Runtime) -> None:
    model = post_norm(np.float16)
    turned = opened(model, runtime)
    analysis = turned.analysis()
    plan = half(analysis)
    assert error(run(model, runtime), run(turned.coupling.network.model, runtime)) < 1e-2
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    assert error(run(masked_original(analysis, plan), runtime), run(cut, runtime)) < 1e-2
    restored = turned.restored(analysis, plan, cut)
    assert error(run(cut, runtime), run(restored, runtime)) < 1e-2
    assert not any(node.op_type == "Cast" for node in restored.graph.node)


def test_scales_and_biases_are_fitted_anew(runtime: Runtime) -> None:
    """Units of other sizes than those left out: without a fit what stays is divided by too much."""
    net = Net()
    x = net.op("MatMul", net.input("n", TOKENS, 6), net.constant(_widening(6, D)))
    model = net.model(net.op("Sigmoid", net.linear(net.layer_norm(x), D, 7)))
    turned = opened(model, runtime)
    analysis = turned.analysis()
    (group,) = (g for g in analysis.groups if g.kind == NORMALIZED)
    plan = Plan({group.name: np.arange(D // 2)}, ())
    cut = rewrite(analysis.network.model, plan_edits(analysis, plan))
    inputs = inputs_of(np.random.default_rng(3).normal(0, 1, (60, TOKENS, 6)).astype(np.float32), "x0")
    walk = Walk(analysis.network.model, inputs, runtime, 1 << 28)
    refits = {
        refit.weight: refit for refit in Refitter(analysis, plan, cut, inputs, walk).run(lambda done, total: None)
    }
    scale = next(node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization")
    assert refits[scale].after < 0.3 * refits[scale].before


def _widening(wide: int, units: int) -> Array:
    """Columns whose second half is three times as large as the first."""
    columns = np.random.default_rng(5).normal(0, 1, (wide, units))
    columns[:, units // 2 :] *= 3
    return columns.astype(np.float32)
