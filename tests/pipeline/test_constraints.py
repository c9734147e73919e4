"""Ties, further budgets and a limit on removed blocks: refused where they mean nothing, and exact where they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_mdp
from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import BudgetError, OptionError
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import load
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.weights import model_bytes
from onnx_mdp.groups.find import Analysis
from onnx_mdp.groups.tie import find_ties
from onnx_mdp.importance.magnitude import MagnitudeScorer
from onnx_mdp.latency.levels import Floor, Grid, group_levels
from onnx_mdp.pipeline.constraints import Constraints, find_constraints
from onnx_mdp.pipeline.program import Program
from onnx_mdp.quantities import parse_amount
from onnx_mdp.rewrite.plan import plan_edits
from onnx_mdp.solve.problem import Answer, Status, open_gates, value
from onnx_mdp.solve.solve import solve
from tests.conftest import MODELS, analysis_of

BUDGETS = {"parameters": "60%", "size": "70%", "macs": "55%"}


def program_of(path: Path, **fields: object) -> tuple[Program, Constraints]:
    """The program of a model without latency tables, within constraints."""
    analysis = analysis_of(path)
    constraints = find_constraints(PruneOptions(**fields), analysis, load(path)[0])  # type: ignore[arg-type]
    levels = group_levels(analysis, Grid(8, 8), Floor(), constraints.ties)
    return Program(analysis, MagnitudeScorer(analysis).score(analysis), [], levels, {}, constraints), constraints


def random_answer(program: Program, seed: int) -> Answer:
    """Any levels, and any blocks removed."""
    rng = np.random.default_rng(seed)
    problem = program.unhurried()
    levels = {choice.name: int(rng.integers(len(choice.widths))) for choice in problem.choices}
    kept = open_gates(problem.gates, {gate.name: bool(rng.random() < 0.7) for gate in problem.gates})
    return Answer(Status.FEASIBLE, 0.0, 0.0, levels, kept, "", 0.0)


def macs(model: onnx.ModelProto) -> int:
    return sum(node_macs(analysis_of(model).network).values())


@pytest.mark.parametrize("name", ["digits_cnn.onnx", "digits_vit.onnx"])
@pytest.mark.parametrize("tie", [(), ("stage1*conv1", "stage3*widen", "layers.*fc1")])
def test_budgets_count_what_the_rewritten_model_counts(name: str, tie: tuple[str, ...]) -> None:
    path = MODELS / name
    matching = tuple(p for p in tie if p.startswith("stage") == (name == "digits_cnn.onnx"))
    program, constraints = program_of(path, **BUDGETS, max_removed=2, tie=matching)
    seen = set()
    for seed in range(8):
        answer = random_answer(program, seed)
        plan = program.plan(answer)
        model = rewrite(program.analysis.network.model, plan_edits(program.analysis, plan))
        spent = [value(budget.terms, answer.levels, answer.kept) for budget in program.budgets]
        parameters, size, work, removed = (s + limit.fixed for s, limit in zip(spent, constraints.limits, strict=True))
        assert (parameters, work, removed) == (parameter_count(model), macs(model), len(plan.removed))
        assert model_bytes(model) <= size <= model_bytes(model) + 0.03 * load(path)[0].size
        assert [limit.used(program.analysis, plan) for limit in constraints.limits] == [parameters, size, work, removed]
        seen.add(parameters)
    assert len(seen) > 4


def test_several_budgets_are_solved_to_the_optimum(cnn: Path) -> None:
    """The MILP takes over where several budgets bind; each alone gives a bound that all together must respect."""
    program, constraints = program_of(cnn, **BUDGETS, max_removed=1)
    answer = solve(program.unhurried())
    assert answer.status == "optimal"
    plan = program.plan(answer)
    model = rewrite(program.analysis.network.model, plan_edits(program.analysis, plan))
    assert parameter_count(model) <= constraints.limits[0].most
    assert model_bytes(model) <= constraints.limits[1].most
    assert macs(model) <= constraints.limits[2].most
    assert len(plan.removed) <= 1
    alone = [solve(program_of(cnn, **{name: text})[0].unhurried()).objective for name, text in BUDGETS.items()]
    assert max(alone) <= answer.objective * (1 + 1e-9)


def test_tied_groups_keep_equally_many_and_cost_damage(cnn: Path) -> None:
    free, _ = program_of(cnn, macs="40%")
    tied, constraints = program_of(cnn, macs="40%", tie=("stage1*conv1", "stage1.?.conv1", "stage3*widen"))
    assert [[g.name for g in tie] for tie in constraints.ties] == [
        ["stage1.0.conv1", "stage1.1.conv1"],
        ["stage3.1.widen", "stage3.2.widen"],
    ]
    found, loose = solve(tied.unhurried()), solve(free.unhurried())
    assert found.status == loose.status == "optimal"
    assert found.objective >= loose.objective * (1 - 1e-9)
    widths, removed = tied.plan(found).widths(), tied.plan(found).removed
    for tie in constraints.ties:
        homes = [tied.analysis.homes.get(group.name) for group in tie]
        kept = {widths[g.name] for g, home in zip(tie, homes, strict=True) if home not in removed}
        assert len(kept) <= 1
    highs = solve(tied.unhurried(), "highs")
    assert highs.objective == pytest.approx(found.objective, rel=1e-6)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing*", r"--tie nothing\*: no group has such a name; onnx-mdp inspect"),
        ("stage1.0.conv1", "--tie stage1.0.conv1: matches stage1.0.conv1 alone"),
        ("stage*", r"--tie stage\*: stage1.0.conv1 has 32 units and stage2.0.conv1 has 64; tie groups of equal"),
    ],
)
def test_ties_that_cannot_be_are_refused(cnn_analysis: Analysis, pattern: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find_ties(cnn_analysis, (pattern,))


@pytest.fixture
def cnn_analysis(cnn: Path) -> Analysis:
    return analysis_of(cnn)


@pytest.mark.parametrize(
    ("text", "option", "dense", "found"),
    [("60%", "--macs", 200, 120), ("12M", "--parameters", 0, 12e6), ("1.2G", "--macs", 0, 1.2e9)]
    + [("20MB", "--size", 0, 20e6), ("2 MiB", "--size", 0, 2 * 2**20), ("500", "--parameters", 0, 500)],
)
def test_amounts(text: str, option: str, dense: float, found: float) -> None:
    assert parse_amount(text, option).of(dense) == pytest.approx(found)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latency": "70%", "size": "20M"}, r"--size 20M: not an amount above 0.*20MB, 500kB or 60%"),
        ({"latency": "70%", "parameters": "0%"}, r"--parameters 0%: not an amount above 0"),
        ({"latency": "70%", "macs": "many"}, r"--macs many: not an amount above 0"),
        ({"latency": "70%", "max_removed": -1}, r"--max-removed -1: must be 0 or more"),
        ({"ratio": "50%", "tie": "stage1*"}, r"--tie with --ratio: a uniform cut chooses nothing; use --latency"),
        ({"ratio": "50%", "max_removed": 0}, r"--max-removed with --ratio"),
    ],
)
def test_constraints_that_mean_nothing_are_refused(cnn: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onnx_mdp.prune(cnn, **fields)


def test_pruning_within_further_budgets(cnn: Path, lut: Path) -> None:
    result = onnx_mdp.prune(cnn, latency="70%", parameters="50%", max_removed=1, tie="stage3*widen", lut=lut)
    assert result.report.latency.ratio <= 0.70
    parameters, removed = result.report.limits
    assert parameters["used"] == parameter_count(result.model) <= parameters["most"] == 0.5 * parameters["dense"]
    assert removed["used"] == len(result.plan["removed_blocks"]) <= 1
    widths, gone = result.plan["groups"], {g["name"] for g in result.report.groups if g["kept"] == 0}
    assert len({widths[name] for name in ("stage3.1.widen", "stage3.2.widen") if name not in gone}) <= 1


def test_a_budget_that_asks_for_more_than_the_latency_decides(cnn: Path, lut: Path) -> None:
    result = onnx_mdp.prune(cnn, latency="100%", parameters="30%", lut=lut)
    assert "--parameters 30% already asks for more than --latency 100%" in result.report.reason
    (limit,) = result.report.limits
    assert 0.9 * limit["most"] <= limit["used"] == parameter_count(result.model) <= limit["most"]
    assert result.report.solve is not None
    assert result.report.solve.status == "optimal"


def test_an_unreachable_budget_names_the_least(cnn: Path, lut: Path) -> None:
    with pytest.raises(BudgetError, match=r"--parameters 100 cannot be reached: the least is [\d,]+, \d\.\d% of"):
        onnx_mdp.prune(cnn, latency="70%", parameters="100", lut=lut)


def test_budgets_that_exclude_each_other_are_named(cnn: Path, lut: Path) -> None:
    with pytest.raises(BudgetError, match=r"--parameters 35% and --max-removed 0 cannot be met together"):
        onnx_mdp.prune(cnn, latency="90%", parameters="35%", max_removed=0, min_keep="60%", lut=lut)
