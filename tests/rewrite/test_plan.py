"""Plan files: what is written names the input model's weights, and reading it back gives the same cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node as node

from onnx_mdp.errors import PlanError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.rewrite.plan import Plan, dense_plan, from_json, plan_edits, read_plan, to_json, uniform_plan
from tests.conftest import MODELS, analysis_of, build_model
from tests.cutting import random_plan


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
def test_plan_survives_json(name: str) -> None:
    analysis = analysis_of(MODELS / name)
    for seed in range(3):
        plan = random_plan(analysis, seed, blocks=True)
        back = from_json(analysis, json.loads(json.dumps(to_json(analysis, plan))))
        assert back.removed == plan.removed
        assert all(np.array_equal(back.kept[group], kept) for group, kept in plan.kept.items())


def test_plan_names_weights_and_axes_of_the_model(cnn: Path) -> None:
    analysis = analysis_of(cnn)
    content = to_json(analysis, random_plan(analysis, 0, blocks=False))
    for name, axes in content["initializers"].items():
        shape = analysis.network.shapes[name]
        for axis, kept in axes.items():
            assert kept == sorted(set(kept))
            assert len(kept) < shape[int(axis)]
            assert max(kept) < shape[int(axis)]


def shared_bias() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w1", "bias"], ["a"]),
        node("Conv", ["a", "w2", "bias"], ["b"]),
        node("Conv", ["b", "w3"], ["y"]),
    ]
    weights = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (2, 8, 1, 1), "bias": (8,)}
    return build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights)


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ([1, 2, 5], {"bias": [1, 2, 5]}),
        ([0, 3], {"bias": [1, 2, 5], "bias::use1": [0, 3]}),
        (list(range(8)), {"bias": [1, 2, 5], "bias::use1": list(range(8))}),
    ],
    ids=["alike", "differently", "one of them not at all"],
)
def test_shared_vectors_stand_once_if_cut_alike(second: list[int], names: dict[str, list[int]]) -> None:
    analysis = analysis_of(shared_bias())
    plan = Plan({"w1": np.array([1, 2, 5]), "w2": np.array(second)}, ())
    content = json.loads(json.dumps(to_json(analysis, plan)))
    assert {n: axes["0"] for n, axes in content["initializers"].items() if n.startswith("bias")} == names
    back = from_json(analysis, content)
    assert all(np.array_equal(back.kept[group], kept) for group, kept in plan.kept.items())


def test_uses_that_were_cut_differently_before_are_cut_again() -> None:
    """A pruned model stores each of them, at sizes of their own."""
    analysis = analysis_of(shared_bias())
    pruned = rewrite(analysis.network.model, plan_edits(analysis, Plan({"w1": np.arange(5), "w2": np.arange(8)}, ())))
    again = analysis_of(pruned)
    plan = Plan({"w1": np.array([1, 4]), "w2": np.arange(8)}, ())
    content = json.loads(json.dumps(to_json(again, plan)))
    assert content["initializers"]["bias"] == {"0": [1, 4]}
    back = from_json(again, content)
    assert {group: units.tolist() for group, units in back.kept.items()} == {"w1": [1, 4], "w2": list(range(8))}


def test_shared_tables_are_cut_where_they_are_added() -> None:
    nodes = [
        *(node("Conv", ["x", "w1"], ["a"]), node("Add", ["a", "table"], ["b"])),
        *(node("Conv", ["b", "w2"], ["c"]), node("Add", ["c", "table"], ["d"])),
        node("Conv", ["d", "w3"], ["y"]),
    ]
    weights = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (2, 8, 1, 1), "table": (1, 8, 1, 1)}
    analysis = analysis_of(build_model(nodes, {"x": (1, 3, 4, 4)}, ["y"], weights))
    plan = Plan({"w1": np.array([1, 2, 5]), "w2": np.arange(8)}, ())
    content = json.loads(json.dumps(to_json(analysis, plan)))
    assert content["initializers"]["table"] == {"1": [1, 2, 5]}
    assert content["initializers"]["table::use1"] == {"1": list(range(8))}
    back = from_json(analysis, content)
    assert all(np.array_equal(back.kept[group], kept) for group, kept in plan.kept.items())
    alike = to_json(analysis, Plan({"w1": np.arange(4), "w2": np.arange(4)}, ()))["initializers"]
    assert [name for name in alike if name.startswith("table")] == ["table"]
    kept = from_json(analysis, {"initializers": {"table": {"1": [0, 1, 2, 3]}}}).kept
    assert {group: units.tolist() for group, units in kept.items()} == {"w1": [0, 1, 2, 3], "w2": [0, 1, 2, 3]}


def test_dense_plan_cuts_nothing(vit: Path) -> None:
    analysis = analysis_of(vit)
    assert to_json(analysis, dense_plan(analysis))["initializers"] == {}


def test_uniform_plan_halves_every_group(vit: Path) -> None:
    analysis = analysis_of(vit)
    order = {group.name: np.arange(group.units)[::-1] for group in analysis.groups}
    plan = uniform_plan(analysis, order, 0.5, {group.name: 1 for group in analysis.groups}, 1)
    assert {g.units: len(plan.kept[g.name]) for g in analysis.groups} == {6: 3, 16: 8, 288: 144}
    assert plan.kept[analysis.groups[0].name].tolist() == [3, 4, 5]
    rounded = uniform_plan(analysis, order, 0.5, {group.name: 5 for group in analysis.groups}, 32)
    assert {g.units: len(rounded.kept[g.name]) for g in analysis.groups} == {6: 6, 16: 16, 288: 160}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed_blocks": ["no such block"]}, "no such block"),
        ({"initializers": {"absent": {"0": [0]}}}, "does not fit"),
        ({"initializers": {"stem.weight": {"0": [0, 99]}}}, "keeps index 99"),
        ({"initializers": {"head.weight": {"0": [0, 1]}}}, "does not fit"),
    ],
    ids=["unknown block", "unknown weight", "index too large", "locked axis"],
)
def test_plan_of_another_model_is_refused(cnn: Path, change: dict[str, object], message: str) -> None:
    analysis = analysis_of(cnn)
    with pytest.raises(PlanError, match=message):
        from_json(analysis, {"initializers": {}, "removed_blocks": [], **change})


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"groups": {}}'])
def test_file_that_is_no_plan(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(PlanError, match="not a plan file"):
        read_plan(path)
