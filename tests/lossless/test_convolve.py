"""Shortcuts of strides and zeros become convolutions: the same numbers, and groups that are free of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnx_mdp
from onnx_mdp.errors import PlanError
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.network import Network, read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import analyze
from onnx_mdp.lossless.convolve import Convolved, convolve
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.verify.oracle import relative_error
from tests.conftest import Weights, build_model
from tests.cutting import assert_exact

node = helper.make_node
END = 2**63 - 1
SLICE = [node("Slice", ["a", "starts", "ends", "axes", "steps"], ["s"], "take")]
PAD = [node("Pad", ["s", "pads"], ["p"], "widen")]
SHORTCUT: Weights = {
    "starts": np.array([0, 0]),
    "ends": np.array([END, END]),
    "axes": np.array([2, 3]),
    "steps": np.array([2, 2]),
    "pads": np.array([0, 3, 0, 0, 0, 1, 0, 0]),
}


def residual(
    shortcut: list[onnx.NodeProto],
    size: tuple[int | str, ...] = (6, 6),
    opset: int = 18,
    outputs: Sequence[str] = ("y",),
    **weights: Any,
) -> onnx.ModelProto:
    """A stem, a stage of two blocks of which the first halves the positions, and a classifier."""
    nodes = [
        node("Conv", ["x", "stem"], ["a"], pads=[1, 1, 1, 1]),
        *shortcut,
        node("Conv", ["a", "w1"], ["b"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Add", ["b", "p"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w2"], ["e"], pads=[1, 1, 1, 1]),
        node("Add", ["d", "e"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Conv", ["g", "head"], ["y"]),
    ]
    sizes: Weights = {"stem": (4, 3, 3, 3), "w1": (8, 4, 3, 3), "w2": (8, 8, 3, 3), "head": (2, 8, 1, 1)}
    return build_model(nodes, {"x": (1, 3, *size)}, list(outputs), {**SHORTCUT, **sizes, **weights}, opset)


def convolved(model: onnx.ModelProto) -> tuple[Network, tuple[Convolved, ...]]:
    """A copy of a model in normal form with its shortcuts as convolutions."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    normalize(copy, {})
    return convolve(read_network(copy, {}))


def assert_equal(model: onnx.ModelProto, network: Network, runtime: Runtime, size: int = 6) -> None:
    feeds = random_feeds(model, {"x": (1, 3, size, size)}, 1)
    expected, found = (runtime.open(m.SerializeToString()).run(feeds)[0] for m in (model, network.model))
    assert relative_error(expected, found) <= 1e-6


def spellings() -> Iterator[tuple[list[onnx.NodeProto], int]]:
    """The same shortcut as exporters and operator sets spell it."""
    yield [*SLICE, *PAD], 11
    yield [*SLICE, node("Pad", ["s", "two", "", "channels"], ["p"], "widen")], 18
    axes = [node("Slice", [x, "zero", "end", axis, "two1"], [y]) for x, axis, y in (("a", "h", "t"), ("t", "w", "s"))]
    yield [*axes, *PAD], 18


@pytest.mark.parametrize(("shortcut", "opset"), list(spellings()))
def test_a_shortcut_becomes_a_convolution(shortcut: list[onnx.NodeProto], opset: int, runtime: Runtime) -> None:
    more = {"two": np.array([3, 1]), "channels": np.array([1]), "zero": np.array([0]), "end": np.array([END])}
    more |= {"h": np.array([2]), "w": np.array([-1]), "two1": np.array([2])}
    model = residual(shortcut, opset=opset, **more)
    network, found = convolved(model)
    assert found == (Convolved("widen", 8 * 4 * 9),)
    assert not {"Slice", "Pad"} & {n.op for n in network.nodes}
    assert_equal(model, network, runtime)
    assert sorted(group.units for group in analyze(network).groups) == [4, 8]
    assert_exact(network.model, runtime)
    assert convolve(network) == (network, ()), "there is nothing left to do"


def test_attributes_of_old_operator_sets_are_read(runtime: Runtime) -> None:
    """Slice has no steps there: the shortcut only widens."""
    shortcut = [node("Pad", ["a"], ["p"], "widen", pads=[0, 0, 0, 0, 0, 4, 0, 0])]
    model = residual(shortcut, opset=9)
    for conv in model.graph.node:
        if "w1" in conv.input:
            next(a for a in conv.attribute if a.name == "strides").ints[:] = [1, 1]
    network, found = convolved(model)
    assert found
    assert_equal(model, network, runtime)


def test_what_is_above_a_shortcut_stays(runtime: Runtime) -> None:
    """A Slice that crops: the Pad behind it is all that becomes a convolution."""
    crop = node("Slice", ["a", "one", "end", "h"], ["t"], "crop")
    more = {"one": np.array([1]), "end": np.array([END]), "h": np.array([2])}
    model = residual([crop, node("Slice", ["t", "starts", "ends", "axes", "steps"], ["s"], "take"), *PAD], **more)
    network, found = convolved(model)
    assert len(found) == 1
    assert [n.name for n in network.nodes if n.op in ("Slice", "Pad")] == ["crop"]
    assert_equal(model, network, runtime)


@pytest.mark.parametrize("size", [6, 9])
def test_sizes_may_be_free(size: int, runtime: Runtime) -> None:
    model = residual([*SLICE, *PAD], size=("h", "w"))
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    normalize(copy, {"x": (1, 3, 6, 6)})
    network, found = convolve(read_network(copy, {"x": (1, 3, 6, 6)}))
    assert found
    assert_equal(model, network, runtime, size)


