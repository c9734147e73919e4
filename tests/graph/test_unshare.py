"""What is stored once for unrelated layers is copied for each use; what a layer shares with itself is not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx.helper import make_node as node

from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.runtime.base import Runtime
from tests.conftest import build_model
from tests.cutting import assert_exact


def test_tables_are_untied_where_they_are_added() -> None:
    """Optimizers merge the equal position tables of all layers; a weight that is multiplied twice is one layer's."""
    nodes = [
        node("MatMul", ["x", "t"], ["a"]),
        node("Add", ["a", "t"], ["b"]),
        node("MatMul", ["b", "t"], ["c"]),
        node("Add", ["p", "c"], ["d"]),
        node("Mul", ["d", "p"], ["y"]),
    ]
    model = build_model(nodes, {"x": (4, 4)}, ["y"], {"t": (4, 4), "p": (2, 4, 1)})
    normalize(model, {})
    assert [list(n.input) for n in model.graph.node] == [
        *(["x", "t"], ["a", "t::use1"], ["b", "t"]),
        *(["p", "c"], ["d", "p::use1"]),
    ]


def test_moved_tables_are_untied_with_their_moves(runtime: Runtime) -> None:
    """One Unsqueeze of a rotary table may serve the queries and keys of every layer."""
    nodes = [
        node("Unsqueeze", ["t", "axis"], ["u"]),
        node("Transpose", ["u"], ["v"], perm=[0, 1, 3, 2]),
        node("Mul", ["x", "u"], ["a"]),
        node("Add", ["a", "v"], ["b"]),
        node("Sub", ["b", "v"], ["c"]),
        node("MatMul", ["c", "u"], ["y"]),
    ]
    model = build_model(nodes, {"x": (2, 4, 4)}, ["y"], {"t": (1, 4, 4), "axis": np.array([0])})
    normal = onnx.ModelProto.FromString(model.SerializeToString())
    normalize(normal, {})
    onnx.checker.check_model(normal)
    readers = Counter(name for n in normal.graph.node for name in n.input)
    assert Counter(n.op_type for n in normal.graph.node) == {
        "Unsqueeze": 4,
        "Transpose": 2,
        **dict.fromkeys(("Mul", "Add", "Sub", "MatMul"), 1),
    }
    assert all(readers[n.output[0]] == 1 for n in normal.graph.node if n.op_type in ("Unsqueeze", "Transpose"))
    assert len([t for t in normal.graph.initializer if t.name.startswith("t")]) == 4
    feeds = random_feeds(model, {"x": (2, 4, 4)}, 0)
    before, after = (runtime.open(m.SerializeToString()).run(feeds)[0] for m in (model, normal))
    assert np.array_equal(before, after)


def test_large_tables_are_not_copied() -> None:
    """A mask of thousands of positions, once for each of many layers, would outgrow the model."""
    nodes = [node("Add", ["x", "m"], ["a"]), node("Add", ["a", "m"], ["y"])]
    model = build_model(nodes, {"x": (1024, 1024)}, ["y"], {"m": (1024, 1024)})
    normalize(model, {})
    assert [t.name for t in model.graph.initializer] == ["m"]


def test_layers_that_share_a_moved_table_are_cut_apart(runtime: Runtime) -> None:
    nodes = [
        *(node("Unsqueeze", ["t", "axis"], ["u"]), node("MatMul", ["x", "w1"], ["a"]), node("Mul", ["a", "u"], ["b"])),
        *(node("MatMul", ["b", "w2"], ["c"]), node("Mul", ["c", "u"], ["d"]), node("MatMul", ["d", "w3"], ["y"])),
    ]
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w1": (3, 8), "w2": (8, 8), "w3": (8, 2), "t": (1, 4, 8)}
    model = build_model(nodes, {"x": (2, 4, 3)}, ["y"], weights | {"axis": np.array([0])})
    cut = assert_exact(model, runtime)
    assert [group.units for group in cut.analysis.groups] == [8, 8]
