"""Streams that layer normalizations read: rotated, cut, restored, and repeated from a plan file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_mdp
from onnx_mdp.config import ApplyOptions
from onnx_mdp.errors import OptionError, PlanError
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.importance.base import Curve, Scores, settle_order
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.pipeline.streams import read_bases, write_plans

MODELS = Path(__file__).parents[2] / "models"
VIT = MODELS / "digits_vit.onnx"
CALIBRATION = MODELS / "digits_calibration.npz"


def halved(folder: Path, **fields: Any) -> onnx_mdp.PruneResult:
    """The transformer at half of all widths; written to a folder with its plan."""
    output, plan = folder / "cut.onnx", folder / "plan.json"
    options = {"ratio": "50%", "multiple": 8, "recover": False, "force": True, "quiet": True, **fields}
    return onnx_mdp.prune(VIT, inputs=str(CALIBRATION), output=output, plan=plan, **options)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, onnx_mdp.PruneResult]:
    folder = tmp_path_factory.mktemp("streams")
    return folder, halved(folder)


def test_half_of_all_widths_leaves_less_than_a_third_of_the_parameters(
    result: tuple[Path, onnx_mdp.PruneResult],
) -> None:
    _, found = result
    assert found.report.parameters["pruned"] <= 0.3 * found.report.parameters["dense"]
    streams = [group for group in found.report.groups if group["kind"] == "stream"]
    assert [(group["units"], group["kept"]) for group in streams] == [(96, 48)]


def test_a_result_has_the_operators_of_the_model(result: tuple[Path, onnx_mdp.PruneResult]) -> None:
    folder, _ = result
    before, after = ({n.op_type for n in onnx.load(f).graph.node} for f in (VIT, folder / "cut.onnx"))
    assert "LayerNormalization" in after
    assert after - before <= {"Split"}  # packed projections are split where their parts are cut apart


def test_a_plan_is_repeated_with_the_bases_beside_it(result: tuple[Path, onnx_mdp.PruneResult]) -> None:
    folder, _ = result
    assert json.loads((folder / "plan.json").read_text())["bases"] == "plan.streams.npz"
    output = folder / "again.onnx"
    onnx_mdp.apply(VIT, folder / "plan.json", ApplyOptions(output=output))
    assert output.read_bytes() == (folder / "cut.onnx").read_bytes()


def test_plans_in_the_same_bases_share_a_file(tmp_path: Path) -> None:
    plans = {tmp_path / f"{number}.json": {"streams": ["w"], "number": number} for number in (1, 2)}
    write_plans(plans, {"w": np.eye(3)}, tmp_path / "streams.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "2.json", "streams.npz"]
    for path, plan in plans.items():
        content = json.loads(path.read_text())
        assert content == {**plan, "bases": "streams.npz"}
        assert np.array_equal(read_bases(path, content)["w"], np.eye(3))


def test_a_plan_without_its_bases_says_where_they_should_be(
    result: tuple[Path, onnx_mdp.PruneResult], tmp_path: Path
) -> None:
    folder, _ = result
    (tmp_path / "plan.json").write_text((folder / "plan.json").read_text())
    with pytest.raises(PlanError, match=r"plan\.streams\.npz.*beside"):
        onnx_mdp.apply(VIT, tmp_path / "plan.json")


def test_streams_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    found = halved(tmp_path, streams="keep")
    assert not any(group["kind"] == "stream" for group in found.report.groups)
    assert "streams" not in found.plan
    assert not list(tmp_path.glob("*.npz"))


def test_unknown_treatment_of_streams_is_refused() -> None:
    with pytest.raises(OptionError, match="--streams turn: choose from auto, rotate, keep"):
        onnx_mdp.prune(VIT, ratio="50%", streams="turn")


def test_inspect_tells_what_can_be_rotated() -> None:
    first, *widths = onnx_mdp.inspect(VIT)["streams"]
    assert (first["units"], first["rotates"]) == (96, True)
    assert {stream["rotates"] for stream in widths} == {True}
    assert {stream["name"].split("/")[-1] for stream in widths} == {"qk", "v"}


def test_units_that_have_to_stay_come_first_and_cost_nothing() -> None:
    network = prepare(onnx.load(VIT), {}, lossless=False).network
    plain = analyze(network)
    group = plain.groups[1]
    pinned = analyze(network, pins={group.members[0]})
    held = next(g for g in pinned.groups if g.name == group.name)
    assert held.pinned == 1
    assert held.floor == 2
    scores = _scores(pinned, held.name, held.units)
    found = settle_order(pinned, scores)
    assert found.order[held.name][0] == held.units - 1
    assert sorted(found.order[held.name]) == list(range(held.units))
    before, after = scores.curves[0].damage, found.curves[0].damage
    assert np.array_equal(after[1:], before[:-1])  # one unit of each width is taken by what has to stay
    assert after[-1] == 0


def test_units_that_are_in_order_stay_so() -> None:
    network = prepare(onnx.load(VIT), {}, lossless=False).network
    ranked = analyze(network, ranked={analyze(network).groups[1].members[0]})
    group = next(g for g in ranked.groups if g.ranked)
    scores = _scores(ranked, group.name, group.units)
    shuffled = {**scores.order, group.name: np.random.default_rng(0).permutation(group.units)}
    found = settle_order(ranked, Scores(shuffled, scores.curves, {}))
    assert found.order[group.name].tolist() == list(range(group.units))


def _scores(analysis: Analysis, name: str, units: int) -> Scores:
    """Scores by which the last unit is worth the least, as is one that is always zero."""
    order = {group.name: np.arange(group.units) for group in analysis.groups}
    damage = np.concatenate([np.linspace(1, 0, units), [0.0]])
    return Scores(order, (Curve(name, None, damage),), {})
