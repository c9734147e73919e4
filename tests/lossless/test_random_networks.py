"""Selections move up in random networks and shortcuts are convolved, which then compute the same, and are cut exactly.

The seed of a run is printed at its end; ONNX_MDP_SEED=<seed> runs the same examples again.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import analyze
from onnx_mdp.lossless import push
from onnx_mdp.lossless.convolve import convolve
from onnx_mdp.runtime.base import Runtime
from tests.random_networks.exact import assert_exact, draw_plan
from tests.random_networks.net import described
from tests.random_networks.networks import Example, networks
from tests.random_networks.seed import SEED


def selecting(example: Example, data: st.DataObject) -> onnx.ModelProto:
    """The network with some positions picked from its first output, along an axis that is not the batch."""
    model = onnx.ModelProto.FromString(example.model.SerializeToString())
    whole = model.graph.output[0]
    sizes = [dim.dim_value for dim in whole.type.tensor_type.shape.dim]
    axes = [axis for axis, size in enumerate(sizes) if axis and size > 1]
    assume(axes)
    axis = data.draw(st.sampled_from(axes), label="axis")
    outputs = [_selected(model, whole, axis, data, f"picked{k}") for k in range(data.draw(st.integers(1, 2)))]
    del model.graph.output[0]
    for output in reversed(outputs):
        model.graph.output.insert(0, output)
    return model


def _selected(
    model: onnx.ModelProto, whole: onnx.ValueInfoProto, axis: int, data: st.DataObject, name: str
) -> onnx.ValueInfoProto:
    """A new node that picks positions of an axis, and what it computes."""
    size = whole.type.tensor_type.shape.dim[axis].dim_value
    position = data.draw(st.integers(-size, size - 1), label="position")
    form = data.draw(st.sampled_from(["scalar", "list", "pair", "slice"]), label="form")
    stop = position + 1 if position != -1 else 2**63 - 1
    lists = {"slice": ([position], [stop], [axis]), "list": ([position],), "pair": ([position, 0],)}
    for k, values in enumerate(lists.get(form, (position,))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{name}.{k}"))
    names = [whole.name, *(f"{name}.{k}" for k in range(len(lists.get(form, (position,)))))]
    kind, attributes = ("Slice", {}) if form == "slice" else ("Gather", {"axis": axis})
    model.graph.node.append(helper.make_node(kind, names, [name], name, **attributes))
    shape = [dim.dim_param or dim.dim_value for dim in whole.type.tensor_type.shape.dim]
    shape[axis : axis + 1] = [] if form == "scalar" else [2 if form == "pair" else 1]
    return helper.make_tensor_value_info(name, whole.type.tensor_type.elem_type, shape)


def rewritten(example: Example, data: st.DataObject, runtime: Runtime) -> tuple[int, int, bool]:
    """How many operators selections move above in a network, and how many shortcuts are convolved in it.

    It is then cut at random; and whether that cuts it.
    """
    model = selecting(example, data)
    note(f"ONNX_MDP_SEED={SEED}")
    note(described(model))
    proto = onnx.ModelProto.FromString(model.SerializeToString())
    normalize(proto, {})
    network, shortcuts = convolve(read_network(proto, {}))
    network, moves = push.move_up(network)
    analysis = analyze(network)
    plan = draw_plan(data, analysis)
    outcome = assert_exact(Example(model, example.dynamic), analysis, plan, runtime)
    assume(outcome.depends)
    return sum(move.operators for move in moves), len(shortcuts), outcome.cut


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_networks_compute_the_same(count: int, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "_NODE", 0)  # networks as small as these would not move for the sake of time
    outcomes: list[tuple[int, int, bool]] = []

    @seed(SEED)
    @settings(max_examples=count, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})
    @given(networks(), st.data())
    def rewrites_are_lossless(example: Example, data: st.DataObject) -> None:
        outcomes.append(rewritten(example, data, runtime))

    rewrites_are_lossless()
    moved, convolved, cut = zip(*outcomes, strict=True)
    assert sum(operators > 0 for operators in moved) >= 0.3 * count, "most selections stay where they are"
    assert sum(operators > 5 for operators in moved) >= 0.02 * count, "hardly any moves far"
    assert any(convolved), "no shortcut is convolved"
    assert sum(cut) >= 0.3 * count, "hardly any network is cut"
