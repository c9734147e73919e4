"""Where a rule says that an operator passes an axis, picking its positions before or after it is the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.graph.network import Network
from onnx_mdp.lossless.places import Passage, Place, passage
from onnx_mdp.rules import Refusal, View, line_of
from onnx_mdp.runtime.base import Array, Runtime
from tests.rules.test_golden import CASES, Case, view_of

PICKED = [1, 0]
ALL_ZERO = ("ConstantOfShape", "QLinearGlobalAveragePool", "RoiAlign")  # noise makes no sensible scales or regions


def feeds_of(network: Network) -> dict[str, Array]:
    """Seeded values for every input of the one node: small codes and noise; integers that mean something stay."""
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for name in filter(None, network.nodes[0].inputs):
        if name in network.weights and network.weights[name].dtype != np.uint8:
            feeds[name] = network.weights[name]
        elif network.dtype(name) == np.uint8:
            feeds[name] = np.asarray(rng.integers(0, 255, network.shapes[name]), np.uint8)
        else:
            feeds[name] = np.asarray(np.abs(rng.normal(1, 0.3, network.shapes[name])), network.dtype(name))
    return feeds


def run(runtime: Runtime, network: Network, feeds: dict[str, Array]) -> Array:
    """The first output of the network's one node."""
    node = network.model.graph.node[0]
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(node.output[0], network.types[node.output[0]], None)],
    )
    model = helper.make_model(graph, opset_imports=network.model.opset_import, ir_version=10)
    return runtime.open(model.SerializeToString(), optimize=False).run(feeds)[0]


def picked(values: Array, place: Place, size: int, positions: list[int]) -> Array:
    """The positions of a place inside an axis."""
    before, axis = values.shape[: place.axis], values.shape[place.axis]
    split = values.reshape(*before, place.outer, size, axis // place.outer // size, *values.shape[place.axis + 1 :])
    taken = np.take(split, positions, place.axis + 1)
    return taken.reshape(*before, axis // size * len(positions), *values.shape[place.axis + 1 :])


def passages(view: View) -> list[tuple[int, int, Passage]]:
    """Every axis of the node's output that passes, with its size."""
    line = line_of(view)
    if isinstance(line, Refusal):
        return []
    shapes = view.network.shapes
    found = [
        (axis, size, passage(line, view.node, shapes, Place(axis), size))
        for axis, size in enumerate(view.out_shape())
        if size > len(PICKED)
    ]
    return [(axis, size, passed) for axis, size, passed in found if passed]


def before(node: onnx.NodeProto, size: int, feeds: dict[str, Array], passed: Passage) -> dict[str, Array]:
    """The inputs with only the picked positions, and integers that say so."""
    result: dict[str, Any] = dict(feeds)
    for position, place in passed.inputs.items():
        result[node.input[position]] = picked(feeds[node.input[position]], place, size, PICKED)
    for held in passed.held:
        values = result[node.input[held.position]].copy()
        values[held.index] = held.size * len(PICKED)
        result[node.input[held.position]] = values
    return result


PASSING = [case for case in CASES if passages(view_of(case))]


def test_most_operators_pass_an_axis() -> None:
    assert len({case.op for case in PASSING}) > 70


@pytest.mark.parametrize("case", PASSING, ids=lambda case: case.key)
def test_picking_before_is_picking_after(case: Case, runtime: Runtime) -> None:
    view = view_of(case)
    feeds = feeds_of(view.network)
    try:
        whole = run(runtime, view.network, feeds)
    except RuntimeBackendError as error:
        pytest.skip(f"the runtime does not have it: {error}")
    for axis, size, passed in passages(view):
        found = run(runtime, view.network, before(view.network.model.graph.node[0], size, feeds, passed))
        expected = np.take(whole, PICKED, axis)
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 0 or case.op in ALL_ZERO
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * float(np.abs(expected).max()))


def test_an_axis_that_is_one_of_several_merged_ones_passes_a_reshape() -> None:
    case = Case("Reshape", ((2, 5, 3, 4), np.array([10, 12], np.int64)))
    view = view_of(case)
    line = line_of(view)
    assert not isinstance(line, Refusal)
    passed = passage(line, view.node, view.network.shapes, Place(0, outer=2), 5)
    assert passed
    assert passed.inputs == {0: Place(1)}
    assert [held.size for held in passed.held] == [2]
    assert passage(line, view.node, view.network.shapes, Place(0), 5) is None, "5 outer rows of 2 are no axis"
    assert math.prod(view.out_shape()) == 120
