"""The frontier: plans that keep what they promise, the reverse question, and what cannot be reached."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import onnx_mdp
from onnx_mdp.config import ApplyOptions
from onnx_mdp.errors import BudgetError, OptionError, OutputError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.latency.lut import LutFile
from onnx_mdp.pipeline import apply, pareto
from onnx_mdp.pipeline.pareto import ParetoResult
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime
from tests.conftest import MODELS, analysis_of

VIT = MODELS / "digits_vit.onnx"


@pytest.fixture(scope="module")
def found(lut: Path) -> ParetoResult:
    return pareto(VIT, from_="85%", to="35%", points=6, lut=lut)


def test_every_latency_is_met_by_the_plan_of_least_damage(found: ParetoResult) -> None:
    points = found.frontier.points
    assert [point.asked for point in points] == ["85%", "75%", "65%", "55%", "45%", "35%"]
    for point in points:
        assert point.asked_ms is not None
        assert 0.9 * point.asked_ms < point.predicted_ms <= point.asked_ms
        assert point.share == pytest.approx(point.predicted_ms / found.frontier.dense_ms)
        assert 0 < point.deviation_ms < point.predicted_ms
        assert point.status == "optimal"
        assert point.gap <= 1e-6
    for slower, faster in pairwise(points):
        assert slower.damage < faster.damage
        assert slower.predicted_ms > faster.predicted_ms
    assert not found.frontier.unreachable


def test_points_count_what_their_plans_count(found: ParetoResult, tmp_path: Path) -> None:
    for number in (0, 3, 5):
        point, path = found.frontier.points[number], tmp_path / f"{number}.json"
        path.write_text(json.dumps(found.plans[number]))
        model, proof = apply(VIT, path, ApplyOptions())
        assert proof.max_relative_error <= proof.tolerance
        assert parameter_count(model) == point.parameters
        assert sum(node_macs(analysis_of(model).network).values()) == point.macs
        assert found.plans[number]["removed_blocks"] == list(point.removed_blocks)
        widths = found.plans[number]["groups"]
        assert all(width in (0, widths[name]) for name, width in point.widths.items())


def test_prune_spends_no_more_than_the_frontier_says(found: ParetoResult, lut: Path) -> None:
    """The same program and tables: the damage of a measured plan lies near the predicted one's."""
    result = onnx_mdp.prune(VIT, latency="55%", lut=lut)
    assert result.report.solve is not None
    near = [point.damage for point in found.frontier.points if 0.4 <= point.share <= 0.7]
    assert min(near) <= result.report.solve.objective <= max(near)


def test_the_reverse_question_gives_the_same_plans(found: ParetoResult, lut: Path) -> None:
    """The fastest plan within the damage of a point is as fast, and within it."""
    for point in found.frontier.points[1:4]:
        (fastest,) = pareto(VIT, damage_max=point.damage, lut=lut).frontier.points
        assert fastest.asked_ms is None
        assert fastest.damage <= point.damage * (1 + 1e-9)
        assert fastest.share <= point.share * 1.06, "the two are measured against the dense model once each"


def test_a_single_point(lut: Path) -> None:
    (point,) = pareto(VIT, from_="60%", to="60%", lut=lut).frontier.points
    assert point.share <= 0.6
    (point,) = pareto(VIT, from_="60%", to="30%", points=1, lut=lut).frontier.points
    assert point.asked == "60%"


def test_limits_and_ties_hold_at_every_point(lut: Path) -> None:
    options = {"parameters": "80%", "max_removed": 1, "tie": "layers.*.fc1", "lock": "layers.0.attn*"}
    found = pareto(VIT, from_="100%", to="60%", points=3, lut=lut, **options)
    loose = pareto(VIT, from_="100%", to="60%", points=3, lut=lut)
    for point, free in zip(found.frontier.points, loose.frontier.points, strict=True):
        assert point.damage >= free.damage
        assert point.parameters <= 0.8 * found.frontier.parameters
        assert len(point.removed_blocks) <= 1
        assert len({width for name, width in point.widths.items() if name.endswith("fc1") and width}) == 1
        assert [limit["used"] <= limit["most"] for limit in point.limits] == [True, True]
    assert found.frontier.points[0].share < 0.98, "the parameters alone ask for a cut"


