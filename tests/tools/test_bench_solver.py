"""The solver benchmark: what it prints, what it writes, and that it notices what is wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_mdp.solve.problem import Problem, open_gates, value
from onnx_mdp.solve.solve import solve
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import bench_solver
from programs import mindtpy
from programs.instances import FAMILIES, at_share, limits_between, make
from programs.record import Frontier, Growth, Record, violations


def test_table_and_json(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "bench_solver.py"), "resnet:12", "unet:3", "--levels", "4"]
    command += ["--shares", "0.6", "0.3", "--confirm", "60", "--json", str(tmp_path / "r.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("same") == 4
    written = json.loads((tmp_path / "r.json").read_text())
    assert [row["program"] for row in written["frontiers"]] == ["resnet 12 L4", "unet 3 L4"]
    assert all(row["proven"] == row["points"] == 12 and row["falls"] for row in written["frontiers"])
    for row in written["programs"]:
        assert (row["status"], row["solver"], row["verdict"]) == ("optimal", "decomposition", "same")
        assert row["gap"] <= 1e-6
        assert row["seconds"] > 0


@pytest.mark.parametrize("program", ["resnet", "resnet:x", "vgg:16"])
def test_wrong_programs_are_refused(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench_solver.main([program])
    assert stopped.value.code == 2
    assert "write family:size, such as resnet:54" in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_are_what_they_say(family: str) -> None:
    """Seeded, not monotone, with a dense plan that spends exactly its budget, and cuts that cost something."""
    size = {"resnet": 30, "deit": 3, "densenet": 8, "unet": 3}[family]
    problem, again, other = make(family, size, 13), make(family, size, 13), make(family, size, 7)
    (budget,) = problem.budgets
    assert budget.limit == again.budgets[0].limit != other.budgets[0].limit
    dense = {choice.name: len(choice.widths) - 1 for choice in problem.choices}
    kept = open_gates(problem.gates, {gate.name: True for gate in problem.gates})
    assert value(budget.terms, dense, kept) == pytest.approx(budget.limit)
    assert value(problem.objective, dense, kept) == pytest.approx(0, abs=1e-9)
    assert any((np.diff(term.table, axis=0) < 0).any() for term in budget.terms if term.choices)
    damages = [solve(at_share(problem, share)).objective for share in (1.0, 0.7, 0.4)]
    assert pytest.approx(damages[0], abs=1e-9) == 0
    assert 0 < damages[1] < damages[2]


def test_a_loose_bound_costs_no_memory() -> None:
    """At half the latency a good part of all entries is left; listing those would take four times the tables."""
    problem = at_share(make("deit", 24, 32), 0.5)
    tables = sum(term.table.nbytes for term in problem.budgets[0].terms)
    tracemalloc.start()
    answer = solve(problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.gap <= 1e-6
    assert peak <= 2 * tables


def test_records_that_break_a_promise_are_listed() -> None:
    problem = at_share(make("resnet", 12, 4), 0.5)
    record = Record.of("r", problem, 0.5).confirmed(problem, 60)
    frontier = Frontier.of("r", problem, limits_between(problem, 3, 0.4, 0.9))
    assert record.verdict == "same"
    assert violations([record], [frontier]) == []
    assert record.highs_objective is not None
    better = replace(record, highs_objective=0.99 * record.highs_objective)
    above = replace(record, highs_bound=1.01 * record.objective)
    hopeless = replace(record, highs_status="infeasible")
    for contradicted in (better, above, hopeless):
        assert contradicted.verdict == "CONTRADICTS"
        assert "HiGHS says" in violations([contradicted], [])[0]
    assert replace(record, highs_status="feasible").verdict == "not done"
    assert "not proven" in violations([replace(record, gap=1e-3)], [])[0]
    assert "not proven" in violations([replace(record, status="feasible")], [])[0]
    assert "1 points of the frontier not proven" in violations([], [replace(frontier, proven=2)])[0]
    assert "differs" in violations([], [replace(frontier, falls=False)])[0]


def test_growth_is_between_the_ends_of_a_family() -> None:
    problem = at_share(make("resnet", 12, 4), 0.5)
    record = Record.of("resnet 12 L4", problem, 0.5)
    named = {"resnet 12 L4": 1.0, "resnet 24 L4": 9.0, "resnet 48 L4": 2.0, "unet 3 L4": 1.0, "resnet 48 L8": 5.0}
    records = [replace(record, program=name, cpu_seconds=seconds) for name, seconds in named.items() for _ in "ab"]
    rows = [growth.row() for growth in Growth.of(records)]
    assert rows == [
        ("resnet L4", "12", "24", "2.00", "18.00", "9.00", "4.50"),
        ("resnet L4", "12", "48", "4.00", "4.00", "2.00", "0.50"),
    ]
    assert Growth.of(records)[0].as_json()["time_ratio"] == 9.0


def test_times_are_medians_of_runs() -> None:
    record = Record.of("r", at_share(make("resnet", 12, 4), 0.5), 0.5, runs=3)
    assert record.is_proven
    assert record.cpu_seconds > 0


def test_highs_is_not_given_what_it_leaves_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unfinished(record: Record, problem: Problem, seconds: float) -> Record:
        asked.append(record.share)
        return replace(record, highs_seconds=seconds, highs_objective=math.inf, highs_bound=-math.inf)

    monkeypatch.setattr(Record, "confirmed", unfinished)
    assert bench_solver.main(["resnet:12", "--levels", "4", "--confirm", "60", "--patience", "2"]) == 0
    assert asked == [0.85, 0.5]


@pytest.mark.skipif(not mindtpy.missing(), reason="all that --reference needs is installed")
def test_reference_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_solver.main(["resnet:12", "--reference"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("--reference: ")
    assert "install" in error


@pytest.mark.skipif(bool(mindtpy.missing()), reason=mindtpy.missing())
def test_reference_is_never_better_than_the_optimum() -> None:
    problem = at_share(make("resnet", 12, 3), 0.5)
    reference = mindtpy.solve(problem)
    assert reference.objective >= solve(problem).objective * (1 - 1e-6)
    assert reference.seconds > 0
