"""Replays equal whole runs of the changed model, wherever they begin."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node as node

from onnx_mdp.graph.span import Positions
from onnx_mdp.groups.cut import masked_weights
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.replay import Outputs, Replay, Trial
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.inputs.load import load_inputs
from onnx_mdp.rewrite.plan import Plan, masked_original
from onnx_mdp.runtime.base import Runtime
from tests.conftest import MODELS, analysis_of, build_model

BOTH = pytest.mark.parametrize("model", ["digits_cnn.onnx", "digits_vit.onnx"])


def inputs_of(x: np.ndarray, name: str = "input") -> Inputs:
    return load_inputs({name: x}, (InputSpec(name, x.dtype, x.shape[1:], None),))


def plans(analysis: Analysis) -> dict[str, Plan]:
    """One group at half its units, or one block removed, for all of them."""
    whole = {group.name: np.arange(group.units) for group in analysis.groups}
    cuts = {g.name: Plan({**whole, g.name: np.arange(g.units // 2, g.units)}, ()) for g in analysis.groups}
    return cuts | {block.name: Plan(whole, (block.name,)) for block in analysis.blocks}


def trials(analysis: Analysis) -> list[Trial]:
    coupling = analysis.coupling
    cuts = [
        Trial(
            group.name,
            tuple(name for name, _ in group.members),
            partial(masked_weights, coupling, {group.factor: np.arange(group.units // 2, group.units)}),
        )
        for group in analysis.groups
    ]
    blocks = [
        Trial(block.name, block.silenced, partial(masked_weights, coupling, {}, [block])) for block in analysis.blocks
    ]
    return [*cuts, *blocks]


@BOTH
@pytest.mark.parametrize("held_bytes", [1 << 28, 1 << 20, 0], ids=["all", "some", "nothing"])
def test_a_trial_computes_what_the_masked_original_does(
    model: str, held_bytes: int, runtime: Runtime, calibration: Path
) -> None:
    """Whatever memory there is for tensors in between; with none, every trial begins at the inputs."""
    analysis = analysis_of(MODELS / model)
    x = np.load(calibration)["input"][:6]
    seen: dict[int, list[np.ndarray]] = {}

    def judge(outputs: object) -> float:
        seen[len(seen)] = [run[0] for run in outputs]  # type: ignore[attr-defined]
        return float(len(seen) - 1)

    replay = Replay(analysis.network, inputs_of(x), runtime, held_bytes=held_bytes)
    found = replay.judged(trials(analysis), judge, lambda done, total: None)
    for name, plan in plans(analysis).items():
        whole = runtime.open(masked_original(analysis, plan).SerializeToString())
        (expected,) = whole.run({"input": x})
        np.testing.assert_allclose(np.concatenate(seen[int(found[name])]), expected, rtol=1e-3, atol=1e-4)


def test_trials_begin_late(calibration: Path, runtime: Runtime) -> None:
    """The point of it: what lies before a change is not computed again."""
    opened: list[int] = []

    class Counting(type(runtime)):  # type: ignore[misc]
        def open(self, model: str | bytes, *, optimize: bool = True) -> object:
            opened.append(len(model))
            return super().open(model, optimize=optimize)

    analysis = analysis_of(MODELS / "digits_vit.onnx")
    replay = Replay(analysis.network, inputs_of(np.load(calibration)["input"][:2]), Counting(runtime.spec))
    asked = trials(analysis)
    replay.judged(asked, lambda outputs: float(len(list(outputs))), lambda done, total: None)
    whole = len(asked) * analysis.network.model.ByteSize()
    assert sum(opened) < 0.7 * whole


def test_progress_counts_every_trial(calibration: Path, runtime: Runtime) -> None:
    analysis = analysis_of(MODELS / "digits_cnn.onnx")
    replay = Replay(analysis.network, inputs_of(np.load(calibration)["input"][:2]), runtime)
    steps: list[tuple[int, int]] = []
    replay.judged(trials(analysis), lambda outputs: float(len(list(outputs))), lambda *step: steps.append(step))
    count = len(analysis.groups) + len(analysis.blocks)
    assert steps == [(i + 1, count) for i in range(count)]


def test_changed_weights_hold_in_every_run(calibration: Path, runtime: Runtime) -> None:
    """A plan as the base: a trial is another change on top of it."""
    analysis = analysis_of(MODELS / "digits_cnn.onnx")
    x = np.load(calibration)["input"][:4]
    first, last = (trial.changes() for trial in (trials(analysis)[1], trials(analysis)[-1]))
    on_top = Replay(analysis.network, inputs_of(x), runtime, changed=first)
    together = Replay(analysis.network, inputs_of(x), runtime)
    compare(on_top.outputs(last), together.outputs({**first, **last}))
    seen: list[list[Outputs]] = []
    on_top.judged([Trial("last", tuple(last), lambda: last)], lambda runs: seen.append(list(runs)) or 0.0, print)
    compare(iter(seen[0]), together.outputs({**first, **last}))


def compare(found: object, expected: object) -> None:
    for left, right in zip(found, expected, strict=True):  # type: ignore[call-overload]
        np.testing.assert_allclose(left[0], right[0], rtol=1e-4, atol=1e-5)


def test_an_output_before_the_change_is_passed_through(runtime: Runtime) -> None:
    nodes = [node("Gemm", ["x", "w1"], ["early"]), node("Relu", ["early"], ["b"]), node("Gemm", ["b", "w2"], ["late"])]
    analysis = analysis_of(build_model(nodes, {"x": (1, 6)}, ["early", "late"], {"w1": (6, 8), "w2": (8, 3)}))
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    replay = Replay(analysis.network, inputs_of(x, "x"), runtime)
    silent = {"w2": np.zeros((8, 3), np.float32)}
    runs: list[Outputs] = []
    replay.judged([Trial("w2", ("w2",), lambda: silent)], lambda outputs: runs.extend(outputs) or 0.0, print)
    dense = list(replay.outputs())
    assert [len(run) for run in runs] == [2, 2, 2]
    for found, before in zip(runs, dense, strict=True):
        np.testing.assert_array_equal(found[0], before[0])
        assert np.all(found[1] == 0)
        assert np.any(before[1] != 0)


def test_live_tensors_cut_a_graph_in_two() -> None:
    analysis = analysis_of(MODELS / "digits_cnn.onnx")
    network, positions = analysis.network, Positions(analysis.network)
    assert positions.live(0) == tuple(network.inputs)
    assert positions.live(positions.end) == network.outputs
    for position in range(positions.end):
        live = set(positions.live(position))
        before = {name for node in network.nodes[:position] for name in node.outputs} | set(network.inputs)
        read = {name for node in network.nodes[position:] for name in node.inputs}
        assert live == before & (read | set(network.outputs))
