"""The real models of ../shared/real: budgets met, proofs hold, ratios leave what they should.

Run with `bash tools/test.sh -m real`; skipped where the models are not there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

import onnx_mdp
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.weights import weight_bytes
from onnx_mdp.groups.count import count_bytes, count_macs, count_parameters
from onnx_mdp.rewrite.plan import plan_edits
from onnx_mdp.runtime.base import Runtime
from tests.conftest import SHARED, analysis_of
from tests.cutting import assert_exact, random_plan

MODELS = ("resnet20", "resnet56", "mobilenet_v2", "vit_tiny", "cifar_vit", "resnet50_probe", "yolox_nano")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="../shared/real is not there"),
]
PARAMETERS_AT_HALF = {"resnet50_probe": 0.32, "mobilenet_v2": 0.40}


def model_path(name: str) -> Path:
    import real

    return Path(real.path(name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blocks", [False, True])
def test_random_cut_is_exact(name: str, blocks: bool, runtime: Runtime) -> None:
    assert_exact(onnx.load(str(model_path(name))), runtime, seed=1, blocks=blocks)


@pytest.mark.parametrize("name", [*MODELS, "mobilenet_v1_025", "mlperf_resnet8"])
def test_counts_are_those_of_the_rewritten_model(name: str) -> None:
    analysis = analysis_of(model_path(name))
    plan = random_plan(analysis, 1, blocks=True)
    widths = {group.factor: len(plan.kept[group.name]) for group in analysis.groups}
    model = rewrite(analysis.network.model, plan_edits(analysis, plan))
    counted = [c(analysis).at(analysis, widths, plan.removed) for c in (count_parameters, count_bytes, count_macs)]
    macs = sum(node_macs(analysis_of(model).network).values())
    assert counted == [parameter_count(model), weight_bytes(model), macs]


@pytest.mark.parametrize("name", [*MODELS, "mobilenet_v1_025", "mlperf_resnet8"])
def test_every_operator_has_a_rule(name: str) -> None:
    found = onnx_mdp.inspect(model_path(name))
    assert found["unknown_operators"] == {}
    assert found["groups"]


@pytest.mark.parametrize("name", MODELS)
def test_budget_of_70_percent_is_met(name: str, lut: Path, tmp_path: Path) -> None:
    result = onnx_mdp.prune(model_path(name), latency="70%", threads=1, lut=lut, output=tmp_path / "o.onnx")
    report = result.report
    assert report.latency.ratio <= 0.70
    assert report.latency.ratio >= 0.97 * 0.70 or report.reason
    assert report.proof["max_relative_error"] <= 1e-5
    onnx.checker.check_model(str(tmp_path / "o.onnx"), full_check=True)


@pytest.mark.parametrize("name", MODELS)
def test_ratio_of_50_percent(name: str) -> None:
    report = onnx_mdp.prune(model_path(name), ratio="50%", threads=1).report
    left = report.parameters["pruned"] / report.parameters["dense"]
    assert left <= PARAMETERS_AT_HALF.get(name, 1.0)
    assert report.proof["max_relative_error"] <= 1e-5
    kinds = {group["kind"] for group in report.groups if group["kept"] < group["units"]}
    if name in ("vit_tiny", "cifar_vit"):
        assert {"head", "hidden"} <= kinds
        assert any("statistics are taken over it" in r for entry in report.locked for r in entry["reasons"])
    if name == "resnet50_probe":
        assert "stream" in kinds


def test_vit_tiny_is_quick_and_small(tmp_path: Path) -> None:
    """Under 3 minutes from an empty table, 20 s with a filled one; peak memory under 6x the file + 300 MB."""
    path = model_path("vit_tiny")
    command = [sys.executable, "-m", "onnx_mdp", "prune", str(path), "--latency", "70%", "--threads", "1"]
    command += ["--lut", str(tmp_path / "lut.sqlite"), "-o", str(tmp_path / "o.onnx"), "--quiet"]
    # A small parent in between: a child counts the memory of the process that forked it.
    parent = "import resource as r, subprocess as s, sys; s.run(sys.argv[1:], check=True); "
    parent += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    for limit in (180, 20):
        started = time.monotonic()
        shown = subprocess.run([sys.executable, "-c", parent, *command], check=True, capture_output=True, text=True)
        assert time.monotonic() - started < limit
        assert int(shown.stdout) * 1024 < 6 * path.stat().st_size + 300e6
