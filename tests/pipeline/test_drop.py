"""The fastest model within a drop of accuracy, and accuracy in reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_mdp
from onnx_mdp.cli.main import main
from onnx_mdp.errors import BudgetError, EvaluationError, OptionError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.inputs.base import Inputs, InputSpec
from onnx_mdp.pipeline.drop import NEAR, Bisection, Step
from onnx_mdp.pipeline.judge import Judge
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.quantities import parse_drop
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.task.function import ByFunction
from onnx_mdp.task.top1 import Top1
from tests.conftest import MODELS

TEST = MODELS / "digits_test.npz"
QUICK = {"precision": "10%", "effort": "fast", "importance": "magnitude", "recover": False}


@given(st.floats(0.05, 1.2), st.floats(0.0, 0.5), st.floats(-0.01, 0.01))
def test_bisection_finds_where_accuracy_falls(threshold: float, fastest: float, miss: float) -> None:
    """In a handful of steps, wherever near what is asked the measured latencies lie."""

    def attempt(share: float) -> Step:
        if share < fastest:
            raise BudgetError("too fast")
        return Step(share, share + miss, float(share + miss >= threshold), outcome=None)  # type: ignore[arg-type]

    search = Bisection(attempt, 1.0, lambda number, step: None)
    found = search.run(0.05, 1.0)
    assert len(search.facts) <= 6
    if found is None:
        assert max(threshold, fastest) > 0.99 - 2 * NEAR
    else:
        assert found.accuracy == 1
        assert found.share <= max(threshold, fastest, 0.05) + 2 * NEAR
        assert found.share == min(fact["share"] for fact in search.facts if fact["accuracy"] == 1)


def test_drops() -> None:
    assert parse_drop("1%").least(0.9) == pytest.approx(0.89)
    assert parse_drop("0.01").least(0.9) == pytest.approx(0.89)
    assert parse_drop("0").least(1.0) == pytest.approx(1.0)
    assert parse_drop("1.5").least(76.0) == pytest.approx(74.5)
    assert parse_drop("1%").least(0.93) <= 0.93 - 0.01
    for text in ("-1%", "little", "inf", "nan", ""):
        with pytest.raises(OptionError, match=f"--max-drop {text}: not a drop of 0 or more"):
            parse_drop(text)
    with pytest.raises(OptionError, match="percent are points of a metric between 0 and 1, and the dense model has 76"):
        parse_drop("1%").least(76.0)
    with pytest.raises(OptionError, match="--max-drop 1: allows any loss"):
        parse_drop("1").least(0.9)


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def parameters_left(path: str) -> float:
    """Stands for accuracy: of digits_vit, the share of parameters that are left."""
    return parameter_count(onnx.load(path)) / 478_766


def test_the_fastest_within_the_drop_of_a_function(vit: Path, lut: Path, tmp_path: Path) -> None:
    listener = Notes()
    result = onnx_mdp.prune(
        vit, max_drop="40%", eval=parameters_left, lut=lut, listener=listener, output=tmp_path / "o.onnx", **QUICK
    )
    report = result.report
    left = report.parameters["pruned"] / report.parameters["dense"]
    assert report.accuracy["dense"] == pytest.approx(1.0)
    assert report.accuracy["pruned"] == pytest.approx(left)
    assert parameters_left(str(tmp_path / "o.onnx")) == pytest.approx(left)
    assert 0.6 <= left < 1
    assert report.accuracy["metric"] == "parameters_left"
    assert report.proof["max_relative_error"] <= 1e-5
    assert report.latency.ratio == min(s["share"] for s in report.steps if s["accuracy"] >= 0.6 - 1e-9)
    assert 3 <= len(report.steps) <= 7
    assert report.budget == "max-drop 40%"
    told = [note for note in listener.notes if note.startswith("step ")]
    assert len(told) == len(report.steps)
    assert told[0].startswith(f"step 1: {100 * report.steps[0]['share']:.0f}% of the latency, accuracy ")
    assert not any("round" in note and "%" not in note for note in listener.notes)


@pytest.mark.slow
def test_the_fastest_within_the_drop_by_labels(
    vit: Path, lut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line, recovered at every step."""
    monkeypatch.chdir(tmp_path)
    with np.load(TEST) as data:
        np.save("x.npy", data["input"])
        np.savetxt("y.txt", data["labels"], fmt="%d")
    arguments = ["--max-drop", "3%", "--inputs", "x.npy", "--labels", "y.txt", "--precision", "10%", "--effort", "fast"]
    status = main(["prune", str(vit), *arguments, "--lut", str(lut), "-o", "o.onnx", "--report", "r.json"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    report = json.loads(Path("r.json").read_text())
    accuracy = report["accuracy"]
    assert accuracy["inputs"] == 166
    assert accuracy["held_out"]
    assert accuracy["dense"] - accuracy["pruned"] <= 0.03 + 1e-9
    assert report["latency"]["ratio"] < 0.6
    assert report["recovery"]["after"] < report["recovery"]["before"]
    shown = f"{100 * accuracy['dense']:.1f}% became {100 * accuracy['pruned']:.1f}% (top-1 on 166 held-out inputs)"
    assert f"accuracy: {shown}" in printed.out
    assert f"the fastest within it of {len(report['steps'])} plans measured" in printed.out
    assert "step 1: " in printed.err


@pytest.mark.slow  # a bisection to its end
def test_nothing_is_cut_where_any_cut_is_too_much(vit: Path, lut: Path) -> None:
    def untouched(path: str) -> float:
        return float(parameters_left(path) >= 1)

    result = onnx_mdp.prune(vit, max_drop="1%", eval=untouched, lut=lut, **QUICK)
    assert result.report.parameters["pruned"] == result.report.parameters["dense"]
    assert result.report.accuracy["pruned"] == 1
    assert result.report.latency.ratio <= 1
    assert "no faster plan within --max-drop 1% was found" in result.report.reason
    assert all(fact["accuracy"] == 0 for fact in result.report.steps)
    with pytest.raises(BudgetError, match="--max-drop 1% cannot be met with --parameters 90%: .* leaves 0.0% of 100.0"):
        onnx_mdp.prune(vit, max_drop="1%", parameters="90%", eval=untouched, lut=lut, **QUICK)


def test_reports_tell_accuracy(
    vit: Path, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", str(vit), "--ratio", "50%", "-o", str(tmp_path / "o.onnx"), "--inputs"]
    assert main([*arguments, str(TEST), "--samples", "30"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(top-1 on 30 calibration inputs, which the result is fitted to)" in printed
    result = onnx_mdp.prune(vit, ratio="50%", inputs=calibration, eval=lambda path: 100 * parameters_left(path))
    assert result.report.accuracy["dense"] == pytest.approx(100)
    assert result.report.accuracy["pruned"] < 60
    assert onnx_mdp.prune(vit, ratio="50%", inputs=calibration).report.accuracy == {}


def test_labels_that_nobody_asked_for_do_no_harm(cnn: Path) -> None:
    with np.load(TEST) as data:
        arrays = {"input": data["input"][:12], "labels": data["labels"][:12] + 5}
    result = onnx_mdp.prune(cnn, ratio="50%", inputs=arrays)
    assert any("accuracy is not measured: --labels: are 5 to" in text for text in result.report.warnings)
    assert result.report.accuracy == {}
    with pytest.raises(EvaluationError, match="the model has 10 classes"):
        onnx_mdp.prune(cnn, ratio="50%", inputs=arrays["input"][:, :], labels=arrays["labels"])


def test_coarse_labels_are_told(runtime: Runtime) -> None:
    spec = InputSpec("x", np.dtype(np.float32), (5,), None)
    inputs = Inputs((spec,), {"x": np.zeros((10, 5), np.float32)}, np.arange(10), np.arange(10) % 5)
    judge = Judge(Top1(inputs, runtime, held_out=True), 0.9)
    assert "10 held-out inputs tell accuracy in steps of 10 points" in judge.coarse(parse_drop("1%"))
    assert judge.coarse(parse_drop("10%")) == ""
    assert Judge(ByFunction("mytask:accuracy"), 0.9).coarse(parse_drop("1%")) == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give either --latency .* or --max-drop"),
        ({"max_drop": "1%", "latency": "70%"}, "give either"),
        ({"max_drop": "1%", "ratio": "70%"}, "give either"),
        ({"max_drop": "-1%"}, "--max-drop -1%: not a drop of 0 or more"),
        ({"max_drop": "1%"}, r"--max-drop 1%: of what\? give --inputs with --labels, or --eval module:function"),
        ({"max_drop": "1%", "inputs": MODELS / "digits_calibration.npz"}, "--max-drop 1%: of what?"),
        ({"max_drop": "1%", "lut_device": "x"}, "--lut-device x: --max-drop 1% measures every plan; give --latency"),
        ({"max_drop": "1%", "also": "latency=3ms threads=2"}, "is a budget beside --latency"),
        ({"latency": "70%", "eval": "accuracy"}, "--eval accuracy: not of the form module:function"),
        ({"max_drop": "1", "inputs": TEST}, "--max-drop 1: allows any loss"),
        ({"max_drop": "1%", "eval": lambda path: 76.1}, "percent are points of a metric between 0 and 1"),
    ],
)
def test_wrong_options(cnn: Path, lut: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onnx_mdp.prune(cnn, lut=lut, **fields)


def test_errors_of_the_task(cnn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EvaluationError, match="2 are too few to set 1 aside"):
        onnx_mdp.prune(cnn, max_drop="1%", inputs=TEST, samples=2)
    assert main(["prune", str(cnn), "--latency", "70%", "--eval", "none_such:f"]) == 1
    assert capsys.readouterr().err.startswith("error: --eval none_such:f: no module 'none_such' here or installed")
