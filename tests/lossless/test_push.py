"""Selections move above what passes their axis, as far as that saves work and computes nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_mdp
from onnx_mdp.config import ApplyOptions, InspectOptions
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Network, read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.lossless.push import Moved, move_up
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.verify.oracle import FP32_TOLERANCE, relative_error

FIRST = np.array(0, np.int64)
D = 64


def moved(model: onnx.ModelProto) -> tuple[Network, tuple[Moved, ...]]:
    """A copy of a model in normal form with its selections moved up."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    normalize(copy, {})
    return move_up(read_network(copy, {}))


def assert_equal(model: onnx.ModelProto, network: Network, runtime: Runtime, batch: int = 1) -> None:
    """Both compute the same on noise, which their outputs depend on."""
    shapes = {name: (batch, *shape[1:]) for name, shape in network.inputs.items()}
    sessions = [runtime.open(m.SerializeToString()) for m in (model, network.model)]
    feeds = [random_feeds(model, shapes, seed) for seed in (1, 2)]
    results = [[session.run(f) for f in feeds] for session in sessions]
    for expected, found in zip(*results, strict=True):
        assert all(relative_error(a, b) <= FP32_TOLERANCE for a, b in zip(expected, found, strict=True))
    assert not np.array_equal(results[0][0][0], results[0][1][0])


def above(network: Network) -> list[str]:
    """The operators that work on less after a selection, in graph order: all that follow the first one."""
    first = next(i for i, node in enumerate(network.nodes) if node.op in ("Slice", "Gather"))
    return [node.op for node in network.nodes[first:]]


def mlp(x: str, y: str) -> list[onnx.NodeProto]:
    """A hidden layer from x to y."""
    return [
        helper.make_node("MatMul", [x, "w1"], [f"{y}.hidden"]),
        helper.make_node("Relu", [f"{y}.hidden"], [f"{y}.relu"]),
        helper.make_node("MatMul", [f"{y}.relu", "w2"], [y]),
    ]


MLP = {"w1": (D, 4 * D), "w2": (4 * D, D)}


@pytest.fixture
def transformer(vit: Path) -> onnx.ModelProto:
    """A classifier that reads one token."""
    return onnx.load(str(vit))


def test_a_transformer_computes_its_last_block_for_the_token_that_is_read(
    transformer: onnx.ModelProto, runtime: Runtime
) -> None:
    network, moves = moved(transformer)
    assert [move.operators for move in moves] == [22]
    dense = sum(node_macs(read_network(transformer, {})).values())
    assert sum(node_macs(network).values()) + moves[0].macs == dense
    assert moves[0].macs > 0.14 * dense
    assert_equal(transformer, network, runtime)
    assert not moved(network.model)[1], "a result moves no further"


def test_groups_and_blocks_stay(transformer: onnx.ModelProto) -> None:
    copy = onnx.ModelProto.FromString(transformer.SerializeToString())
    normalize(copy, {})
    before = analyze(read_network(copy, {}))
    after = analyze(moved(transformer)[0])

    def shown(found: Analysis) -> object:
        groups = [(g.name, g.kind, g.units, g.members) for g in found.groups]
        return groups, [(b.name, b.silenced) for b in found.blocks]

    assert shown(after) == shown(before)


def test_a_residual_gives_each_of_its_operands_a_selection(
    build: Callable[..., onnx.ModelProto], runtime: Runtime
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["stream"]),
        *mlp("stream", "branch"),
        helper.make_node("Add", ["stream", "branch"], ["sum"]),
        helper.make_node("Gather", ["sum", "first"], ["y"], axis=1),
    ]
    model = build(nodes, {"x": ("n", 128, D)}, ["y"], {**MLP, "first": FIRST})
    network, moves = moved(model)
    assert [move.operators for move in moves] == [5], "the stream's readers, which all want it, are two"
    assert above(network) == ["Slice", "Relu", "MatMul", "Relu", "MatMul", "Add", "Squeeze"]
    assert_equal(model, network, runtime, batch=1)
    assert_equal(model, network, runtime, batch=3)


