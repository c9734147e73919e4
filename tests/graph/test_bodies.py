"""Shapes behind If, Loop and Scan, and that what is around them is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_mdp import pipeline
from onnx_mdp.config import PruneOptions
from onnx_mdp.graph.infer import infer
from onnx_mdp.runtime.base import Runtime
from tests.conftest import analysis_of, build_model
from tests.cutting import assert_exact

node = helper.make_node


def declared(
    name: str, shape: tuple[int | str, ...] | None = None, elem: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def body(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], *outputs: str) -> onnx.GraphProto:
    """A subgraph that declares no shapes."""
    types = {"again": TensorProto.BOOL}
    return helper.make_graph(
        nodes, "body", inputs, [declared(n, None, types.get(n, TensorProto.FLOAT)) for n in outputs]
    )


def branches(other: str) -> onnx.NodeProto:
    then = body([node("Relu", ["a"], ["t"])], [], "t")
    second = body([node(other, ["a"], ["e"], **({"axis": 1} if other == "Concat" else {}))], [], "e")
    second.node[0].input.extend(["a"] if other == "Concat" else [])
    return node("If", ["positive"], ["b"], then_branch=then, else_branch=second, name="if")


TURN = [declared("i", (), TensorProto.INT64), declared("go", (), TensorProto.BOOL), declared("s"), declared("r")]


def loop(*turn: onnx.NodeProto) -> onnx.NodeProto:
    """Two states, s and r, become s1 and r1 in each of three turns."""
    nodes = [node("Identity", ["go"], ["again"]), *turn]
    return node("Loop", ["three", "", "a", "a"], ["b", "c", "d"], body=body(nodes, TURN, "again", "s1", "r1", "s1"))


def shape_of(middle: list[onnx.NodeProto], name: str = "b") -> tuple[int, ...] | None:
    """The shape of what nodes make of `a`, which is 1x8x4x4."""
    graph = helper.make_graph(
        [node("Identity", ["x"], ["a"]), node("ReduceSum", ["x"], ["sum"], keepdims=0), *middle],
        "test",
        [declared("x", ("N", 8, 4, "W")), declared("positive", (), TensorProto.BOOL)],
        [declared(name)],
        [helper.make_tensor("three", TensorProto.INT64, (), [3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return infer(model, {"x": (1, 8, 4, 4), "positive": ()}).shapes.get(name)


def test_branches_that_agree_give_a_shape() -> None:
    assert shape_of([branches("Sigmoid")]) == (1, 8, 4, 4)
    assert shape_of([branches("Concat")]) is None


def test_states_that_no_turn_reshapes_keep_their_shape() -> None:
    keeps = loop(node("Relu", ["s"], ["s1"]), node("Mul", ["r", "a"], ["r1"]))
    assert [shape_of([keeps], name) for name in "bcd"] == [(1, 8, 4, 4), (1, 8, 4, 4), None]


def test_states_that_follow_a_growing_one_have_no_shape() -> None:
    """In the first turn r1 has the shape of r."""
    grows = loop(node("Concat", ["s", "a"], ["s1"], axis=1), node("Identity", ["s"], ["r1"]))
    assert [shape_of([grows], name) for name in "bcd"] == [None, None, None]


def test_scan_stacks_along_its_axes() -> None:
    turn = body(
        [node("Add", ["s", "v"], ["s1"]), node("Mul", ["v", "sum"], ["o"])], [declared("s"), declared("v")], "s1", "o"
    )
    nodes = [
        node("ReduceMax", ["a", "axis"], ["start"], keepdims=0),
        node(
            "Scan",
            ["start", "a"],
            ["last", "b"],
            body=turn,
            num_scan_inputs=1,
            scan_input_axes=[3],
            scan_output_axes=[-1],
        ),
    ]
    nodes.insert(0, node("Constant", [], ["axis"], value_ints=[3]))
    assert shape_of(nodes, "last") == (1, 8, 4)
    assert shape_of(nodes) == (1, 8, 4, 4)


@pytest.mark.parametrize("middle", ["If", "Loop"])
def test_what_is_around_control_flow_is_cut(middle: str, runtime: Runtime) -> None:
    one = loop(node("Relu", ["s"], ["s1"]), node("Mul", ["r", "half"], ["r1"])) if middle == "Loop" else branches("Neg")
    nodes = [
        *(node("Conv", ["x", "w0"], ["z"]), node("Relu", ["z"], ["zr"]), node("Conv", ["zr", "w1"], ["a"])),
        *(node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "zero"], ["positive"]), one),
        *(node("Conv", ["b", "w2"], ["e"]), node("Relu", ["e"], ["f"]), node("Conv", ["f", "w3"], ["y"])),
    ]
    weights = {"w0": (12, 3, 1, 1), "w1": (8, 12, 1, 1), "w2": (16, 8, 1, 1), "w3": (2, 16, 1, 1)}
    constants = {"zero": np.float32(0), "half": np.float32(0.5), "three": np.int64(3)}
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], {**weights, **constants})
    model.graph.output[0].CopyFrom(declared("y", (1, 2, 4, 4)))
    cut = assert_exact(model, runtime)
    assert sorted(group.units for group in cut.analysis.groups) == [12, 16]


def test_declared_symbols_of_the_inputs_are_sizes() -> None:
    """What an operator of somebody's own computes has the shape that the file declares."""
    nodes = [
        *(node("Conv", ["x", "w1"], ["a"]), node("Identity", ["a"], ["b"])),
        *(node("Conv", ["b", "w2"], ["c"]), node("Conv", ["c", "w3"], ["y"])),
    ]
    weights = {"w1": (8, 3, 1, 1), "w2": (16, 8, 1, 1), "w3": (2, 16, 1, 1)}
    model = build_model(nodes, {"x": ("batch", 3, 4, 4)}, ["y"], weights)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Mine", "acme.ops"
    model.opset_import.append(helper.make_opsetid("acme.ops", 1))
    model.graph.value_info.append(declared("b", ("batch", 8, 4, 4)))
    assert [group.units for group in analysis_of(model).groups] == [16]


def test_weights_that_had_to_be_inputs_are_none_in_the_result(tmp_path: Path) -> None:
    """Before version 4 of the format, which came with opset 9, every initializer was an input."""
    nodes = [node("Conv", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w2"], ["y"])]
    weights = {"w1": (8, 3, 1, 1), "w2": (2, 8, 1, 1)}
    model = build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights, opset=8)
    model.ir_version = 3
    model.graph.input.extend(declared(name, shape) for name, shape in weights.items())
    onnx.checker.check_model(model)
    result = pipeline.prune(model, PruneOptions(ratio="50%", output=tmp_path / "out.onnx", quiet=True)).model
    assert [value.name for value in result.graph.input] == ["x"]
    assert {tensor.name: tensor.dims[0] for tensor in result.graph.initializer} == {"w1": 4, "w2": 2}
