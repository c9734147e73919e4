"""The whole pipeline on the bundled models: budgets are met, results are valid, reports say what was done."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_mdp
from onnx_mdp.config import ApplyOptions
from onnx_mdp.errors import BudgetError, NothingToPruneError, OptionError, OutputError, ProofError
from onnx_mdp.graph.check import signature
from onnx_mdp.graph.edit import Edits
from onnx_mdp.pipeline import loop
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.prune import PruneResult
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.solve.problem import Answer
from tests.conftest import MODELS, build_model


def top1(model: bytes, count: int = 200) -> float:
    import onnxruntime as ort

    with np.load(MODELS / "digits_test.npz") as data:
        x, y = data["input"][:count], data["labels"][:count]
    logits = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    return float((logits.argmax(1) == y).mean())


@pytest.fixture(scope="module", params=["digits_cnn.onnx", "digits_vit.onnx"])
def pruned(request: pytest.FixtureRequest, lut: Path, tmp_path_factory: pytest.TempPathFactory) -> PruneResult:
    """A bundled model at 70 % of its latency, with calibration inputs."""
    folder = tmp_path_factory.mktemp("pruned")
    return onnx_mdp.prune(
        MODELS / request.param,
        latency="70%",
        inputs=MODELS / "digits_calibration.npz",
        lut=lut,
        output=folder / "out.onnx",
        report=folder / "report.json",
        plan=folder / "plan.json",
    )


def test_budget_is_met(pruned: PruneResult) -> None:
    latency = pruned.report.latency
    assert latency.ratio <= 0.70
    assert latency.ratio >= 0.97 * 0.70 or pruned.report.reason
    assert latency.pruned_ms / latency.dense_ms == pytest.approx(latency.ratio)
    assert latency.budget_ms == pytest.approx(0.7 * latency.dense_ms)
    assert 1 <= latency.rounds <= 10


def test_result_is_valid_and_proven(pruned: PruneResult) -> None:
    onnx.checker.check_model(pruned.model, full_check=True)
    assert pruned.report.proof["max_relative_error"] <= 1e-5
    assert pruned.report.proof["varies"]
    assert signature(pruned.model) == signature(onnx.load(pruned.report.model))
    assert pruned.report.parameters["pruned"] < pruned.report.parameters["dense"]


def folder_of(pruned: PruneResult) -> Path:
    return Path(pruned.report.options["output"]).parent


def test_files_hold_what_was_returned(pruned: PruneResult) -> None:
    folder = folder_of(pruned)
    assert onnx.load(str(folder / "out.onnx")) == pruned.model
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(pruned.report.to_json()))
    assert {"dense_ms", "pruned_ms", "ratio", "predicted_ms", "rounds"} <= set(report["latency"])
    assert {"status", "objective", "bound", "gap", "seconds", "solver"} <= set(report["solve"])
    assert {"budget", "parameters", "proof", "groups", "blocks", "locked", "seconds"} <= set(report)
    plan = json.loads((folder / "plan.json").read_text())
    beside = [plan.pop("bases")] if pruned.bases else []
    assert plan == json.loads(json.dumps(pruned.plan))
    assert [f.name for f in sorted(folder.iterdir())] == ["out.onnx", "plan.json", *beside, "report.json"]
    for name in beside:
        with np.load(folder / name) as found:
            assert all(np.array_equal(found[stream], basis) for stream, basis in pruned.bases.items())


def test_report_agrees_with_the_model(pruned: PruneResult) -> None:
    removed = [block["name"] for block in pruned.report.blocks if block["removed"]]
    assert pruned.plan["removed_blocks"] == removed
    for group in pruned.report.groups:
        assert group["kept"] in (pruned.plan["groups"][group["name"]], 0), "none of a group that went with its block"
    shapes = {t.name: t.dims for t in pruned.model.graph.initializer}
    for name, axes in pruned.plan["initializers"].items():
        if name in shapes:
            assert all(shapes[name][int(axis)] == len(kept) for axis, kept in axes.items())


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_apply_repeats_the_cut_bit_by_bit(name: str, lut: Path, tmp_path: Path) -> None:
    paths = {"output": tmp_path / "out.onnx", "plan": tmp_path / "plan.json"}
    onnx_mdp.prune(MODELS / name, latency="70%", lut=lut, **paths)
    options = ApplyOptions(output=tmp_path / "again.onnx")
    model, proof = onnx_mdp.apply(MODELS / name, tmp_path / "plan.json", options)
    first = (tmp_path / "out.onnx").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == first == model.SerializeToString()
    assert proof.max_relative_error <= 1e-5


def test_vision_transformer_survives_without_recovery(vit: Path, calibration: Path, lut: Path) -> None:
    """The choice of heads, widths and blocks must be sensible: at chance level it would be 0.1."""
    result = onnx_mdp.prune(vit, latency="70%", inputs=calibration, lut=lut, recover=False)
    assert top1(result.model.SerializeToString()) > 0.6
    assert result.report.recovery == {}


def test_recovery_brings_accuracy_back(pruned: PruneResult) -> None:
    """At 70 % of the latency next to nothing is lost, and the report tells how far the outputs moved."""
    found = pruned.report.recovery
    assert found["kept"]
    assert found["after"] < 0.5 * found["before"]
    assert top1(pruned.model.SerializeToString()) > 0.93


def test_without_inputs_nothing_is_recovered_and_said_so(cnn: Path, lut: Path) -> None:
    result = onnx_mdp.prune(cnn, latency="80%", lut=lut)
    assert result.report.recovery == {}
    assert any("nothing was recovered: without --inputs" in text for text in result.report.warnings)


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_ratio_halves_every_group(name: str) -> None:
    result = onnx_mdp.prune(onnx.load(str(MODELS / name)), ratio="50%")
    assert all(group["kept"] == (group["units"] + 1) // 2 for group in result.report.groups)
    assert result.report.latency.ratio < 1
    assert result.report.proof["max_relative_error"] <= 1e-5
    assert not result.plan["removed_blocks"]


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_thorough_searches_again_around_the_plan(cnn: Path, calibration: Path, lut: Path) -> None:
    notes = Notes()
    options = {"effort": "thorough", "recover": False}
    result = onnx_mdp.prune(cnn, latency="75%", inputs=calibration, lut=lut, listener=notes, **options)
    assert any("around the plan: damage" in note for note in notes.notes)
    assert result.report.latency.ratio <= 0.75
    assert result.report.proof["max_relative_error"] <= 1e-5


@pytest.mark.parametrize(("effort", "count", "unit"), [("fast", 30, "relative error"), ("balanced", 30, "KL")])
def test_reports_say_what_damage_is_counted_in(
    cnn: Path, calibration: Path, lut: Path, effort: str, count: int, unit: str
) -> None:
    x = np.load(calibration)["input"][:count]
    result = onnx_mdp.prune(cnn, latency="80%", inputs=x, lut=lut, effort=effort)
    assert result.report.solve is not None
    assert result.report.solve.unit == unit


def test_too_few_inputs_to_measure_damage_with_are_said_so(cnn: Path, calibration: Path, lut: Path) -> None:
    result = onnx_mdp.prune(cnn, latency="80%", inputs=np.load(calibration)["input"][:2], lut=lut)
    assert any("2 inputs are too few to measure damage with" in text for text in result.report.warnings)


def test_absolute_budget_in_milliseconds(cnn: Path, lut: Path) -> None:
    relative = onnx_mdp.prune(cnn, latency="80%", lut=lut)
    budget = 0.6 * relative.report.latency.dense_ms
    result = onnx_mdp.prune(cnn, latency=f"{budget:.6f}ms", lut=lut)
    assert result.report.latency.pruned_ms <= budget * 1.0001
    assert result.report.budget == f"{budget:.6f}ms"


def test_a_search_that_measures_nothing_new_is_repeated_to_the_last_bit(
    cnn: Path, lut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_mdp.pipeline.stopwatch._DRIFT", 9.0)  # however busy the machine is just now
    runs = [onnx_mdp.prune(cnn, latency="80%", lut=lut, multiple=32) for _ in range(4)]
    found = [run.report.lut["measured"] for run in runs]
    first = found.index(0)
    assert not any(found[first:])
    assert len({run.model.SerializeToString() for run in runs[first:]}) == 1
    assert first < 3, found


def test_other_plans_are_those_of_damage_that_is_a_little_off(
    cnn: Path, lut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no plan of least damage lies near the budget: new ones of less damage than what surely meets it."""
    monkeypatch.setattr(loop, "_FAR", 0.1)
    run, looked = Loop.run, list[Answer]()

    def and_looked(self: Loop, dense: Comparison) -> Trial:
        trial = run(self, dense)
        allowed = min(other.answer.objective for other in self.trials if other.spent <= 0.995)
        for answer in self._unsure(1.04 * trial.table_ms, trial.answer, allowed):
            assert answer.bound <= answer.objective < allowed
            assert answer.objective == pytest.approx(self.program.damage_of(answer))
            assert not any(other.answer.is_same_plan(answer) for other in self.trials)
            looked.append(answer)
        return trial

    monkeypatch.setattr(Loop, "run", and_looked)
    for budget in ("70%", "60%", "50%"):
        onnx_mdp.prune(cnn, latency=budget, lut=lut)
    assert looked


