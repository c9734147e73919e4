"""How much is prunable and what locks the rest, on graphs small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.helper import make_node as node

from onnx_mdp.graph.load import load
from onnx_mdp.groups.share import LockReason, PrunableShare, lock_reasons, prunable_share
from tests.conftest import analysis_of, build_model


def normalized_mlp() -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["a"]),
        node("LayerNormalization", ["a", "s", "b"], ["n"], name="norm"),
        node("Gemm", ["n", "w1"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("Gemm", ["d", "w2"], ["y"]),
    ]
    weights = {"w0": (3, 8), "b0": (8,), "s": (8,), "b": (8,), "w1": (8, 6), "w2": (6, 2)}
    return build_model(nodes, {"x": (5, 3)}, ["y"], weights)


def test_share_counts_what_the_groups_reach() -> None:
    share = prunable_share(analysis_of(normalized_mlp()))
    dense = 5 * (3 * 8 + 8 * 6 + 6 * 2)
    assert share == PrunableShare(8 * 6 + 6 * 2, 24 + 8 + 8 + 8 + 48 + 12, 5 * (8 * 6 + 6 * 2), dense)
    assert share.parameters_share == 60 / 108
    assert share.to_json()["macs_share"] == 300 / dense


def test_reasons_name_what_locks_the_rest() -> None:
    """Weights the hidden group reaches (w1, w2) do not count, though their other dimension is locked."""
    assert lock_reasons(analysis_of(normalized_mlp())) == (
        LockReason("its statistics are taken over it", 24 + 8 + 8 + 8, 1, "LayerNormalization norm"),
        LockReason("it is a graph input", 24, 1, "x"),
    )


def test_a_lock_by_request_takes_its_weights_out() -> None:
    analysis = analysis_of(normalized_mlp(), locks=("w1",))
    assert prunable_share(analysis).parameters == 0
    rows = {row.reason: row for row in lock_reasons(analysis)}
    assert rows["it is locked by request"] == LockReason("it is locked by request", 48 + 12, 1, "w1")
    assert rows["it is a graph output"].parameters == 12


def test_details_of_a_reason_do_not_split_its_row() -> None:
    """Three layers whose reshapes fail at different sizes are one row."""
    nodes, weights = [], {}
    for i, (width, rows) in enumerate([(6, 4), (10, 4), (14, 4)]):
        nodes += [
            node("Gemm", ["x", f"w{i}"], [f"a{i}"]),
            node("Reshape", [f"a{i}", f"s{i}"], [f"b{i}"]),
            node("ReduceMax", [f"b{i}"], [f"y{i}"], keepdims=0),
        ]
        weights |= {f"w{i}": (3, width), f"s{i}": onnx.numpy_helper.to_array(_ints(rows, 6 * width // rows))}
    model = build_model(nodes, {"x": (6, 3)}, ["y0", "y1", "y2"], weights)
    (row,) = [row for row in lock_reasons(analysis_of(model)) if row.reason.startswith("it cannot be aligned")]
    assert row.reason == "it cannot be aligned"
    assert row.parameters == 3 * (6 + 10 + 14)


def _ints(*values: int) -> onnx.TensorProto:
    return onnx.helper.make_tensor("", onnx.TensorProto.INT64, [len(values)], values)


def test_shared_bias_counts_once_and_scalars_are_explained() -> None:
    nodes = [
        node("Conv", ["x", "w1", "bias"], ["a"]),
        node("Mul", ["a", "half"], ["b"], name="scale"),
        node("Conv", ["b", "w2", "bias"], ["c"]),
        node("Conv", ["c", "w3"], ["y"]),
    ]
    weights = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (2, 8, 1, 1), "bias": (8,), "half": ()}
    analysis = analysis_of(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights))
    assert prunable_share(analysis).parameters_total == 24 + 64 + 16 + 8 + 1
    assert lock_reasons(analysis) == (LockReason("it has a single element", 1, 0, "Mul scale"),)


def test_totals_are_the_model_s_own(cnn: Path, vit: Path) -> None:
    for path in (cnn, vit):
        assert prunable_share(analysis_of(path)).parameters_total == load(path)[0].parameters
