"""Tables of other devices: refused unless asked for by name, and then the only thing that counts."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from onnx_mdp.errors import BudgetError, LutError, OptionError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.latency.library import hardware_of
from onnx_mdp.latency.lut import LutFile
from onnx_mdp.pipeline import prune
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.profile import profile
from onnx_mdp.pipeline.prune import PruneResult
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime
from tests.conftest import MODELS

OTHER = "onnxruntime 9.9.9, a slower processor, 1 thread"
VIT = MODELS / "digits_vit.onnx"


class Ear(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def filled(lut: Path) -> Path:
    """A table with all that a profile of the vision transformer measures."""
    profile(VIT, lut=lut)
    return lut


@pytest.fixture
def slow(filled: Path, tmp_path: Path) -> Path:
    """The table of a device on which everything takes four times as long, and nothing else."""
    here = str(open_runtime(RuntimeSpec()).fingerprint)
    path = tmp_path / "slow.sqlite"
    with closing(LutFile(filled)) as source, closing(LutFile(path, create=True)) as target:
        rows = [row.entry for row in source.rows(here)]
        target.put(replace(entry, device=OTHER, ms=4 * entry.ms) for entry in rows)
    return path


def count(path: Path) -> int:
    with closing(LutFile(path)) as file:
        return len(list(file.rows()))


def foresee(path: Path, latency: str, **options: object) -> PruneResult:
    return prune(VIT, latency=latency, lut=path, lut_device="slower", **options)


def test_a_table_of_another_device_is_refused(slow: Path, tmp_path: Path) -> None:
    before = count(slow)
    with pytest.raises(LutError, match=r"slow\.sqlite: has rows of .*slower.*none of this device.*--lut-device 'onnx"):
        prune(VIT, latency="70%", lut=slow, output=tmp_path / "o.onnx")
    with pytest.raises(LutError, match=r"none of this device"):
        profile(VIT, lut=slow)
    assert count(slow) == before
    assert not (tmp_path / "o.onnx").exists()


def test_another_version_on_this_processor_is_measured_beside(slow: Path, tmp_path: Path) -> None:
    here = str(open_runtime(RuntimeSpec()).fingerprint)
    older = f"onnxruntime 0.0.1, {hardware_of(here)}, 3 threads"
    path = tmp_path / "lut.sqlite"
    with closing(LutFile(slow)) as source, closing(LutFile(path, create=True)) as file:
        file.put(replace(row.entry, device=older) for row in source.rows())
    ear = Ear()
    profile(MODELS / "digits_cnn.onnx", lut=path, lock="*", listener=ear)
    assert any(older in note and "are measured now" in note for note in ear.notes)
    with closing(LutFile(path)) as file:
        assert set(file.devices()) == {older, here}


def test_plans_for_the_other_device_meet_its_budget(slow: Path, tmp_path: Path) -> None:
    """A time that this device needs no cut for; the slower one does."""
    dense = profile(VIT, lut=slow, lut_device="slower")["whole_ms"]
    report = tmp_path / "r.json"
    before = slow.read_bytes()
    result = foresee(slow, f"{0.7 * dense:.4f}ms", report=report)
    assert slow.read_bytes() == before, "a borrowed table was written to"
    latency = result.report.latency
    assert result.report.device == OTHER
    assert latency.clock == "table"
    assert latency.dense_ms == pytest.approx(dense)
    assert latency.budget_ms is not None
    spent = latency.pruned_ms / latency.budget_ms
    assert 0.9 <= spent <= 1
    assert spent >= 0.97 or result.report.reason, "a budget is not used up, and no reason is given"
    assert latency.pruned_ms == pytest.approx(latency.predicted_ms)
    assert parameter_count(result.model) < 0.95 * parameter_count(onnx.load(str(VIT)))
    (said,) = [text for text in result.report.warnings if "predictions by the table" in text]
    assert OTHER in said
    assert "became" in said
    assert json.loads(report.read_text())["lut"]["measured"] == 0


def test_a_budget_that_the_table_meets_cuts_nothing(slow: Path) -> None:
    result = foresee(slow, "1000ms")
    assert result.report.latency.ratio == 1
    assert parameter_count(result.model) == parameter_count(onnx.load(str(VIT)))


def test_a_budget_that_the_table_cannot_meet(slow: Path) -> None:
    with pytest.raises(BudgetError, match=r"--latency 1% cannot be reached: the lowest that the table predicts"):
        foresee(slow, "1%")


def test_missing_entries_are_counted_and_the_remedy_named(slow: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.sqlite"
    shutil.copy(slow, part)
    with closing(LutFile(part)) as file:
        regions = [row for row in file.rows() if "MatMul" in row.entry.region]
        file.drop(row.number for row in regions[:7])
    with pytest.raises(LutError, match=r"part\.sqlite lacks [1-7] of \d+ entries.*runtime 9\.9\.9.*onnx-mdp profile"):
        foresee(part, "70%")
    with closing(LutFile(part)) as file:
        file.put(row.entry for row in regions)
        file.drop(row.number for row in list(file.rows()) if row.entry.region.startswith("whole model"))
    with pytest.raises(LutError, match=r"lacks the time of a whole model of this model"):
        foresee(part, "70%")


def test_names_and_options(slow: Path) -> None:
    with pytest.raises(LutError, match=r"--lut-device 'jetson': there is no such device, there are: onnxruntime 9"):
        prune(VIT, latency="70%", lut=slow, lut_device="jetson")
    with pytest.raises(OptionError, match=r"--lut-device slower: --ratio 50% plans without a table"):
        prune(VIT, ratio="50%", lut=slow, lut_device="slower")