def test_fuller_plans_are_confirmed_and_of_little_more_damage(
    cnn: Path, lut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_FAR", 0.1)
    monkeypatch.setattr(loop, "_is_wanted", lambda trial: True)
    run, fuller = Loop.run, list[Trial]()

    def and_more(self: Loop, dense: Comparison) -> Trial:
        trial = run(self, dense)
        for other in self.fuller(trial):
            assert other.confirmed
            assert not other.answer.is_same_plan(trial.answer)
            assert other.answer.objective < 1.3 * trial.answer.objective
            fuller.append(other)
        return trial

    monkeypatch.setattr(Loop, "run", and_more)
    budgets = iter(("60%", "50%", "70%"))
    while not fuller:
        onnx_mdp.prune(cnn, latency=next(budgets), lut=lut)


def test_options_shape_the_plan(cnn: Path, lut: Path) -> None:
    result = onnx_mdp.prune(cnn, latency="85%", lut=lut, lock=("stage3*", "node_add*"), min_keep="50%", multiple=8)
    kept = {g["name"]: (g["units"], g["kept"]) for g in result.report.groups}
    assert not any(name.startswith("stage3") for name in kept)
    assert all(keeps >= units / 2 and (keeps % 8 == 0 or keeps == units) for units, keeps in kept.values())
    assert not result.plan["removed_blocks"]
    assert any("locked by request (stage3*)" in r for entry in result.report.locked for r in entry["reasons"])


def test_both_solvers_find_the_same_damage(cnn: Path, lut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_DOUBTS", ())  # those plans are not of least damage
    found = [
        onnx_mdp.prune(cnn, latency="60%", lut=lut, multiple=64, solver=solver).report.solve
        for solver in ("highs", "gurobi")
    ]
    assert [f.solver for f in found if f] == ["highs", "gurobi"]
    assert all(f and f.gap <= 1e-4 for f in found)


def test_budget_below_the_reachable_names_the_lowest(cnn: Path, lut: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="--latency 1% cannot be reached: ") as raised:
        onnx_mdp.prune(cnn, latency="1%", lut=lut, output=tmp_path / "o.onnx")
    said = re.search(r"lowest measured is (\S+) ms, (\d+)% of the dense model's (\S+) ms", str(raised.value))
    assert said
    lowest, percent, dense = map(float, said.groups())
    assert lowest / dense == pytest.approx(percent / 100, abs=0.015)
    assert not list(tmp_path.iterdir())


def test_budget_above_the_dense_model_cuts_nothing(cnn: Path, lut: Path, tmp_path: Path) -> None:
    result = onnx_mdp.prune(cnn, latency="10s", lut=lut, output=tmp_path / "o.onnx")
    assert result.report.parameters["pruned"] == result.report.parameters["dense"]
    assert any("nothing cut" in warning for warning in result.report.warnings)
    assert (tmp_path / "o.onnx").exists()


def test_slower_result_of_a_ratio_is_refused(cnn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform cut of next to nothing leaves the fast widths; if it measures slower it is not written."""
    from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch

    monkeypatch.setattr(Stopwatch, "compare", lambda *_: Comparison(1.0, 1.2, 1.0, 1.2, "wall", 0.01))
    with pytest.raises(BudgetError, match="the cut model is slower.*--multiple 16"):
        onnx_mdp.prune(cnn, ratio="95%")
    assert onnx_mdp.prune(cnn, ratio="95%", force=True).report.latency.ratio == pytest.approx(1.2)


def test_model_that_fails_the_proof_is_never_written(
    cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break the rewriter: the proof must stop it, and no file may appear."""
    module = importlib.import_module("onnx_mdp.pipeline.case")
    rewrite = module.rewrite

    def broken(model: onnx.ModelProto, edits: Edits) -> onnx.ModelProto:
        result = rewrite(model, edits)
        tensor = next(t for t in result.graph.initializer if t.name == "head.weight")
        tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, axis=1), tensor.name))
        return result

    monkeypatch.setattr(module, "rewrite", broken)
    with pytest.raises(ProofError, match="nothing is written"):
        onnx_mdp.prune(cnn, ratio="50%", output=tmp_path / "o.onnx", plan=tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


def test_model_with_nothing_to_prune(tmp_path: Path) -> None:
    model = build_model([onnx.helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 8)}, ["y"], {"w": (8, 4)})
    with pytest.raises(NothingToPruneError, match="nothing to prune: it is a graph input"):
        onnx_mdp.prune(model, latency="50%", output=tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_output_equal_to_input_needs_force(cnn: Path, tmp_path: Path, lut: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(cnn.read_bytes())
    with pytest.raises(OutputError, match="is the input model"):
        onnx_mdp.prune(path, latency="80%", output=path, lut=lut)
    assert path.read_bytes() == cnn.read_bytes()
    onnx_mdp.prune(path, latency="80%", output=path, lut=lut, force=True)
    assert len(path.read_bytes()) < len(cnn.read_bytes())


@pytest.mark.parametrize("output", ["absent/o.onnx", "/proc/o.onnx", "."], ids=["no folder", "read-only", "a folder"])
def test_unwritable_output_fails_before_the_work(
    cnn: Path, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        onnx_mdp.prune(cnn, latency="70%", output=output)
    assert not list(tmp_path.iterdir())


def test_devices_and_pipes_are_not_replaced(cnn: Path, tmp_path: Path) -> None:
    """A rename would put a file in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no regular file"):
        onnx_mdp.prune(cnn, ratio="50%", output=tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": "50%", "lock": ("stage3*", "stem1*")}, r"--lock stem1\*: no group, weight or block"),
        ({}, "either --latency"),
        ({"latency": "70%", "ratio": "50%"}, "either --latency"),
        ({"latency": "0"}, "more than zero"),
        ({"latency": "-3ms"}, "not a time or share"),
        ({"latency": "4parsecs"}, "not a time or share"),
        ({"latency": "4"}, "not a time or share"),
        ({"ratio": "150%"}, "not a share"),
        ({"latency": "70%", "threads": 0}, "--threads 0"),
        ({"latency": "70%", "multiple": 0}, "--multiple 0"),
        ({"latency": "70%", "min_keep": "some"}, "--min-keep some"),
        ({"latency": "70%", "solver": "glpk"}, "--solver glpk: choose from"),
        ({"latency": "70%", "effort": "great"}, "--effort great: choose from"),
        ({"latency": "70%", "importance": "luck"}, "--importance luck: choose from"),
        ({"latency": "70%", "importance": "activation"}, "add --inputs"),
        ({"latency": "70%", "runtime": "abacus"}, "no runtime 'abacus'"),
        ({"latency": "70%", "shape": "input"}, "write name:1x3x224x224"),
    ],
)
def test_wrong_options_are_named(cnn: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onnx_mdp.prune(cnn, **fields)


def test_dynamic_sizes_come_from_the_inputs(lut: Path) -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["a"], ["b"]),
        onnx.helper.make_node("Conv", ["b", "w2"], ["y"]),
    ]
    model = build_model(nodes, {"x": ("N", 3, "H", "W")}, ["y"], {"w1": (64, 3, 3, 3), "w2": (4, 64, 1, 1)})
    with pytest.raises(onnx_mdp.errors.DynamicShapeError, match="--shape x:1x3x224x224"):
        onnx_mdp.prune(model, ratio="50%")
    x = np.random.default_rng(0).normal(size=(4, 3, 40, 40)).astype(np.float32)
    for given in ({"inputs": {"x": x}}, {"shape": "x:1x3x40x40"}):
        result = onnx_mdp.prune(model, ratio="50%", **given)  # type: ignore[arg-type]
        assert result.report.groups[0]["kept"] == 32
        assert signature(result.model) == signature(model)
