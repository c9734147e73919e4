"""The fine-tuning benchmark, on one model for a few seconds, and the example of a loop of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_mdp
from tests.conftest import MODELS, ROOT, SHARED

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-mdp[torch]'")
sys.path.insert(0, str(ROOT / "tools"))

import bench_finetune


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="../shared/real is not there")
def test_training_gains_and_is_not_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["resnet20", "--budgets", "50", "--minutes", "1", "--json", str(tmp_path / "rows.json")]
    bench_finetune.main([*command, "--lut", str(tmp_path / "lut.sqlite")])
    first = capsys.readouterr()
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["dense"] > row["tuned"] >= row["recovered"] > row["cut"]
    assert row["after"] < row["before"]
    bench_finetune.main([*command, "--lut", str(tmp_path / "lut.sqlite")])
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == ""


def test_rows_are_shown_in_percent() -> None:
    row = bench_finetune.Row("resnet20", 50, 3.0, "", 0.49, 0.9173, 0.18, 0.8, 0.85, 0.2, 0.1, 12, 11, True, 180.0)
    assert bench_finetune.shown(row)[3:8] == ("0.490", "91.73", "18.00", "80.00", "85.00")
    assert len(bench_finetune.shown(row)) == len(bench_finetune._COLUMNS)
    options = bench_finetune.parse(["resnet20", "resnet56", "--budgets", "50,35"])
    assert list(bench_finetune.missing(options, [row])) == [("resnet20", 35), ("resnet56", 50), ("resnet56", 35)]


def test_the_example_trains_in_forty_lines(tmp_path: Path, lut: Path) -> None:
    script, dense = ROOT / "tools" / "examples" / "finetune.py", MODELS / "digits_vit.onnx"
    assert len(script.read_text().splitlines()) <= 45
    onnx_mdp.prune(dense, ratio="50%", lut=lut, output=tmp_path / "pruned.onnx")
    with np.load(MODELS / "digits_calibration.npz") as data:
        np.save(tmp_path / "images.npy", data["input"][:128])
    command = [sys.executable, str(script), "pruned.onnx", str(dense), "images.npy", "tuned.onnx"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 2
    onnx.checker.check_model(onnx.load(tmp_path / "tuned.onnx"), full_check=True)