def test_what_no_plan_reaches_is_left_out_with_a_warning(lut: Path) -> None:
    found = pareto(VIT, from_="60%", to="30%", points=4, min_keep="60%", max_removed=2, lut=lut).frontier
    assert found.unreachable[-1] == "30%"
    assert [*(point.asked for point in found.points), *found.unreachable] == ["60%", "50%", "40%", "30%"]
    (said,) = [text for text in found.warnings if "cannot be reached" in text]
    assert "30% cannot be reached: the lowest that the table predicts is" in said


def test_a_frontier_of_which_nothing_can_be_reached(lut: Path) -> None:
    with pytest.raises(BudgetError, match=r"2%, 1% cannot be reached: the lowest that the table predicts.*--min-keep"):
        pareto(VIT, from_="2%", to="1%", points=2, min_keep="50%", lut=lut)


def test_too_little_damage_names_the_least_that_is_of_use(lut: Path) -> None:
    with pytest.raises(BudgetError, match=r"--damage-max 1e-06 leaves nothing to cut.*the least damage that does is 0"):
        pareto(VIT, damage_max=1e-6, lut=lut)
    with pytest.raises(BudgetError, match=r"--damage-max 0.01 cannot be met with --parameters 50%: the least damage"):
        pareto(VIT, damage_max=0.01, parameters="50%", lut=lut)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"from_": "30%", "to": "90%"}, r"--from 30% --to 90%: starts at the slowest; give --from 90% --to 30%"),
        ({"from_": "1ms", "to": "2ms"}, r"--from 1ms --to 2ms: starts at the slowest"),
        ({"from_": "fast"}, r"--from fast: not a time or share"),
        ({"to": "0%"}, r"--to 0%: must be more than zero"),
        ({"points": 0}, r"--points 0: must be 1 or more"),
        ({"damage_max": -1.0}, r"--damage-max -1: must be a number, 0 or more"),
        ({"damage_max": float("nan")}, r"--damage-max nan: must be"),
        ({"damage_max": 1.0, "to": "50%"}, r"--damage-max with --to: .*give either"),
        ({"plot": "f.txt"}, r"--plot f.txt: cannot be drawn; end the name with \.svg"),
        ({"solver": "simplex"}, r"--solver simplex: choose from"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pareto(VIT, **fields)


def test_mixed_units_are_compared_once_the_dense_latency_is_known(lut: Path) -> None:
    with pytest.raises(OptionError, match=r"--from 50% --to 1000ms: starts at the slowest"):
        pareto(VIT, from_="50%", to="1000ms", lut=lut)


def test_places_that_cannot_be_written_are_found_out_first(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        pareto(VIT, output=tmp_path / "nowhere" / "f.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: is a file"):
        pareto(VIT, plans=tmp_path / "file")


def test_a_device_that_is_not_here(lut: Path, tmp_path: Path) -> None:
    """Its frontier is that of its table, which is not written to."""
    found = pareto(VIT, from_="85%", to="35%", points=6, lut=lut, lossless=False)
    here, path = str(open_runtime(RuntimeSpec()).fingerprint), tmp_path / "slow.sqlite"
    other = "onnxruntime 9.9.9, a slower processor, 1 thread"
    with closing(LutFile(lut)) as source, closing(LutFile(path, create=True)) as target:
        entries = [row.entry for row in source.rows(here)]
        target.put(replace(entry, device=other, ms=4 * entry.ms) for entry in entries)
    before = path.read_bytes()
    foreseen = pareto(VIT, from_="85%", to="35%", points=6, lut=path, lut_device="slower", lossless=False).frontier
    assert path.read_bytes() == before
    assert (foreseen.device, foreseen.clock) == (other, "table")
    for there, here_point in zip(foreseen.points, found.frontier.points, strict=True):
        assert there.share <= float(there.asked.rstrip("%")) / 100
        assert there.damage == pytest.approx(here_point.damage, rel=0.25)
