"""Streams that cannot be rotated, through the whole pipeline: cut, repeated from a plan file, never silently."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

import onnx_mdp
from onnx_mdp.config import ApplyOptions
from onnx_mdp.report.text import summary
from tests.cli.test_cli import run
from tests.streams.networks import TOKENS
from tests.streams.test_select import convnext, post_norm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A post-norm encoder, and inputs for it."""
    path = tmp_path_factory.mktemp("select")
    onnx.save(post_norm(), path / "model.onnx")
    inputs = np.random.default_rng(0).normal(0, 1, (192, TOKENS, 6)).astype(np.float32)
    np.savez(path / "inputs.npz", x0=inputs)
    return path


@pytest.fixture(scope="module")
def halved(folder: Path) -> onnx_mdp.PruneResult:
    """The encoder at half of all widths."""
    output, plan = folder / "cut.onnx", folder / "plan.json"
    options = {"inputs": str(folder / "inputs.npz"), "force": True, "quiet": True}
    return onnx_mdp.prune(folder / "model.onnx", ratio="50%", output=output, plan=plan, **options)


def printed(report: onnx_mdp.Report) -> str:
    out = io.StringIO()
    Console(file=out, width=400).print(summary(report, "cut.onnx"))
    return out.getvalue()


def test_half_of_all_widths_is_a_quarter_of_the_parameters(halved: onnx_mdp.PruneResult) -> None:
    assert halved.report.parameters["pruned"] <= 0.3 * halved.report.parameters["dense"]
    cut = [group for group in halved.report.groups if group["kind"] == "normalized"]
    assert [(group["units"], group["kept"]) for group in cut] == [(16, 8)]


def test_the_report_says_what_is_approximate(halved: onnx_mdp.PruneResult) -> None:
    found, recovery = halved.report.approximation, halved.report.recovery
    assert found["groups"] == ["w0"]
    assert found["error"] == recovery["after"] < recovery["before"]
    assert "approximate: 1 normalized group cut: w0" in printed(halved.report)
    assert f"{found['unit']} {found['error']:.3g} on {found['inputs']} held-out inputs" in printed(halved.report)


def test_a_plan_is_repeated(folder: Path, halved: onnx_mdp.PruneResult, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"inputs": str(folder / "inputs.npz"), "recover": False, "force": True, "quiet": True}
    first = folder / "first.onnx"
    onnx_mdp.prune(folder / "model.onnx", ratio="50%", output=first, plan=folder / "first.json", **options)
    plan = json.loads((folder / "first.json").read_text())
    assert plan["selected"]
    assert plan["initializers"].keys() <= {t.name for t in onnx.load(folder / "model.onnx").graph.initializer}
    again = folder / "again.onnx"
    onnx_mdp.apply(folder / "model.onnx", folder / "first.json", ApplyOptions(output=again))
    assert again.read_bytes() == first.read_bytes()
    status, out, _ = run(capsys, "apply", folder / "model.onnx", folder / "first.json", "-o", again)
    assert (status, "is approximated" in out) == (0, True)
    assert halved.plan["selected"] == plan["selected"]


def test_without_inputs_the_error_is_measured_on_seeded_ones(folder: Path) -> None:
    found = onnx_mdp.prune(folder / "model.onnx", ratio="50%", streams="rotate", force=True, quiet=True).report
    assert found.approximation["error"] > 0
    assert found.approximation["which"] == "seeded"
    assert "seeded inputs" in printed(found)


def test_streams_are_kept_without_inputs_and_where_that_is_asked_for(folder: Path) -> None:
    for options in ({}, {"inputs": str(folder / "inputs.npz"), "streams": "keep"}):
        found = onnx_mdp.prune(folder / "model.onnx", ratio="50%", force=True, quiet=True, **options)
        assert not found.report.approximation
        assert "approximate" not in printed(found.report)
        assert "selected" not in found.plan
        assert not any(group["kind"] == "normalized" for group in found.report.groups)


def test_a_locked_stream_stays_and_the_result_has_the_operators_of_the_model(folder: Path) -> None:
    found = onnx_mdp.prune(folder / "model.onnx", ratio="50%", streams="rotate", lock=("w0",), force=True, quiet=True)
    before, after = (
        [n.SerializeToString() for n in m.graph.node if n.op_type == "LayerNormalization"]
        for m in (onnx.load(folder / "model.onnx"), found.model)
    )
    assert before == after
    assert not found.report.approximation
    assert "selected" not in found.plan


def test_limits_count_what_a_result_has(folder: Path, lut: Path) -> None:
    options = {"inputs": str(folder / "inputs.npz"), "lut": lut, "effort": "fast", "recover": False, "quiet": True}
    report = onnx_mdp.prune(folder / "model.onnx", latency="100%", parameters="70%", **options).report
    (limit,) = report.limits
    assert limit["used"] == report.parameters["pruned"] <= 0.7 * report.parameters["dense"]


def test_groups_have_the_names_of_the_model(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        tensor.name = f"onnx::{tensor.name}"  # as exporters name what has no name
    for node in model.graph.node:
        node.input[:] = [f"onnx::{name}" if name.startswith("w") else name for name in node.input]
    onnx.save(model, tmp_path / "model.onnx")
    report = onnx_mdp.prune(tmp_path / "model.onnx", ratio="50%", streams="rotate", force=True, quiet=True).report
    assert report.approximation["groups"] == ["onnx::w0"]


def test_inspect_names_what_is_selected(tmp_path: Path) -> None:
    onnx.save(convnext(), tmp_path / "model.onnx")
    streams = onnx_mdp.inspect(tmp_path / "model.onnx")["streams"]
    assert [(s["units"], s["rotates"], s["selects"]) for s in streams] == [(16, False, True), (24, False, True)]
    assert all("grouped convolution" in stream["reason"] for stream in streams)


def test_a_latency_is_met(folder: Path, lut: Path) -> None:
    result = onnx_mdp.prune(
        folder / "model.onnx", latency="90%", inputs=str(folder / "inputs.npz"), lut=lut, effort="fast", quiet=True
    )
    assert result.report.latency.pruned_ms <= 1.03 * (result.report.latency.budget_ms or 0)
