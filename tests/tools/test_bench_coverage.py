"""The coverage benchmark must fail where a comparison could not, and survive what kills a model."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from tests.conftest import ROOT, build_model

Run = tuple[dict[str, dict[str, Any]], subprocess.CompletedProcess[str]]
INFLATE = """
import os, numpy, onnx

def inflate(path, seed):
    if "crash" in path:
        os.abort()
    return onnx.load(path)

def make_inputs(model, seed):
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": numpy.random.default_rng(seed).standard_normal(shape).astype(numpy.float32)}
"""


def mlp(*tail: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w1"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w2"], ["c"]), *tail]
    shapes = {"w1": (6, 40), "w2": (40, 7), **weights}
    return build_model(nodes, {"x": (3, 6)}, [tail[-1].output[0] if tail else "c"], shapes)


def models() -> dict[str, onnx.ModelProto]:
    """A model for each verdict, by name."""
    zero = {"zero": np.float32(0)}
    return {
        "fine": mlp(),
        "crash": mlp(),
        "deaf": mlp(node("Mul", ["c", "zero"], ["y"]), **zero),
        "broken": mlp(node("Div", ["c", "zero"], ["y"]), **zero),
        "selects": mlp(node("NonZero", ["c"], ["d"]), node("Cast", ["d"], ["y"], to=1)),
        "whole": build_model([node("MatMul", ["x", "w"], ["y"])], {"x": (3, 6)}, ["y"], {"w": (6, 7)}),
    }


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, dict[str, Any]], subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "inflate.py").write_text(INFLATE)
    (folder / "open").mkdir()
    for name, model in models().items():
        onnx.save(model, str(folder / "open" / f"{name}.onnx"))
    command = [sys.executable, str(ROOT / "tools" / "bench_coverage.py"), "--zoo", str(folder / "open")]
    command += ["--json", str(folder / "r.json"), "--markdown", str(folder / "r.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {record["model"]: record for record in json.loads((folder / "r.json").read_text())}
    assert (folder / "r.md").read_text().startswith("| family | models |")
    return found, done


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        ("fine", "exact"),
        ("crash", "FAILED: the worker ended with SIGABRT"),
        ("deaf", "FAILED: VacuousError: the outputs ignore the inputs"),
        ("broken", "FAILED: VacuousError: a compared tensor is not finite"),
        ("selects", "exact"),
        ("whole", "left alone: it is a graph "),
    ],
)
def test_verdict(records: Run, model: str, verdict: str) -> None:
    found, done = records
    assert found[model]["verdict"].startswith(verdict)
    assert (f"{model}: FAILED" in done.stdout) == verdict.startswith("FAILED")


def test_half_is_left(records: Run) -> None:
    fine = records[0]["fine"]
    assert (fine["kinds"], fine["units"]) == ({"hidden": 1}, 40)
    assert fine["parameters_left"] == fine["macs_left"] == 0.5
    assert fine["prunable_parameters"] == fine["prunable_macs"] == 1
    assert 0 <= fine["proof"] <= fine["tolerance"] == 1e-5


def test_broken_promises_end_the_run_with_status_1(records: Run) -> None:
    assert records[1].returncode == 1