def test_nothing_is_computed_twice(build: Callable[..., onnx.ModelProto], runtime: Runtime) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["stream"]),
        *mlp("stream", "branch"),
        helper.make_node("ReduceMax", ["branch.hidden"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Gather", ["branch", "first"], ["y"], axis=1),
    ]
    model = build(nodes, {"x": (1, 128, D)}, ["y", "most"], {**MLP, "first": FIRST}, opset=17)
    network, moves = moved(model)
    assert [move.operators for move in moves] == [2]
    assert network.shapes["branch.hidden"] == (1, 128, 4 * D), "it is read whole"
    assert [node.op for node in network.nodes].count("MatMul") == 2
    assert_equal(model, network, runtime)


@pytest.mark.parametrize(
    ("kind", "axis", "attributes"),
    [
        ("Softmax", 1, {"axis": 1}),
        ("CumSum", 1, {}),
        ("LayerNormalization", 2, {"axis": -1}),
        ("MatMul", 1, {}),
    ],
)
def test_what_mixes_the_axis_stops_it(
    kind: str, axis: int, attributes: dict[str, int], build: Callable[..., onnx.ModelProto]
) -> None:
    extra = {"CumSum": ["along"], "LayerNormalization": ["scale"], "MatMul": []}.get(kind, [])
    inputs = ["mix", "x"] if kind == "MatMul" else ["x", *extra]
    nodes = [
        helper.make_node(kind, inputs, ["mixed"], **attributes),
        helper.make_node("Gather", ["mixed", "first"], ["y"], axis=axis),
    ]
    weights = {"along": np.array(1, np.int64), "scale": (D,), "mix": (128, 128), "first": FIRST}
    model = build(nodes, {"x": (1, 128, D)}, ["y"], weights)
    network, moves = moved(model)
    assert [m.operators for m in moves] == ([1] if kind == "MatMul" else [])
    if moves:
        assert network.shapes[network.producers["mixed"].inputs[0]] == (1, 128), "its rows are picked, not what it sums"


def test_several_tokens_move_as_one_range(build: Callable[..., onnx.ModelProto], runtime: Runtime) -> None:
    nodes = [
        *mlp("x", "branch"),
        helper.make_node("Gather", ["branch", "first"], ["y"], axis=1),
        helper.make_node("Slice", ["branch", "two", "four", "one"], ["z"]),
    ]
    ints = {name: np.array([v], np.int64) for name, v in (("one", 1), ("two", 2), ("four", 4))}
    model = build(nodes, {"x": (1, 128, D)}, ["y", "z"], {**MLP, **ints, "first": FIRST})
    network, moves = moved(model)
    assert [move.operators for move in moves] == [3]
    assert network.shapes["branch"] == (1, 4, D)
    assert_equal(model, network, runtime)


def test_an_axis_merged_with_the_batch_is_selected_before_it_is_merged(
    build: Callable[..., onnx.ModelProto], runtime: Runtime
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Reshape", ["relu", "rows"], ["flat"]),
        *mlp("flat", "branch"),
        helper.make_node("Reshape", ["branch", "tokens"], ["apart"]),
        helper.make_node("Gather", ["apart", "first"], ["y"], axis=1),
    ]
    shapes = {"rows": np.array([-1, D], np.int64), "tokens": np.array([-1, 128, D], np.int64)}
    model = build(nodes, {"x": ("n", 128, D)}, ["y"], {**MLP, **shapes, "first": FIRST})
    network, moves = moved(model)
    assert [move.operators for move in moves] == [6]
    assert_equal(model, network, runtime, batch=3)


def test_what_measures_slower_is_not_moved(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Comparison(2.0, 2.1, 2.0, 2.1, "cpu", 0.001)
    monkeypatch.setattr(Stopwatch, "compare", lambda *_: found)
    result = onnx_mdp.prune(vit, ratio="50%", lut=tmp_path / "lut.sqlite", force=True)
    assert not result.report.lossless["moved"]
    assert any("node_select: not moved up" in text for text in result.report.warnings)
    plain = onnx_mdp.prune(vit, ratio="50%", lossless=False, force=True)
    assert result.model.SerializeToString() == plain.model.SerializeToString()


def test_prune_reports_what_moved_and_apply_repeats_it(vit: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    result = onnx_mdp.prune(vit, ratio="50%", plan=plan, force=True)
    assert [m["name"] for m in result.report.lossless["moved"]] == ["node_select"]
    assert 0 < result.report.lossless["macs_saved"] < result.report.lossless["macs_total"]
    again, _ = onnx_mdp.apply(vit, plan)
    assert again.SerializeToString() == result.model.SerializeToString()
    plain, _ = onnx_mdp.apply(vit, plan, ApplyOptions(lossless=False))
    macs = [sum(node_macs(read_network(model, {})).values()) for model in (again, plain)]
    assert macs[0] < macs[1]
    assert not onnx_mdp.inspect(vit, InspectOptions(lossless=False))["lossless"]["moved"]