@pytest.mark.parametrize(
    ("shortcut", "weights", "stays"),
    [
        ([*SLICE, node("Pad", ["s", "pads", "half"], ["p"])], {"half": np.float32(0.5)}, "Pad"),
        ([*SLICE, node("Pad", ["s", "pads"], ["p"], mode="edge")], {}, "Pad"),
        ([*SLICE, *PAD], {"axes": np.array([1, 3]), "pads": np.array([0, 3, 0, 0, 0, 3, -3, 0])}, "Pad"),
        ([*SLICE, *PAD, node("Relu", ["p"], ["o"])], {}, "Pad"),
        ([*SLICE, *PAD], {"starts": np.array([1, 0])}, "Slice"),
        ([*SLICE, *PAD], {"ends": np.array([END, 5])}, "Slice"),
    ],
    ids=["other value", "edges", "of channels", "read twice", "from the second", "not to the end"],
)
def test_what_is_no_stride_or_zeros_stays(
    shortcut: list[onnx.NodeProto], weights: dict[str, Any], stays: str, runtime: Runtime
) -> None:
    model = residual(shortcut, outputs=["y", *(["o"] if len(shortcut) > 2 else [])], **weights)
    network, found = convolved(model)
    assert stays in {n.op for n in network.nodes}
    assert bool(found) is (stays == "Slice"), "zeros may be convolved where strides are not"
    assert_equal(model, network, runtime)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The ratios that comparisons will find, one after the other; the last one again and again."""
    ratios: list[float] = []

    def compare(*_: Any) -> Comparison:
        ratio = ratios.pop(0) if len(ratios) > 1 else ratios[0]
        return Comparison(2.0, 2.0 * ratio, 2.0, 2.0 * ratio, "cpu", 0.001)

    monkeypatch.setattr(Stopwatch, "compare", compare)
    return ratios


def test_prune_reports_it_and_apply_repeats_it(tmp_path: Path, measured: list[float]) -> None:
    measured[:] = [0.9]
    model, plan = residual([*SLICE, *PAD]), tmp_path / "plan.json"
    result = onnx_mdp.prune(model, ratio="50%", plan=plan, lut=tmp_path / "lut.sqlite", force=True)
    assert result.report.lossless["convolved"] == [{"name": "widen", "macs": 288}]
    assert result.report.lossless["macs_saved"] == -288
    assert result.plan["convolved"] == ["widen"]
    again, _ = onnx_mdp.apply(model, plan)
    assert again.SerializeToString() == result.model.SerializeToString()


def test_what_measures_slower_is_not_convolved(tmp_path: Path, measured: list[float]) -> None:
    measured[:] = [1.1]
    model, plan = residual([*SLICE, *PAD]), tmp_path / "plan.json"
    result = onnx_mdp.prune(model, ratio="50%", plan=plan, lut=tmp_path / "lut.sqlite", force=True)
    assert not result.report.lossless["convolved"]
    assert "convolved" not in result.plan
    assert any("widen: not convolved" in text for text in result.report.warnings)
    again, _ = onnx_mdp.apply(model, plan)
    assert again.SerializeToString() == result.model.SerializeToString()


def test_of_two_kinds_of_rewrites_those_are_kept_that_are_fastest_together(
    tmp_path: Path, measured: list[float]
) -> None:
    """A shortcut, and a selection that moves up: together, the selection alone, the shortcut alone."""
    model = residual([*SLICE, *PAD])
    wide = {"wide": (1, 1, 6, 4096), "first": np.array(0)}
    for name, shape in wide.items():
        values = shape if isinstance(shape, np.ndarray) else np.ones(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.node.append(node("MatMul", ["a", "wide"], ["m"], "spread"))
    model.graph.node.append(node("Gather", ["m", "first"], ["z"], "pick", axis=2))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, (1, 4, 4096)))
    for ratios, moved, shortcuts in (([0.8, 0.9, 0.9], 1, 1), ([0.9, 0.8, 1.0], 1, 0), ([0.9, 1.0, 0.8], 0, 1)):
        measured[:] = [*ratios, 0.5]
        result = onnx_mdp.prune(model, ratio="50%", lut=tmp_path / "lut.sqlite", force=True)
        found = result.report.lossless
        assert (len(found["moved"]), len(found["convolved"])) == (moved, shortcuts)


def test_a_plan_whose_shortcuts_the_model_lacks_is_refused(tmp_path: Path, measured: list[float]) -> None:
    measured[:] = [0.9]
    model, plan = residual([*SLICE, *PAD]), tmp_path / "plan.json"
    onnx_mdp.prune(model, ratio="50%", plan=plan, lut=tmp_path / "lut.sqlite", force=True)
    plan.write_text(plan.read_text().replace('["widen"]', "[]"))
    with pytest.raises(PlanError):
        onnx_mdp.apply(model, plan)


def test_runtimes_then_keep_their_layout(tmp_path: Path) -> None:
    """What it is for: no reordering in between, and sums within convolutions, where convolutions are blocked."""
    model = residual([*SLICE, *PAD], stem=(16, 3, 3, 3), w1=(32, 16, 3, 3), w2=(32, 32, 3, 3), head=(2, 32, 1, 1))
    pads = next(tensor for tensor in model.graph.initializer if tensor.name == "pads")
    pads.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 8, 0, 0, 0, 8, 0, 0]), "pads"))
    network, _ = convolved(model)
    before, after = (_optimized(m, tmp_path) for m in (model, network.model))
    if "ReorderOutput" not in before:
        pytest.skip("convolutions are not blocked here")
    assert after.count("ReorderOutput") < before.count("ReorderOutput")
    assert after.count("Add") < before.count("Add")


def _optimized(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]
