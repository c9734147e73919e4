"""Comparisons of whole models: kept in a latency table, and given up where a new one contradicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_mdp.engine.base import Duel, Model
from onnx_mdp.graph.load import load
from onnx_mdp.graph.weights import structure
from onnx_mdp.latency.borrow import AbsentEngine
from onnx_mdp.latency.lut import LatencyTable
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.stopwatch import BRIEF, Memory, Stopwatch
from onnx_mdp.runtime.base import Fingerprint

FEEDS = {"x": np.zeros((1, 3), np.float32)}
DEVICE = Fingerprint("onnxruntime", "1", "a processor", 1)


class Scripted(AbsentEngine):
    """Answers duels with ratios and dense milliseconds from a list."""

    def __init__(self, table: LatencyTable) -> None:
        super().__init__(table)
        self.script: list[tuple[float, float]] = []
        self.precision = 0.001

    def canary_ms(self) -> float:
        return 1.0

    def duel(self, first: Model, second: Model, seconds: tuple[float, float], precision: float) -> Duel:
        ratio, dense = self.script.pop(0)
        return Duel((dense, ratio * dense), (dense, ratio * dense), ratio, ratio, self.precision, 10)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LatencyTable]:
    with closing(LatencyTable(tmp_path / "lut.sqlite", DEVICE)) as table:
        yield table


@pytest.fixture
def engine(table: LatencyTable) -> Scripted:
    return Scripted(table)


@pytest.fixture
def stopwatch(table: LatencyTable, engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    monkeypatch.setattr("onnx_mdp.pipeline.stopwatch._PROCESSES", 6)  # fewer in other tests
    return Stopwatch(engine, b"", FEEDS, 0.02, Memory(Meter(engine, table), "dense", FEEDS))


def test_a_comparison_is_made_once_per_structure_and_length(stopwatch: Stopwatch, engine: Scripted, cnn: Path) -> None:
    model = onnx.load(cnn)
    engine.script = [(0.5, 2.0), (0.6, 2.0)]
    first = stopwatch.compare(model, BRIEF)
    assert stopwatch.compare(other_weights(model), BRIEF) == first
    assert stopwatch.compare(model).ratio == pytest.approx(0.6)
    assert not engine.script


def test_what_was_confirmed_counts_until_a_comparison_contradicts(
    stopwatch: Stopwatch, engine: Scripted, cnn: Path
) -> None:
    model = onnx.load(cnn)
    engine.script = [(0.5, 2.0), (0.504, 1.98)]
    before = stopwatch.compare(model, BRIEF)
    first = stopwatch.confirm(model, before)
    assert first.ratio == pytest.approx(0.504)
    engine.script = [(0.502, 1.981)]
    assert stopwatch.confirm(model, before) == first
    engine.script = [(0.502, 2.51), (0.502, 2.5), (0.502, 2.52)]
    slower = stopwatch.confirm(model, before)
    assert slower.ratio == pytest.approx(first.ratio)
    assert slower.dense_ms == 2.5, "the machine is slower today"
    engine.script = [(0.51, 2.0), (0.507, 1.98), (0.508, 2.0), (0.504, 1.98)]
    other = stopwatch.confirm(model, before)
    assert other.ratio == pytest.approx(geometric_mean((0.51, 0.507, 0.508)))
    assert stopwatch.confirm(model, before) == other
    assert not engine.script


def test_processes_that_contradict_each_other_are_followed_by_more(
    stopwatch: Stopwatch, engine: Scripted, cnn: Path
) -> None:
    model = onnx.load(cnn)
    engine.script = [(0.51, 2.0), (0.53, 2.03), (0.495, 2.01), (0.5, 1.96), (0.52, 2.0), (0.54, 2.01), (0.5, 2.0)]
    found = stopwatch.confirm(model, stopwatch.compare(model, BRIEF))
    calm = (0.495, 0.5, 0.52, 0.54)
    assert found.ratio == pytest.approx(geometric_mean(calm)), "the mean where the dense model is fast"
    assert found.dense_ms == 1.96
    assert engine.script == [(0.5, 2.0)], "six processes are enough"


def test_what_is_not_precise_takes_two_more_processes(stopwatch: Stopwatch, engine: Scripted, cnn: Path) -> None:
    """What the plan was chosen for does not count."""
    model, engine.precision = onnx.load(cnn), 0.02
    engine.script = [(0.51, 2.0), (0.504, 1.99), (0.506, 2.0), (0.5, 2.0)]
    found = stopwatch.confirm(model, stopwatch.compare(model, BRIEF))
    assert found.ratio == pytest.approx(geometric_mean((0.504, 0.506)))
    assert engine.script == [(0.5, 2.0)]


def test_the_dense_model_is_compared_anew(stopwatch: Stopwatch, engine: Scripted, cnn: Path) -> None:
    model = onnx.load(cnn)
    engine.script = [(1.0, 2.0), (1.005, 2.0), (0.9, 2.0)]
    found = [stopwatch.anew(model) for _ in range(3)]
    assert [comparison.ratio for comparison in found] == pytest.approx([1.0, 1.0, 0.9])


def test_a_disturbed_comparison_is_made_again(stopwatch: Stopwatch, engine: Scripted, cnn: Path) -> None:
    model = onnx.load(cnn)
    engine.script = [(1.0, 2.0), (0.56, 2.6), (0.5, 2.01), (0.7, 2.0)]
    stopwatch.anew(model)
    assert stopwatch.compare(model).ratio == pytest.approx(0.5)
    assert engine.script == [(0.7, 2.0)]


def test_a_machine_that_stays_slow_is_measured_as_it_is(stopwatch: Stopwatch, engine: Scripted, cnn: Path) -> None:
    model = onnx.load(cnn)
    engine.script = [(1.0, 2.0), (0.56, 2.6), (0.55, 2.5), (0.57, 2.55), (0.5, 2.52)]
    stopwatch.anew(model)
    assert stopwatch.compare(model, BRIEF).ratio == pytest.approx(0.55)
    assert stopwatch.compare(model).ratio == pytest.approx(0.5), "as slow as it was the last time"
    assert not engine.script


def test_what_does_not_help_is_tried_less_often(stopwatch: Stopwatch, engine: Scripted, cnn: Path) -> None:
    model = onnx.load(cnn)
    engine.script = [(1.0, 2.0), *[(0.5, 2.6)] * 3, *[(0.5, 3.0)] * 2, (0.5, 3.5), (0.5, 3.5), (0.5, 4.0), (0.5, 3.4)]
    left = []
    for _ in range(6):
        stopwatch.anew(model)
        left.append(len(engine.script))
    assert left == [9, 6, 4, 3, 2, 0], "three, two, one; and once the machine is steady, two again"


def test_structure_is_all_but_the_numbers_in_weights(cnn: Path) -> None:
    model = onnx.load(cnn)
    assert load(cnn)[0].structure == structure(model) == structure(other_weights(model))
    renamed = onnx.ModelProto.FromString(model.SerializeToString())
    renamed.graph.node[0].attribute[0].i += 1
    assert structure(renamed) != structure(model)


def other_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in other.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 16:
            tensor.CopyFrom(numpy_helper.from_array(values + 1, tensor.name))
    return other
