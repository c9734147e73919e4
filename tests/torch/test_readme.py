"""The README's Python code on PyTorch runs, in a folder that holds what the README's reader has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.conftest import MODELS, ROOT


def code_blocks() -> list[str]:
    """The Python code of the section."""
    section = (ROOT / "README.md").read_text().split("## To PyTorch and back\n")[1].split("\n## ")[0]
    return [block.split("```")[0] for block in section.split("```python\n")[1:]]


def run(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a block leaves behind."""
    monkeypatch.chdir(folder)
    (folder / "models").symlink_to(MODELS)
    left: dict[str, Any] = {}
    exec(compile(code_blocks()[number], f"README {number}", "exec"), left)
    return left


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = run(0, tmp_path, monkeypatch)
    tuned, pruned = onnx.load(str(tmp_path / "tuned.onnx")), left["result"].model
    assert [t.name for t in tuned.graph.initializer] == [t.name for t in pruned.graph.initializer]
    images = {"input": left["images"].numpy()}
    dense, before, after = (
        ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, images)[0].argmax(1)
        for model in (str(MODELS / "digits_vit.onnx"), pruned.SerializeToString(), tuned.SerializeToString())
    )
    assert np.mean(after == dense) > np.mean(before == dense)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that needs no further package
def test_the_cut_in_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = run(1, tmp_path, monkeypatch)["net"]
    assert (net[0].out_channels, net[5].in_features) == (8, 12544)
    assert "net[5]  # " + str(net[5]) in code_blocks()[1]
